"""Records of each layer's loss by quantisation, and of the search for a quantisation that keeps the limits."""

from typing import Literal

from pydantic import Field

from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.quantisation import PLAIN, Quantisation
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed


class LayerLoss(Record):
    """What is lost where `name` is the only quantised layer, on calibration images.

    `noise` is the root mean square, in nats, of the change of the logarithm of the two best classes' ratio; `flipped`
    the share of images whose best class is another; `macs_share` the layer's share of the MACs.
    """

    name: str
    macs_share: float
    noise: float
    flipped: float


class Attempt(Record):
    """A quantisation that was tried on the reference images, with its `share` of the MACs in 8 bits."""

    quantisation: Quantisation
    share: float
    top1_agreement: float
    accuracy: float
    passed: bool


Stopped = Literal["found", "time", "share", "nothing helps"]


class SearchResult(Record):
    """The search for a quantisation that keeps the limits, where the plain one does not.

    `stopped` says why it ended: a quantisation was found, the time was up, what may stay floats was too little, or no
    layer was left. `layers` come most harmful first. `time_ratio` is the engine's time over that of the engine with
    all its layers in 8 bits, where both could be run.
    """

    stopped: Stopped
    attempts: tuple[Attempt, ...]
    layers: tuple[LayerLoss, ...] = ()
    seconds: float = Field(ge=0)
    time_ratio: Ratio | None = None

    @property
    def found(self) -> Attempt | None:
        """The one that was kept."""
        return self.attempts[-1] if self.stopped == "found" else None

    def built(self, quantisation: Quantisation, time_ratio: Ratio | None) -> "SearchResult":
        """With the type of the float layers that was fastest, and the time of the engine with it."""
        kept = self.attempts[-1].model_copy(update={"quantisation": quantisation})
        return self.model_copy(update={"attempts": (*self.attempts[:-1], kept), "time_ratio": time_ratio})

    def notes(self, images: int) -> tuple[str, ...]:
        """What choosing on the `images` photos by which the engine is judged means for what was measured on them."""
        if self.found is None:
            return ()
        return (
            f"{len(self.attempts)} ways to quantise were judged on the {images} photos that verify the one that was "
            "chosen, so that its agreement and accuracy flatter. Judge it by other photos: rrr-edge evaluate.",
        )

    def words(self, precision: str) -> str:
        """What the search has found, and what that costs."""
        found = self.found
        if found is None:
            return ""
        own, count = found.quantisation, len(found.quantisation.float_layers)
        cost = ""
        if self.time_ratio is not None:
            low, high = (f"{bound - 1:+.1%}" for bound in self.time_ratio.interval)
            cost = f", {self.time_ratio.value - 1:+.1%} time (95% interval {low} to {high}) than all {precision}"
        layers = f"{count} layer{'s' if count > 1 else ''} in {own.float_precision.upper()}" if count else own.words
        return (
            f"{precision.upper()} for {found.share:.1%} of the MACs, {layers}{cost}; found in {self.seconds:.0f} s "
            f"after {len(self.attempts)} trials on the photos that verify it"
        )


class SearchState(Sealed):
    """What a search has measured so far, kept in the bundle so that an interrupted one goes on.

    `key` names all that it follows from: the graph, the target, the calibration images and the libraries' versions.
    `layers` are those of `quantisation`; the `result` was found within these `limits`.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge search"] = "rrr-edge search"
    key: str
    quantisation: Quantisation = PLAIN
    layers: tuple[LayerLoss, ...] = ()
    limits: Limits | None = None
    result: SearchResult | None = None
