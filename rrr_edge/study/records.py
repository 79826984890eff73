"""The records of a study: finished cells, failures, and engines that were timed together."""

from functools import cached_property
from statistics import median
from typing import Annotated, Literal, Self

from pydantic import Field

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.measurements import Measurement, Subject
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.errors import CannotRunHere, RRREdgeError
from rrr_edge.study.plan import Cell
from rrr_edge.timing.quiet import Loads


class EngineResult(Record):
    """The engine of a cell: its accuracy and that of the network on the bundle's `images`, which are test photos."""

    name: str
    card_sha256: str
    bytes: int
    images: int
    accuracy: float
    accuracy_reference: float
    precision_found: dict[str, float]


class CurvePoint(Record):
    """`validation` is known where the data set has photos for it and they were judged after this epoch."""

    epoch: int
    train: float
    validation: float | None = None


class CellRecord(Sealed):
    """A finished cell. `network` is that of the recipe in torch, judged on all test photos (of a cell for validation:
    on the photos that were held out).

    Without an `engine` none was asked, or it was `refused`, in these words. `train_s` are the seconds of all trainings
    on `threads` threads, those of earlier steps of a chain among them; `own_s` are without the steps that were another
    cell's already. `curve` has the accuracy on the training photos as they were augmented.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge study cell"] = "rrr-edge study cell"
    cell: Cell
    data_sha256: str
    weights_sha256: str
    classes: int
    images: dict[str, int]
    accuracy: Accuracy
    cost: Cost
    engine: EngineResult | None
    refused: str = ""
    train_s: float
    own_s: float
    threads: int
    curve: tuple[CurvePoint, ...]
    notes: tuple[str, ...]
    machine: str
    versions: dict[str, str]
    created: str

    @property
    def error(self) -> float:
        return 1 - self.accuracy.accuracy

    @property
    def core_hours(self) -> float:
        """What a network like this takes."""
        return self.train_s * self.threads / 3600

    @property
    def own_core_hours(self) -> float:
        """What the study has spent for this one."""
        return self.own_s * self.threads / 3600

    def finishes(self, cell: Cell) -> bool:
        """Whether nothing of `cell` is left to do."""
        same = self.cell.makes_same_network(cell)
        return same and (cell.target is None or (self.cell.target, self.cell.limits) == (cell.target, cell.limits))


class Begun(Sealed):
    """A cell that was begun: the bundle that its first `steps` steps were taken from, relative to the study's folder.

    "" where the cell takes all its steps itself. `start_sha256` is of that bundle's weights.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge study begun"] = "rrr-edge study begun"
    cell: Cell
    start: str = ""
    start_sha256: str = ""
    steps: int = 0


class TimingGroup(Record):
    """Engines that are timed in turns: those of a data set and a seed, by their cells."""

    kind: Literal["timing"] = "timing"
    data: str
    seed: int
    cells: tuple[Cell, ...] = Field(min_length=1)
    runs: int

    @property
    def words(self) -> str:
        return f"{self.data}, seed {self.seed}: times"


class TimedEngine(Record):
    """`samples_ms` are single images, one a round, in the rounds of the group."""

    method: str
    card_sha256: str
    subject: Subject
    samples_ms: tuple[float, ...] = Field(min_length=2)


class Timing(Sealed):
    """The engines of a group, timed in turns on one machine with nothing else of the study running.

    `runs` rounds were asked for; on a machine that is never quiet there are fewer. `background_load` is the share of
    the cores' time that other programs took meanwhile, and `loads` that of each round, where they are known;
    `unsettled` are the methods whose times were still drifting when their warm-up ended.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge study timing"] = "rrr-edge study timing"
    data: str
    seed: int
    target: Target
    runs: int
    engines: tuple[TimedEngine, ...]
    loads: Loads = ()
    background_load: float | None
    unsettled: tuple[str, ...]
    environment: Environment
    created: str

    def median_ms(self, method: str) -> float:
        return median(self.measurements[method].judged_ms)

    @cached_property
    def measurements(self) -> dict[str, Measurement]:
        return {
            engine.method: Measurement(
                name=engine.method,
                subject=engine.subject,
                samples_ms=engine.samples_ms,
                loads=self.loads,
                background_load=self.background_load,
            )
            for engine in self.engines
        }


Work = Annotated[Cell | TimingGroup, Field(discriminator="kind")]


class Job(Record):
    """What is to be done in which study."""

    study: str
    work: Work


class Failure(Sealed):
    """What could not be done, why, and the exit code that `rrr-edge` gives it; `trace` is of a fault of ours."""

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge study failure"] = "rrr-edge study failure"
    work: Work
    error: str
    advice: str = ""
    exit_code: int
    trace: str = ""

    @classmethod
    def of(cls, work: Cell | TimingGroup, error: BaseException, trace: str = "") -> Self:
        if isinstance(error, RRREdgeError):
            return cls(work=work, error=str(error), advice=error.advice, exit_code=error.exit_code)
        return cls(work=work, error=f"{type(error).__name__}: {error}", exit_code=1, trace=trace)

    @classmethod
    def died(cls, work: Cell | TimingGroup, how: str, advice: str) -> Self:
        error = CannotRunHere(f"Its process {how}, each time it was tried.", advice=advice)
        return cls.of(work, error)
