"""Records of an engine's layers, the machine's best rate, and loads such as a camera's frame rate."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, computed_field, model_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import PARTS, Part
from rrr_edge.timing.quiet import Loads, quiet_rounds
from rrr_edge.timing.statistics import Floats, Interval, bootstrap_medians, mean_interval, median_interval

LoadKind = Literal["paced", "cold start", "batch", "streams"]


BETWEEN, WHOLE = "between layers", "whole run"


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


class Ceiling(Record):
    """What this machine reaches in `precision` at best: 10^9 MACs a second, with the 95% interval, and `how` found."""

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


Granularity = Literal["baseline", "element", "channel", "block"]


class Subject(Record):
    """What was run. `size_mb` counts the files that were loaded; unknown values are None.

    In a comparison of granularities `sparsity` is the share of the source network's parameters that is gone, as
    achieved, and `sparsity_asked` the one that was asked.
    """

    backend: str
    precision: str
    threads: int
    params: int | None = None
    macs: int | None = None
    size_mb: float | None = None
    note: str = ""
    granularity: Granularity | None = None
    sparsity: float | None = None
    sparsity_asked: float | None = None

    @property
    def runtime(self) -> str:
        return f"{self.backend} {self.precision}"


class Summary(Record):
    """What samples say, in ms. Both intervals are at 95%.

    `mean_interval_ms` is Student's, as in Sun et al. 2023 (figure 3), and takes the runs for independent;
    `median_interval_ms` is the percentile bootstrap's. `p99_ms` needs 1,000 samples. `outliers` lie more than 1.5
    interquartile ranges beyond the quartiles; they are counted, never removed. `spread` is the interquartile range
    over the median; above 0.1 the result is `unstable`, and so it is where other programs disturbed it. `cpu_ms` is the
    median of what the process itself took of all cores, where that is known.
    """

    runs: int
    min_ms: float
    median_ms: float
    mean_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float | None
    mean_interval_ms: Interval
    median_interval_ms: Interval
    spread: float
    outliers: int
    unstable: bool
    cpu_ms: float | None = None

    @classmethod
    def of(cls, samples_ms: Sequence[float], cpu_ms: Sequence[float] = (), *, disturbed: bool = False) -> Self:
        """Raises ValueError for fewer than two samples."""
        if len(samples_ms) < 2:
            raise ValueError(f"{len(samples_ms)} samples say nothing about spread; take at least two")
        samples = np.asarray(samples_ms, np.float64)
        q1, median, q3, p90, p95, p99 = (float(q) for q in np.quantile(samples, [0.25, 0.5, 0.75, 0.9, 0.95, 0.99]))
        fence = 1.5 * (q3 - q1)
        spread = (q3 - q1) / median if median else 0.0
        return cls(
            runs=len(samples),
            min_ms=float(samples.min()),
            median_ms=median,
            mean_ms=float(samples.mean()),
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99 if len(samples) >= SAMPLES_FOR_P99 else None,
            mean_interval_ms=mean_interval(samples),
            median_interval_ms=median_interval(samples),
            spread=spread,
            outliers=int(np.count_nonzero((samples < q1 - fence) | (samples > q3 + fence))),
            unstable=spread > UNSTABLE_SPREAD or disturbed,
            cpu_ms=float(np.median(cpu_ms)) if cpu_ms else None,
        )


class Measurement(Record):
    """`samples_ms` in the order of the rounds, and what the quiet ones say; as JSON it has the summary only.

    `background_load` (in JSON `elsewhere`) is the share of the cores' time that other programs took meanwhile, and
    `loads` that of each round, where they are known; `cpu_ms` is this process's own time on all cores in each sample.
    Rounds are quiet as `timing.quiet` has it. Where too few are, all of them are summed up, and it is unstable.
    """

    name: str
    subject: Subject
    background_load: float | None = Field(default=None, validation_alias="elsewhere", serialization_alias="elsewhere")
    samples_ms: tuple[float, ...] = Field(min_length=2, exclude=True, repr=False)
    cpu_ms: tuple[float, ...] = Field(default=(), exclude=True, repr=False)
    loads: Loads = Field(default=(), exclude=True, repr=False)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def summary(self) -> Summary:
        cpu_ms = [self.cpu_ms[round_] for round_ in self.judged] if self.cpu_ms else ()
        return Summary.of(self.judged_ms, cpu_ms, disturbed=bool(self.disturbed))

    @cached_property
    def is_quiet(self) -> bool:
        """Whether there are enough quiet rounds."""
        return bool(quiet_rounds(self.loads, len(self.samples_ms)))

    @cached_property
    def judged(self) -> list[int]:
        """The rounds that are summed up: the quiet ones, or all where there are too few of these."""
        rounds = len(self.samples_ms)
        return quiet_rounds(self.loads, rounds) or list(range(rounds))

    @property
    def judged_ms(self) -> list[float]:
        return [self.samples_ms[round_] for round_ in self.judged]

    @property
    def disturbed(self) -> str:
        """What other programs took, in words, where it was so much that the times are unstable."""
        load = self.background_load or 0.0
        calm = load <= UNSTABLE_BACKGROUND_LOAD if not self.loads else self.is_quiet
        return "" if calm else f"other programs took {load:.0%} of the cores' time"

    @property
    def images_per_second(self) -> float:
        return 1000 / self.summary.median_ms


class Load(Record):
    """An engine under a load other than one image after the other.

    `setting` is the frames a second of a paced load, the images of a batch, the number of streams, and 0 for a cold
    start. The measurement is of one answer: frame to answer, process start to first answer, one batch, one image of a
    stream. `images_per_second` are the images that were answered over all the time that it took. Of a paced load's
    frames `late` were answered only after the next had come, and `dropped` were never looked at, for a newer one was
    there.
    """

    kind: LoadKind
    setting: float
    measurement: Measurement
    images_per_second: float
    late: int = 0
    dropped: int = 0


class Ratio(Record):
    """How many times as long `of` takes as `to`: the ratio of the medians of the rounds that are judged, with its 95%
    bootstrap interval.

    Where it is not `quiet`, too few rounds were, and it is that of all of them, which may be far off.
    """

    of: str
    to: str
    value: float
    interval: Interval
    quiet: bool = True

    @model_validator(mode="after")
    def _lies_in_its_interval(self) -> Self:
        low, high = self.interval
        if not low * (1 - 1e-9) <= self.value <= high * (1 + 1e-9):
            raise ValueError(f"the ratio {self.value:g} of {self.of!r} lies outside its interval {low:g} to {high:g}")
        return self


class Alternative(Record):
    """A network of one granularity and sparsity in one runtime, and its time over the unpruned baseline's there.

    Both were measured in the same round of turns. `measurement.subject` tells the granularity, the sparsity and the
    runtime; the baseline itself has sparsity 0 and the ratio 1.
    """

    measurement: Measurement
    ratio: Ratio


UNSTABLE_SPREAD = 0.10
UNSTABLE_BACKGROUND_LOAD = 0.10
SAMPLES_FOR_P99 = 1_000


def quiet_ratio(a: Measurement, b: Measurement) -> Ratio | None:
    """The ratio, where enough rounds were quiet for one: what is said of `a` beside `b`."""
    return ratio(a, b) if a.is_quiet and b.is_quiet else None


def ratio(a: Measurement, b: Measurement) -> Ratio:
    """Of the quiet rounds, or of all where there are too few of these, which it says.

    Whole rounds are drawn again, a stretch of them at a time, so what slowed both down in a round cancels.

    Raises ValueError unless `a` and `b` were interleaved, as far as their counts tell.
    """
    if len(a.samples_ms) != len(b.samples_ms):
        raise ValueError(f"{a.name} has {len(a.samples_ms)} rounds and {b.name} {len(b.samples_ms)}; no pairs")
    judged = sorted({*a.judged} & {*b.judged}) or range(len(a.samples_ms))
    rounds = np.array([a.samples_ms, b.samples_ms])[:, judged]

    def of_medians(drawn: Floats) -> Floats:
        over, under = np.median(drawn, axis=-1)
        return np.asarray(over / under)

    value, (low, high) = float(of_medians(rounds)), bootstrap_medians(rounds, of_medians)
    interval = min(low, value), max(high, value)
    return Ratio(of=a.name, to=b.name, value=value, interval=interval, quiet=a.is_quiet and b.is_quiet)
