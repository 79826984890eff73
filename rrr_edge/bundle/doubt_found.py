"""The record of what doubt is worth on labelled photos: how well probabilities and measures tell right from wrong."""

from typing import Self

import numpy as np

from rrr_edge.bundle.calibration import ClassAnswers, Promise, Ranking
from rrr_edge.bundle.doubt import Doubts, Measure
from rrr_edge.bundle.files import FileEntry
from rrr_edge.bundle.record import Record

BINS = 15


class Bin(Record):
    """Answers of about the same confidence: how many, the mean confidence, and the share that is right."""

    photos: int
    confidence: float
    right: float

    @classmethod
    def all_of(cls, confidences: Doubts, right: np.ndarray) -> tuple[Self, ...]:
        """Those of 15 equal bins that have photos, as in the expected calibration error."""
        bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
        return tuple(
            cls(
                photos=int((bins == b).sum()),
                confidence=float(confidences[bins == b].mean()),
                right=float(right[bins == b].mean()),
            )
            for b in np.unique(bins)
        )


class RiskCurve(Record):
    """The share of wrong answers among those that a measure doubts least; `coverage` is what share of all these are."""

    measure: Measure
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class Foreign(Record):
    """How many `pictures` of none of the classes, from `folder`, are `answered` all the same.

    `rankings` say how well each measure tells them from the photos.
    """

    folder: str
    pictures: int
    answered: int
    rankings: tuple[Ranking, ...]


class DoubtFound(Record):
    """How many of the `photos` are `answered`, up to the threshold of the `promise` in `measure`, how many `wrong`.

    Without a promise all are answered; the measure of an engine that was not `calibrated` is the plain probability.
    `error_after` is the expected calibration error with the `temperature`, `plain` and `tempered` are the answers by
    confidence without and with it. `rankings` say how well each measure tells mistakes from right answers; empty
    without both. `unsure_sheet` shows the right answers that are doubted most.
    """

    measure: Measure
    temperature: float
    promise: Promise | None
    same_photos: bool
    photos: int
    answered: int
    wrong: int
    error_after: float
    plain: tuple[Bin, ...]
    tempered: tuple[Bin, ...]
    rankings: tuple[Ranking, ...]
    curves: tuple[RiskCurve, ...]
    by_class: tuple[ClassAnswers, ...]
    foreign: Foreign | None = None
    unsure_sheet: FileEntry | None = None
    calibrated: bool = False

    @property
    def chosen(self) -> Measure | None:
        """The measure that a calibration chose; older records tell of one by what it found."""
        calibrated = self.calibrated or self.promise is not None or self.temperature != 1
        return self.measure if calibrated else None

    @property
    def words(self) -> str:
        """What is answered and how much of it is wrong, beside what was promised."""
        share = f"{self.wrong / self.answered:.1%} of them wrong" if self.answered else "so none wrong"
        said = f"{self.answered} of {self.photos} photos are answered, {share}"
        if self.promise is None:
            return f"{said}; nothing was promised"
        own = ", by a calibration with these very photos" if self.same_photos else ""
        promised = f"at most {self.promise.max_error:.1%} with {100 * self.promise.confidence:g}% confidence"
        return f"{said}; promised were {promised}{own}"
