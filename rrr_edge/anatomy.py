"""Where an engine's time goes, what this machine could do at best, and how the engine fares under a camera's load."""

import re
from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple, cast, get_args

from pydantic import Field

from rrr_edge.measurement import Interval, Measurement, Ratio
from rrr_edge.record import Record

Part = Literal["input", "stump", "conv4", "conv5", "heads", "vote"]
PARTS: tuple[Part, ...] = get_args(Part)
LoadKind = Literal["paced", "cold start", "batch", "streams"]


BETWEEN, WHOLE = "between layers", "whole run"

_NAMED_PART = re.compile(rf"\b({'|'.join(PARTS)})/|\b(?:branch_)?probabilities\b")


class LayerTime(Record):
    """One layer of the engine as its backend runs it: its `ms` by the backend's own clock, and the MACs of one image.

    `kind` is the backend's word for the layer, `precision` the one that it ran in, `part` where it lies in the network.
    """

    name: str
    kind: str
    part: Part
    precision: str
    ms: float = Field(ge=0)
    macs: int = Field(ge=0)


def part_of(name: str, before: Part = "input") -> Part:
    """Where a layer lies, by the part that the graph's nodes have in front of their names ("conv4/layer3.0.conv1").

    Backends make longer names of these; the graph's outputs, "probabilities" and "branch_probabilities", are the
    vote's. A layer of the backend's own, such as a change of the memory's order, lies where the one `before` it lies.
    """
    found = _NAMED_PART.search(name)
    return cast(Part, found[1] or "vote") if found else before


def convolution_macs(output: Sequence[int], weights: Sequence[int]) -> int:
    """MACs of one image: every weight is used once for each place of the `output` [N, C, H, W]."""
    return prod(output[2:]) * prod(weights)


def product_macs(output: Sequence[int], left: Sequence[int]) -> int:
    """MACs of one image for a matrix product: each number of the `output` [N, ...] sums the `left`'s last axis."""
    return prod(output[1:]) * left[-1]


class Ceiling(Record):
    """What this machine reaches in `precision` at best: 10^9 MACs a second, with the 95 % interval, and `how` found."""

    precision: str
    gmacs_per_s: float = Field(gt=0)
    interval: Interval
    how: str


class PartTime(NamedTuple):
    """What a part of the network takes of a run, and the share of the machine's ceiling at which it computes.

    What is left when the layers are summed up is the part "between layers".
    """

    part: str
    ms: float
    macs: int
    share: float | None


def sum_up(
    layers: Sequence[LayerTime], run_ms: float, macs: int, ceiling: Ceiling | None = None
) -> tuple[PartTime, ...]:
    """The parts of a run of `run_ms` in the order in which they run, then what lies between layers, then the whole.

    The parts' MACs are those that the backend computes, among them zeros with which a layer was filled up; the whole
    run's are the network's own `macs`.
    """
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    computed = dict.fromkeys(PARTS, 0)
    for layer in layers:
        spent[layer.part] += layer.ms
        computed[layer.part] += layer.macs

    def part(name: str, ms: float, macs: int) -> PartTime:
        return PartTime(name, ms, macs, macs / ms / 1e6 / ceiling.gmacs_per_s if ceiling and macs and ms else None)

    parts = (part(name, spent[name], computed[name]) for name in PARTS)
    return (*parts, part(BETWEEN, run_ms - sum(spent.values()), 0), part(WHOLE, run_ms, macs))


class Load(Record):
    """An engine under a load other than one image after the other.

    `setting` is the frames a second of a paced load, the images of a batch, the number of streams, and 0 for a cold
    start. The measurement is of one answer: frame to answer, process start to first answer, one batch, one image of a
    stream. `images_per_second` is the throughput that was seen. Of a paced load's frames `late` were answered only
    after the next had come, and `dropped` were never looked at, for a newer one was there.
    """

    kind: LoadKind
    setting: float
    measurement: Measurement
    images_per_second: float
    late: int = 0
    dropped: int = 0


class Alternative(Record):
    """A network of one granularity and sparsity in one runtime, and its time over the unpruned baseline's there.

    Both were measured in the same round of turns. `measurement.subject` tells the granularity, the sparsity and the
    runtime; the baseline itself has sparsity 0 and the ratio 1.
    """

    measurement: Measurement
    ratio: Ratio
