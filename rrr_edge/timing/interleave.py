"""Interleaved timing of candidates in one process: every sample is kept, with other programs' load."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeVar

from rrr_edge.timing.progress import OnProgress, Step, silent
from rrr_edge.timing.quiet import HOPELESS_ROUNDS, Loads, Patience, RoundLoads, is_quiet

Run = Callable[[int], Any]
T = TypeVar("T")


@dataclass(frozen=True)
class TimingSettings:
    """How candidates are timed.

    Each is warmed up for `warm_up_ms` and `warm_up_runs` at least, then until the medians of its last two windows of
    `window` runs differ by less than `tolerance`, or `warm_up_limit_ms` are over. Then come `runs` rounds. In every
    round each candidate makes untimed runs before the timed one, `settle_runs` of them unless `settle_ms` are over
    sooner, so that none pays for the caches that the one before it filled and the threads that it left spinning: an
    engine of 0.8 ms was seen to take twelve runs to recover from PyTorch's ResNet152. Beside other programs rounds wait
    for quiet as long as there is `patience`, and no longer than that are there more of them than `runs`. `clock` and
    `cpu_clock`, of this process on all cores, count nanoseconds.
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
    cpu_clock: Callable[[], int] = time.process_time_ns
    patience: Patience = field(default_factory=Patience)


class Turn(NamedTuple):
    """A timed run: its `ms`, and those that this process had a core meanwhile, on all cores together."""

    ms: float
    cpu_ms: float


class Interleaved(NamedTuple):
    """`samples_ms` and `cpu_ms` of each candidate, one a round, and the names of those that were still drifting after
    warm-up.

    `loads` are the shares of the cores' time that other programs took in each round, and `background_load` their share
    in all of them, where that is known.
    """

    samples_ms: dict[str, tuple[float, ...]]
    cpu_ms: dict[str, tuple[float, ...]]
    unsettled: tuple[str, ...]
    loads: Loads
    background_load: float | None


def interleave(
    candidates: Mapping[str, Run],
    *,
    timing: TimingSettings | None = None,
    on_progress: OnProgress = silent,
) -> Interleaved:
    """Time `candidates` in turns, in an order that is drawn anew in each round.

    A candidate is called with the number of the round (in warm-up: of the run). The garbage collector rests meanwhile.
    Load from outside falls on all alike, and sample r of one candidate is the pair of sample r of another.

    There are `timing.runs` rounds; with patience, so many quiet ones unless it ends before. Where none of the first
    rounds is quiet, there are no more of them.
    """
    timing = timing or TimingSettings()
    rounds: list[dict[str, Turn]] = []
    with without_garbage_collection():
        unsettled = []
        for done, (name, run) in enumerate(candidates.items()):
            on_progress(Step("warm up", done, len(candidates), name))
            if not warm_up(run, timing):
                unsettled.append(name)
        on_progress(Step("warm up", len(candidates), len(candidates)))
        timing.patience.wait(on_progress)
        others = RoundLoads()
        for turns in take_turns(candidates, lambda run, round_: turn(run, round_, timing)):
            rounds.append(turns)
            busy = not is_quiet(others.end_round())
            counted = others.quiet if timing.patience.left_s else len(rounds)
            on_progress(Step("measure", min(counted, timing.runs), timing.runs))
            hopeless = len(rounds) >= HOPELESS_ROUNDS and not (others.quiet or timing.patience.left_s)
            if counted >= timing.runs or hopeless:
                break
            if busy and timing.patience.wait(on_progress):
                others.skip()
    said = f"of {timing.runs}: none was quiet" if len(rounds) < timing.runs else ""
    ended = min(len(rounds), timing.runs)
    on_progress(Step("measure", ended, ended, said))
    return Interleaved(
        samples_ms={name: tuple(turns[name].ms for turns in rounds) for name in candidates},
        cpu_ms={name: tuple(turns[name].cpu_ms for turns in rounds) for name in candidates},
        unsettled=tuple(unsettled),
        loads=others.told,
        background_load=others.share,
    )


def take_turns(candidates: Mapping[str, Run], turn: Callable[[Run, int], T]) -> Iterator[dict[str, T]]:
    """Rounds without end, each in an order of its own: what `turn` says of each candidate, called with the round."""
    order, drawn = list(candidates.items()), random.Random(0)
    for round_ in count():
        drawn.shuffle(order)
        yield {name: turn(run, round_) for name, run in order}


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


def turn(run: Run, round_: int, timing: TimingSettings) -> Turn:
    """A candidate's turn in a round: the run that comes after those that settle it."""
    spent_ms = 0.0
    for _ in range(timing.settle_runs):
        if spent_ms < timing.settle_ms:
            spent_ms += _timed_ms(run, round_, timing.clock)
    cpu = timing.cpu_clock()
    ms = _timed_ms(run, round_, timing.clock)
    return Turn(ms, (timing.cpu_clock() - cpu) / 1e6)


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
