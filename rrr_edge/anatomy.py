"""Where an engine's time goes, what this machine could do at best, and how the engine fares under a camera's load."""

from typing import Literal

from pydantic import Field

from rrr_edge.measurement import Interval, Measurement, Ratio
from rrr_edge.record import Record

Part = Literal["input", "stump", "conv4", "conv5", "heads", "vote"]
LoadKind = Literal["paced", "cold start", "batch", "streams"]


class LayerTime(Record):
    """One layer of the engine as its backend runs it: the median `ms` of its own clock, and the MACs of one image.

    `kind` is the backend's word for the layer, `precision` the one that it ran in, `part` where it lies in the network.
    """

    name: str
    kind: str
    part: Part
    precision: str
    ms: float = Field(ge=0)
    macs: int = Field(ge=0)


class Ceiling(Record):
    """What this machine reaches in `precision` at best: 10^9 MACs a second, with the 95 % interval, and `how` found."""

    precision: str
    gmacs_per_s: float = Field(gt=0)
    interval: Interval
    how: str


class Load(Record):
    """An engine under a load other than one image after the other.

    `setting` is the frames a second of a paced load, the images of a batch, the number of streams, and 0 for a cold
    start. The measurement is of one answer: frame to answer, process start to first answer, one batch, one image of a
    stream. `images_per_second` is the throughput that was seen.
    """

    kind: LoadKind
    setting: float
    measurement: Measurement
    images_per_second: float


class Alternative(Record):
    """A network of one granularity and sparsity in one runtime, and its time over the unpruned baseline's there.

    Both were measured in the same round of turns. `measurement.subject` tells the granularity, the sparsity and the
    runtime; the baseline itself has sparsity 0 and the ratio 1.
    """

    measurement: Measurement
    ratio: Ratio
