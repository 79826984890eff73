"""The record of a calibration: what an engine's probabilities are worth, and what is promised of its answers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rrr_edge.bundle.commands import asked, command_line
from rrr_edge.bundle.doubt import Doubt, Measure
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE, Bundle
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.timing.statistics import Interval

# Beside the engine.
CALIBRATED = "calibrated.json"
# What a calibration was made with, besides other photos; the second of a data set by its name.
OWN_TEST_PHOTOS = "the test photos in the bundle"
HELD_OUT = "the photos of {} that were held out to validate"


class Ranking(Record):
    """How well a measure of doubt ranks wrong answers above right ones: the area under the ROC curve.

    `interval` is Newcombe's at 95%.
    """

    measure: Measure
    area: float
    interval: Interval


class Promise(Record):
    """With `confidence`, at most `max_error` of the answers that are given are wrong, for photos of the same kind.

    Answers are given up to the doubt `threshold`. It was tested on `photos` that had no part in choosing it: of these
    `answered` were answered, `wrong` of them wrongly. `bound` is Clopper and Pearson's for them, at `confidence`.
    """

    max_error: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0.5, lt=1)
    threshold: float = Field(ge=0, le=1)
    photos: int
    answered: int
    wrong: int
    bound: float

    @property
    def words(self) -> str:
        return (
            f"at most {self.max_error:.3g} of the answers that it gives are wrong, with {self.confidence:.3g} "
            f"confidence, for photos of the same kind: it answers {self.answered / self.photos:.1%} of them "
            f"({self.wrong} of {self.answered} answers were wrong in the test)"
        )


class LabelSets(Record):
    """Sets of labels that hold the right one with a probability of `coverage` at least.

    A label is in the set from its probability in `levels` [K] on. Classes with `own` levels keep `coverage` each, the
    others together.
    """

    coverage: float = Field(gt=0, lt=1)
    levels: tuple[float, ...]
    own: tuple[bool, ...]
    mean_size: float


class ClassAnswers(Record):
    """Of the `photos` of a class, how many are `answered`, and how many of these answers are `wrong`."""

    label: str
    photos: int
    answered: int
    wrong: int


class Calibration(Sealed):
    """What an engine's answers to labelled photos that it was not trained on say of it.

    `temperature` divides the logarithms of the probabilities; the expected calibration errors are without it, and with
    one that was fitted on other photos. `measure` is what ranked mistakes best on the photos that plan; `rankings` are
    empty where nothing, or everything, was wrong there. `engine_sha256` is of the engine's card, `photos_sha256` of
    the photos' pixels and classes.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge calibration"] = "rrr-edge calibration"
    bundle: str
    engine: str
    engine_sha256: str
    photos: str
    photos_sha256: str
    images: int
    correct: int
    labels: tuple[str, ...]
    temperature: float = Field(gt=0)
    error_before: float
    error_after: float
    measure: Measure
    rankings: tuple[Ranking, ...]
    promise: Promise | None
    sets: LabelSets | None
    by_class: tuple[ClassAnswers, ...]
    notes: tuple[str, ...] = ()
    machine: str
    created: str

    @model_validator(mode="after")
    def _has_a_level_for_each_label(self) -> Self:
        if self.sets and not len(self.labels) == len(self.sets.levels) == len(self.sets.own):
            raise ValueError("its levels do not fit its labels")
        return self

    @property
    def doubt(self) -> Doubt:
        """What an engine's answers are judged by."""
        return Doubt(
            measure=self.measure,
            threshold=self.promise.threshold if self.promise else 1.0,
            temperature=self.temperature,
            levels=self.sets.levels if self.sets else None,
        )

    @property
    def words(self) -> str:
        said = f"Promised of {self.engine}: {self.promise.words}." if self.promise else f"{self.engine} always answers."
        return (
            f"{said} Right on {self.correct} of {self.images} photos; temperature {self.temperature:.3g}, expected "
            f"calibration error {self.error_before:.3f} without and {self.error_after:.3f} with one."
        )

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine) -> Self | None:
        """That of `engine`; None where it was not calibrated.

        Raises CorruptArtifact where it has changed since it was written, or is another engine's.
        """
        path = bundle.engine_folder(engine.name) / CALIBRATED
        if not path.is_file():
            return None
        advice = f"Run: {command_line('calibrate', bundle.path, 'PHOTOS', **asked(engine.target))}"
        try:
            found = cls.from_json_file(path)
        except BadInput as error:
            raise CorruptArtifact(str(error), advice=advice) from error
        if found.engine_sha256 != sha256(path.with_name(ENGINE)) or found.labels != bundle.manifest.labels:
            raise CorruptArtifact(f"{path} is the calibration of another engine.", advice=advice)
        return found
