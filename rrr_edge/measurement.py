"""Honest time: candidates run in turns in one process, every sample is kept, and the result doubts itself aloud."""

import gc
import hashlib
import math
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, computed_field

from rrr_edge import machine
from rrr_edge.progress import Report, Step, silent
from rrr_edge.record import Record

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Granularity = Literal["baseline", "element", "channel", "block"]

CONFIDENCE = 0.95
UNSTABLE_SPREAD = 0.10
UNSTABLE_ELSEWHERE = 0.10
SAMPLES_FOR_P99 = 1_000
_RESAMPLES = 5_000
_SEED = 0


@dataclass(frozen=True)
class Pace:
    """How candidates are timed.

    Each is warmed up for `warm_up_ms` and `warm_up_runs` at least, then until the medians of its last two windows of
    `window` runs differ by less than `tolerance`, or `warm_up_limit_ms` are over. Then come `runs` rounds. In every
    round each candidate makes untimed runs before the timed one, `settle_runs` of them unless `settle_ms` are over
    sooner, so that none pays for the caches that the one before it filled and the threads that it left spinning: an
    engine of 0.8 ms was seen to take twelve runs to recover from PyTorch's ResNet152. `clock` counts nanoseconds.
    """

    runs: int = 200
    settle_runs: int = 16
    settle_ms: float = 20
    warm_up_ms: float = 200
    warm_up_runs: int = 10
    warm_up_limit_ms: float = 10_000
    window: int = 10
    tolerance: float = 0.02
    clock: Callable[[], int] = time.perf_counter_ns


class Interleaved(NamedTuple):
    """`samples_ms` of each candidate, one a round, and the names of those that were still drifting after warm-up.

    `elsewhere` is the share of the cores' time that other programs took meanwhile, where that is known.
    """

    samples_ms: dict[str, tuple[float, ...]]
    restless: tuple[str, ...]
    elsewhere: float | None


def interleave(
    candidates: Mapping[str, Callable[[int], Any]], *, pace: Pace | None = None, report: Report = silent
) -> Interleaved:
    """Time `candidates` in turns, every other round backwards: A-B-C, C-B-A, A-B-C, ...

    A candidate is called with the number of the round (in warm-up: of the run). The garbage collector rests meanwhile.
    Load from outside falls on all alike, and sample r of one candidate is the pair of sample r of another.
    """
    pace = pace or Pace()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    with without_garbage_collection():
        restless = []
        for done, (name, run) in enumerate(candidates.items()):
            report(Step("warm up", done, len(candidates), name))
            if not warm_up(run, pace):
                restless.append(name)
        report(Step("warm up", len(candidates), len(candidates)))
        order = list(candidates.items())
        others = machine.OthersClock()
        for round_ in range(pace.runs):
            for name, run in order:
                samples[name].append(turn_ms(run, round_, pace))
            order.reverse()
            report(Step("measure", round_ + 1, pace.runs))
        elsewhere = others.share
    return Interleaved({name: tuple(values) for name, values in samples.items()}, tuple(restless), elsewhere)


def warm_up(run: Callable[[int], Any], pace: Pace) -> bool:
    """Run until the times have settled, or the limit is reached; whether they settled."""
    samples: list[float] = []
    spent_ms = 0.0
    while True:
        samples.append(_timed_ms(run, len(samples), pace.clock))
        spent_ms += samples[-1]
        if spent_ms >= pace.warm_up_ms and len(samples) >= pace.warm_up_runs and _settled(samples, pace):
            return True
        if spent_ms >= pace.warm_up_limit_ms and len(samples) >= pace.warm_up_runs:
            return False


def _settled(samples: Sequence[float], pace: Pace) -> bool:
    if len(samples) < 2 * pace.window:
        return False
    before = statistics.median(samples[-2 * pace.window : -pace.window])
    after = statistics.median(samples[-pace.window :])
    return abs(after - before) < pace.tolerance * before


def turn_ms(run: Callable[[int], Any], round_: int, pace: Pace) -> float:
    """A candidate's turn in a round: the ms of the run that comes after those that settle it."""
    spent_ms = 0.0
    for _ in range(pace.settle_runs):
        if spent_ms < pace.settle_ms:
            spent_ms += _timed_ms(run, round_, pace.clock)
    return _timed_ms(run, round_, pace.clock)


def _timed_ms(run: Callable[[int], Any], index: int, clock: Callable[[], int]) -> float:
    start = clock()
    run(index)
    return (clock() - start) / 1e6


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Summary(Record):
    """What samples say, in ms. Both intervals are at 95 %.

    `mean_interval_ms` is Student's, as in Sun et al. 2023 (figure 3), and takes the runs for independent;
    `median_interval_ms` is the percentile bootstrap's. `p99_ms` needs 1,000 samples. `outliers` lie more than 1.5
    interquartile ranges beyond the quartiles; they are counted, never removed. `spread` is the interquartile range
    over the median; above 0.1 the result is `unstable`, and so it is where other programs took more than 0.1 of the
    cores' time.
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

    @classmethod
    def of(cls, samples_ms: Sequence[float], *, crowded: bool = False) -> Self:
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
            unstable=spread > UNSTABLE_SPREAD or crowded,
        )


class Subject(Record):
    """What was run. `size_mb` counts the files that were loaded; unknown values are None.

    In a comparison of granularities `sparsity` is the share of ResNet152's parameters that is gone, as achieved, and
    `sparsity_asked` the one that was asked.
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


class Measurement(Record):
    """`samples_ms` in the order of the rounds, and what they say; as JSON it has the summary only.

    `elsewhere` is the share of the cores' time that other programs took meanwhile, where that is known.
    """

    name: str
    subject: Subject
    elsewhere: float | None = None
    samples_ms: tuple[float, ...] = Field(min_length=2, exclude=True, repr=False)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def summary(self) -> Summary:
        return Summary.of(self.samples_ms, crowded=bool(self.crowded))

    @property
    def crowded(self) -> str:
        """What other programs took, in words, where it was so much that the times are unstable."""
        elsewhere = self.elsewhere or 0.0
        return f"other programs took {elsewhere:.0%} of the cores' time" if elsewhere > UNSTABLE_ELSEWHERE else ""

    @property
    def images_per_second(self) -> float:
        return 1000 / self.summary.median_ms


class Ratio(Record):
    """How many times as long `of` takes as `to`: the ratio of the medians, with its 95 % bootstrap interval."""

    of: str
    to: str
    value: float
    interval: Interval


def ratio(a: Measurement, b: Measurement) -> Ratio:
    """Whole rounds are drawn again, a stretch of them at a time, so what slowed both down in a round cancels.

    Raises ValueError unless `a` and `b` were interleaved, as far as their counts tell.
    """
    if len(a.samples_ms) != len(b.samples_ms):
        raise ValueError(f"{a.name} has {len(a.samples_ms)} rounds and {b.name} {len(b.samples_ms)}; no pairs")
    rounds = np.array([a.samples_ms, b.samples_ms])

    def of_medians(drawn: Floats) -> Floats:
        over, under = np.median(drawn, axis=-1)
        return np.asarray(over / under)

    return Ratio(of=a.name, to=b.name, value=float(of_medians(rounds)), interval=_bootstrap(rounds, of_medians))


def median_interval(samples: Floats) -> Interval:
    """The median's 95 % percentile-bootstrap interval, of stretches; the same samples always give the same one."""
    return _bootstrap(samples, lambda drawn: np.asarray(np.median(drawn, axis=-1)))


def mean_interval(samples: Floats) -> Interval:
    """Student's 95 % interval of the mean."""
    mean, half = samples.mean(), student_quantile((1 + CONFIDENCE) / 2, len(samples) - 1)
    half *= samples.std(ddof=1) / np.sqrt(len(samples))
    return float(mean - half), float(mean + half)


def student_quantile(p: float, degrees: int) -> float:
    """Student's t: exact for 1 and 2 degrees, else the Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5).

    At p = 0.975 that errs by less than 1e-5 from 29 degrees of freedom, 1e-2 from 4, and 5e-2 at 3.
    """
    if degrees == 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = statistics.NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum((term / degrees**power for power, term in enumerate(terms)), 0.0)


def wilson_interval(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927); honest for few trials and for shares of 0 and 1."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap(samples: Floats, statistic: Callable[[Floats], Floats]) -> Interval:
    """Draw along the last axis; `statistic` takes [..., resamples, n] and gives [resamples].

    The circular block bootstrap (Politis & Romano 1992), in stretches of sqrt(n) samples: load from outside lasts
    longer than a round, and samples drawn one by one would make the interval too narrow.
    """
    rng = np.random.default_rng(_SEED)
    count = samples.shape[-1]
    stretch = round(math.sqrt(count))
    at_once = max(1, 2_000_000 // count)
    drawn = [
        statistic(samples[..., _stretches(rng, min(at_once, _RESAMPLES - start), count, stretch)])
        for start in range(0, _RESAMPLES, at_once)
    ]
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _stretches(rng: np.random.Generator, resamples: int, count: int, stretch: int) -> NDArray[np.int64]:
    """Indices [resamples, count] in runs of `stretch`, which go on at the beginning after the end."""
    starts = rng.integers(count, size=(resamples, -(-count // stretch), 1))
    return ((starts + np.arange(stretch)) % count).reshape(resamples, -1)[:, :count]


class GPU(Record):
    name: str
    driver: str
    max_clock_mhz: int | None


class Environment(Record):
    """Where and with what a measurement was made.

    `quota` is the cgroup's limit in cores, `cores` what is left to compute on, `threads` what was used. `machine_id`
    tells machines apart: results with different ids never share a column. It holds nothing that names the owner.
    """

    machine_id: str
    cpu: str
    isa: tuple[str, ...]
    governor: str
    quota: float | None
    cores: int
    threads: int
    gpus: tuple[GPU, ...]
    os: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls, *, threads: int, versions: Mapping[str, str]) -> Self:
        cpu, isa = machine.cpu_info()
        gpus = find_gpus()
        return cls(
            machine_id=_machine_id(cpu, *isa, *(gpu.name for gpu in gpus)),
            cpu=cpu,
            isa=isa,
            governor=machine.governor(),
            quota=machine.cpu_quota(),
            cores=machine.usable_cores(),
            threads=threads,
            gpus=gpus,
            os=platform.platform(),
            python=platform.python_version(),
            versions={"numpy": np.__version__, **versions},
        )


def find_gpus() -> tuple[GPU, ...]:
    """NVIDIA's GPUs as nvidia-smi lists them; none where it is absent or fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in answer.splitlines() if line.count(",") == 2)


def _gpu(line: str) -> GPU:
    name, driver, clock = (word.strip() for word in line.split(","))
    return GPU(name=name, driver=driver, max_clock_mhz=int(clock) if clock.isdigit() else None)


def _machine_id(*traits: str) -> str:
    """Eight hexadecimal digits from the hardware and the operating system's own random id, which stays unreadable."""
    try:
        own = Path("/etc/machine-id").read_text().strip()
    except OSError:
        own = ""
    words = (*traits, str(os.cpu_count()), own)
    return hashlib.sha256("\n".join(("rrr-edge machine", *words)).encode()).hexdigest()[:8]
