"""The records of an engine and of a prepared graph."""

from typing import Literal

from pydantic import Field

from rrr_edge.bundle.files import FileEntry
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.search import SearchResult
from rrr_edge.bundle.target import Lowering, Precision, Target
from rrr_edge.bundle.verification import Verification


class Origin(Record):
    """All that a prepared graph follows from: our `preparation`, and the version of `modelopt` if that took part.

    `turing` says that it is written for GPUs of compute capability 7.5 too.
    """

    model_sha256: str
    precision: Precision
    lowering: Lowering
    calibration: str
    preparation: int
    modelopt: str | None
    turing: bool = False
    quantisation: Quantisation | None = None


class Prepared(Sealed):
    """The card of a graph with its precision in it, verified before there is an engine.

    `precision_found` are the shares of the MACs, counted on the graph; `notes` what a user should know of how it was
    made. `quantisation` is what a `search` has found, or the origin's.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge prepared graph"] = "rrr-edge prepared graph"
    origin: Origin
    file: FileEntry
    verification: Verification
    precision_found: dict[str, float]
    notes: tuple[str, ...] = ()
    quantisation: Quantisation | None = None
    search: SearchResult | None = None
    created: str
    machine: str

    @property
    def bytes(self) -> int:
        return self.file.bytes


class PairTime(Record):
    """A convolution of a factored network by the backend's own clock, as a pair and as one.

    Where it is not `quiet`, other programs disturbed the runs, and it may be far off.
    """

    name: str
    pair_ms: float
    product_ms: float
    quiet: bool = True

    @property
    def gain_ms(self) -> float:
        """What the pair saves of each image's time."""
        return self.product_ms - self.pair_ms


class Engine(Sealed):
    """The card of an engine.

    `lowering` is how its branches and pairs were written, `products` are the pairs that "mixed" wrote as one;
    `lowering_ratios` compare the others, where they were measured, and `pair_times` each pair with its product.
    `verified_by` is what answered for the `verification`: the engine on its device, or, where none was at hand, the
    graph that it was built from, on the CPU. `precision_found` then is what the compiler says of the engine's layers.
    `notes` are what a user should know of how it was made.
    A `search` was made where the plain way to quantise missed a limit; the target says what it has found.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge engine"] = "rrr-edge engine"
    target: Target
    model_sha256: str
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
    verification: Verification
    precision_found: dict[str, float]
    verified_by: Literal["engine", "graph"] = "engine"
    calibration: str
    lowering: Lowering = "grouped"
    lowering_ratios: tuple[Ratio, ...] = ()
    products: tuple[str, ...] = ()
    pair_times: tuple[PairTime, ...] = ()
    notes: tuple[str, ...] = ()
    search: SearchResult | None = None
    created: str
    machine: str

    @property
    def name(self) -> str:
        return self.target.engine_name

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class DeviceVerification(Sealed):
    """What came of running an engine's reference images on a device after it was compiled.

    `engine_sha256` is of the engine's card, `versions` are those of the device and of the libraries that ran there.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge verification"] = "rrr-edge verification"
    engine_sha256: str
    versions: dict[str, str]
    verification: Verification
    precision_found: dict[str, float]
    created: str
    machine: str
