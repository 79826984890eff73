"""Evaluations: how often answers are right, by class, rank and confidence, and beside a reference's answers."""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.doubt_found import DoubtFound
from rrr_edge.bundle.files import FileEntry, require_file, sha256
from rrr_edge.bundle.folder import ENGINE, EVALUATION, MODEL, WEIGHTS, Bundle
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.reference import Floats
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.errors import BadInput, GateFailed, counted
from rrr_edge.timing.paired import mcnemar, paired_difference
from rrr_edge.timing.statistics import Interval, wilson_interval

# What is evaluated besides engines, and its file.
ONNX, NETWORK = "onnx", "network"
_FILES = {ONNX: MODEL, NETWORK: WEIGHTS}
Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]
CALIBRATION_BINS = 15
# The most confident mistakes that are kept, and the largest k of top-k.
MISTAKES = 24
_LARGEST_K = 5


class PairedDifference(Record):
    """Two classifiers' answers to the same `images`, of which `only_own` and `only_reference` one alone has right.

    `difference` is the own accuracy minus the reference's. `interval` is Tango's score interval of it at 95%,
    `p_value` that of McNemar's exact test that both are right equally often.
    """

    images: int = Field(ge=1)
    only_own: int = Field(ge=0)
    only_reference: int = Field(ge=0)
    difference: float
    interval: Interval
    p_value: float

    @classmethod
    def of(cls, own_right: Bools, reference_right: Bools) -> Self:
        """From which of the photos [N] each has right. Raises ValueError where these are not the same number."""
        if own_right.shape != reference_right.shape:
            raise ValueError(f"{len(own_right)} and {len(reference_right)} answers make no pairs")
        images = len(own_right)
        own, reference = int((own_right & ~reference_right).sum()), int((reference_right & ~own_right).sum())
        return cls(
            images=images,
            only_own=own,
            only_reference=reference,
            difference=(own - reference) / images,
            interval=paired_difference(reference, own, images),
            p_value=mcnemar(reference, own),
        )

    @property
    def short(self) -> str:
        """Such as "-1.2 (-3.0 to 0.5)", in percentage points."""
        low, high = (_points(edge) for edge in self.interval)
        return f"{_points(self.difference)} ({low} to {high})"

    @property
    def words(self) -> str:
        """Such as "-1.2 points (95% interval -3.0 to 0.5, p = 0.23)"."""
        low, high = (_points(edge) for edge in self.interval)
        p = f"p = {self.p_value:.2g}" if self.p_value >= 0.001 else "p < 0.001"
        return f"{_points(self.difference)} points (95% interval {low} to {high}, {p})"


def _points(share: float) -> str:
    """Percentage points with a decimal, and their sign; 0.0 has none."""
    words = f"{100 * share:+.1f}"
    return "0.0" if words in ("+0.0", "-0.0") else words


class ReferenceComparison(Record):
    """The accuracy of a bundle's reference network on some photos, and the paired difference of another's to it.

    `network` is what it is, such as "ResNet152"; `sha256` is of its weights; `interval` is Wilson's.
    """

    name: str
    network: str
    sha256: str
    params: int
    macs: int
    accuracy: float
    interval: Interval
    paired: PairedDifference

    @property
    def words(self) -> str:
        return f"{self.name} ({self.network}) is right on {self.accuracy:.1%} of the same photos"


class Mistake(Record):
    """A wrong answer with its `probability`, and the one that was given to the photo's own class."""

    photo: str
    label: str
    answer: str
    probability: float
    of_label: float


class Evaluation(Sealed):
    """How `what` (an engine's name, "onnx" or "network") answers labelled photos.

    `top_k` are the shares of the photos whose class is among the k likeliest answers. `confusion[i][j]` counts the
    photos of class i that are taken for class j, in the order of `labels`. `mistakes` are the most confident ones.
    `photos` names where the photos come from, `photos_sha256` is of their pixels and classes, `what_sha256` of the
    engine's card, the graph or the weights. `contact_sheet` shows the mistakes. `doubt` is what its doubt is worth.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge evaluation"] = "rrr-edge evaluation"
    bundle: str
    manifest_sha256: str
    what: str
    what_sha256: str
    photos: str
    photos_sha256: str
    labels: tuple[str, ...]
    accuracy: Accuracy
    top_k: dict[int, float]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    reference: ReferenceComparison | None = None
    contact_sheet: FileEntry | None = None
    doubt: DoubtFound | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str]
    machine: str
    created: str

    @model_validator(mode="after")
    def _counts_every_photo(self) -> Self:
        sizes = {len(self.confusion), *map(len, self.confusion)}
        if sizes != {len(self.labels)} or sum(map(sum, self.confusion)) != self.accuracy.images:
            raise ValueError(f"the confusion matrix does not count {self.accuracy.images} photos of these classes")
        return self

    @classmethod
    def read(cls, bundle: Bundle, what: str) -> Self:
        """The stored evaluation of `what`. Raises BadInput and CorruptArtifact."""
        folder = bundle.evaluation_folder(what)
        found = cls.from_json_file(folder / EVALUATION)
        for sheet in (found.contact_sheet, found.doubt.unsure_sheet if found.doubt else None):
            if sheet:
                require_file(folder / sheet.name, sheet, command_line("evaluate", bundle.path))
        return found

    @property
    def words(self) -> str:
        """The result in one sentence."""
        low, high = self.accuracy.interval
        return (
            f"{self.what} is right on {self.accuracy.accuracy:.1%} of {self.accuracy.images} photos "
            f"(95% interval {low:.1%} to {high:.1%}, Wilson's)"
        )


def sha256_of(bundle: Bundle, what: str) -> str:
    """Of what is evaluated: an engine's card, model.onnx, or the network's weights; "" where it has gone."""
    if what in _FILES:
        return next((entry.sha256 for entry in bundle.manifest.files if entry.name == _FILES[what]), "")
    card = bundle.engine_folder(what) / ENGINE
    return sha256(card) if card.is_file() else ""


def judge(probabilities: Floats, labels: Labels, names: Sequence[str]) -> Accuracy:
    """Judge `probabilities` [N, K] by `labels` [N]; a class without images has no entry in `per_class`.

    Raises BadInput where there is nothing to judge, or names, labels and probabilities do not belong together, and
    GateFailed where some are no numbers.
    """
    if not len(labels):
        raise BadInput("There are no images to judge the network by.")
    if probabilities.shape != (len(labels), len(names)):
        raise BadInput(
            f"Probabilities of shape {list(probabilities.shape)} do not fit {len(labels)} labels "
            f"of {len(names)} classes."
        )
    require_numbers(probabilities)
    right = probabilities.argmax(1) == labels
    return Accuracy(
        images=len(labels),
        correct=int(right.sum()),
        accuracy=float(right.mean()),
        interval=wilson_interval(int(right.sum()), len(labels)),
        calibration_error=calibration_error(probabilities.max(1), right),
        per_class={name: float(right[labels == index].mean()) for index, name in enumerate(names) if index in labels},
    )


def require_numbers(probabilities: Floats) -> None:
    """Raise GateFailed where an answer of `probabilities` [N, K] is not finite: the first class would be its best."""
    broken = int((~np.isfinite(probabilities)).any(1).sum())
    if broken:
        raise GateFailed(
            f"{broken} of {counted(len(probabilities), 'answer')} are no numbers (NaN or infinite).",
            advice="Of an engine another precision may be right, such as --precision fp32.",
        )


def calibration_error(confidences: Floats, right: Bools) -> float:
    """The expected calibration error of `confidences` [N] (Naeini et al. 2015; Guo et al. 2017, eq. 3).

    The mean over 15 equal bins of |share that is right - mean confidence|, weighted by the photos in each. The bins
    are closed on the left, the last one on both sides.
    """
    bins = np.minimum((confidences.astype(np.float64) * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, right - confidences.astype(np.float64), CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(right))


def confusion_of(answers: Labels, labels: Labels, classes: int) -> tuple[tuple[int, ...], ...]:
    """How many photos of each class (row) were taken for each class (column)."""
    counts = np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def top_k_of(probabilities: Floats, labels: Labels) -> dict[int, float]:
    """For k from 1 to 5, and less than the classes, the share of photos whose class is among the k likeliest.

    Of equal probabilities the class that comes first counts as likelier, as in `argmax`.
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return {k: float((rank < k).mean()) for k in range(1, min(_LARGEST_K, probabilities.shape[1] - 1) + 1)}


def confident_mistakes(probabilities: Floats, labels: Labels, limit: int = MISTAKES) -> NDArray[np.int64]:
    """The indices of the wrong answers, the most probable first, at most `limit`."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")[:limit]]


def worst_confusions(evaluation: Evaluation, limit: int = 10) -> list[tuple[str, str, int, int]]:
    """Class, what it is taken for, how often, of how many photos: the most frequent first."""
    found = [
        (label, evaluation.labels[j], count, sum(row))
        for i, (label, row) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True))
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda row: (-row[2], -row[2] / row[3]))[:limit]
