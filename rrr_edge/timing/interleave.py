"""Interleaved timing of candidates in one process: every sample is kept, with other programs' load."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

from rrr_edge.timing import machine
from rrr_edge.timing.progress import OnProgress, Step, silent

Run = Callable[[int], Any]


@dataclass(frozen=True)
class TimingSettings:
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

    `background_load` is the share of the cores' time that other programs took meanwhile, where that is known.
    """

    samples_ms: dict[str, tuple[float, ...]]
    unsettled: tuple[str, ...]
    background_load: float | None


def interleave(
    candidates: Mapping[str, Run],
    *,
    timing: TimingSettings | None = None,
    on_progress: OnProgress = silent,
) -> Interleaved:
    """Time `candidates` in turns, every other round backwards: A-B-C, C-B-A, A-B-C, ...

    A candidate is called with the number of the round (in warm-up: of the run). The garbage collector rests meanwhile.
    Load from outside falls on all alike, and sample r of one candidate is the pair of sample r of another.
    """
    timing = timing or TimingSettings()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    with without_garbage_collection():
        unsettled = []
        for done, (name, run) in enumerate(candidates.items()):
            on_progress(Step("warm up", done, len(candidates), name))
            if not warm_up(run, timing):
                unsettled.append(name)
        on_progress(Step("warm up", len(candidates), len(candidates)))
        others = machine.BackgroundLoad()
        rounds = take_turns(candidates, lambda run, round_: turn_ms(run, round_, timing))
        for done, turns in enumerate(islice(rounds, timing.runs), start=1):
            for name, ms in turns.items():
                samples[name].append(ms)
            on_progress(Step("measure", done, timing.runs))
        background_load = others.share
    return Interleaved({name: tuple(values) for name, values in samples.items()}, tuple(unsettled), background_load)


def take_turns(candidates: Mapping[str, Run], turn: Callable[[Run, int], float]) -> Iterator[dict[str, float]]:
    """Rounds without end, every other one backwards: what `turn` says of each candidate, called with the round."""
    order = list(candidates.items())
    for round_ in count():
        yield {name: turn(run, round_) for name, run in order}
        order.reverse()


def warm_up(run: Run, timing: TimingSettings) -> bool:
    """Run until the times have settled, or the limit is reached; whether they settled."""
    samples: list[float] = []
    spent_ms = 0.0
    while True:
        samples.append(_timed_ms(run, len(samples), timing.clock))
        spent_ms += samples[-1]
        if spent_ms >= timing.warm_up_ms and len(samples) >= timing.warm_up_runs and _settled(samples, timing):
            return True
        if spent_ms >= timing.warm_up_limit_ms and len(samples) >= timing.warm_up_runs:
            return False


def _settled(samples: Sequence[float], timing: TimingSettings) -> bool:
    if len(samples) < 2 * timing.window:
        return False
    before = statistics.median(samples[-2 * timing.window : -timing.window])
    after = statistics.median(samples[-timing.window :])
    return abs(after - before) < timing.tolerance * before


def turn_ms(run: Run, round_: int, timing: TimingSettings) -> float:
    """A candidate's turn in a round: the ms of the run that comes after those that settle it."""
    spent_ms = 0.0
    for _ in range(timing.settle_runs):
        if spent_ms < timing.settle_ms:
            spent_ms += _timed_ms(run, round_, timing.clock)
    return _timed_ms(run, round_, timing.clock)


def _timed_ms(run: Run, index: int, clock: Callable[[], int]) -> float:
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
