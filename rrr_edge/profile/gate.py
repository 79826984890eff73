"""The gate: a candidate's time and accuracy compared with a baseline's, and the verdict."""

import math
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from rrr_edge.backends import Session, backend_of
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.doubt import Doubt
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import PairedDifference
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import require_share
from rrr_edge.bundle.reference_network import ReferenceNetwork, labels_of, same_photos
from rrr_edge.bundle.target import PRECISIONS, Precision, Target
from rrr_edge.bundle.verification import drops_beyond
from rrr_edge.errors import UsageError, choose, counted
from rrr_edge.profile.equal_coverage import compare_at_equal_coverage
from rrr_edge.profile.gate_result import Drop, EqualCoverage, Gate, GateVerdict, SelfTest, Speed
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.profile.reference import outputs_here
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import Run, TimingSettings, take_turns, turn, warm_up, without_garbage_collection
from rrr_edge.timing.machine import threads_to_use
from rrr_edge.timing.progress import OnProgress, Step, silent
from rrr_edge.timing.quiet import HOPELESS_ROUNDS, RoundLoads, is_quiet
from rrr_edge.timing.sequential import bounds, medians_of, stretch_of
from rrr_edge.timing.statistics import Interval, wilson_interval

_TIMING = TimingSettings(settle_runs=8)
_TURN_RUNS, _TURN_MS = 5, 20.0


@dataclass(frozen=True)
class Limits:
    """`max_slowdown` is the candidate's time over the baseline's, `max_drop` the accuracy lost (absolute; 1: any)."""

    max_slowdown: float = 1.05
    max_drop: float = 0.01
    budget_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.max_slowdown < math.inf:
            raise UsageError(f"--max-slowdown is a ratio of times such as 1.05, not {self.max_slowdown:g}.")
        require_share(self.max_drop)
        if not 0 <= self.budget_s < math.inf:
            raise UsageError(f"--budget-s is a number of seconds such as 60, not {self.budget_s:g}.")


class Side(NamedTuple):
    """A bundle, and the precision of the engine that is meant; None: the target's."""

    bundle: Bundle
    precision: Precision | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """BUNDLE or BUNDLE:PRECISION. Raises UsageError (no such precision), BadInput, CorruptArtifact."""
        path, _, word = text.rpartition(":")
        if Path(text).exists() or not (path and Path(path).exists()):
            return cls(Bundle.open(text), None)
        choose(word, PRECISIONS, "precision")
        return cls(Bundle.open(path), next(precision for precision in PRECISIONS if precision == word))

    def engine(self, target: Target) -> Engine:
        return self.bundle.engine(Target.resolve(target, self.precision))


def compare(baseline: Side, candidate: Side, target: Target, limits: Limits, on_progress: OnProgress = silent) -> Gate:
    """Measure both engines interleaved in this process until the interval decides or the budget ends.

    Both run with as many threads: the target's, or else the baseline's, or all usable cores.
    Raises UsageError (not compiled; engines or accuracies that cannot be compared), CannotRunHere, CorruptArtifact.
    """
    target = _settled(baseline, candidate, target)
    _require_same_photos(baseline, candidate, limits)
    with ExitStack() as stack:
        first, second = (_opened(stack, side, target) for side in (baseline, candidate))
        drop, equal = (None, None) if limits.max_drop == 1 else _drop(first, second, limits, on_progress)
        speed = race(first.run, second.run, limits, on_progress=on_progress)
    verdicts = {speed.verdict, *(judged.verdict for judged in (drop, equal) if judged)}
    return Gate(
        baseline=_name(baseline, target),
        candidate=_name(candidate, target),
        target=target.name,
        max_slowdown=limits.max_slowdown,
        max_drop=limits.max_drop,
        verdict=next(verdict for verdict in _GRAVEST_FIRST if verdict in verdicts),
        speed=speed,
        drop=drop,
        equal_coverage=equal,
        environment=Environment.here(threads=target.threads, versions=backend_of(target).versions()),
    )


def require_comparable(baseline: Side, candidate: Side, target: Target, limits: Limits) -> Target:
    """Raise what `compare` would before it measures; return the target with its number of threads."""
    backend_of(target).check(target)
    _require_same_photos(baseline, candidate, limits)
    return _settled(baseline, candidate, target)


def self_test(side: Side, target: Target, limits: Limits, *, times: int, on_progress: OnProgress = silent) -> SelfTest:
    """Race the engine against itself, opened twice anew each time."""
    target = _settled(side, side, target)
    comparisons = []
    for done in range(times):
        on_progress(Step("self-test", done, times))
        with ExitStack() as stack:
            first, second = (_opened(stack, side, target) for _ in range(2))
            comparisons.append(race(first.run, second.run, limits))
    on_progress(Step("self-test", times, times))
    return SelfTest(
        engine=_name(side, target),
        max_slowdown=limits.max_slowdown,
        comparisons=tuple(comparisons),
        false_alarms=sum(speed.verdict == "fail" for speed in comparisons),
        undecided=sum(speed.verdict == "undecided" for speed in comparisons),
    )


def race(
    baseline: Run, candidate: Run, limits: Limits, *, timing: TimingSettings = _TIMING, on_progress: OnProgress = silent
) -> Speed:
    """Rounds of turns, each in an order of its own, until the ratio's interval lies on one side of the limit.

    Rounds that other programs disturb do not count, nor do those of which that is not known yet. Where none of the
    first 40 is quiet, or fewer of those that half the budget gave, all count: turns share what falls on them.
    """
    begin = timing.clock()
    rounds: list[dict[str, float]] = []
    engines = {"baseline": baseline, "candidate": candidate}
    verdict: GateVerdict = "undecided"
    spent_s, budget_s, all_count = 0.0, math.ceil(limits.budget_s), False
    with without_garbage_collection():
        for run in engines.values():
            warm_up(run, timing)
        others = RoundLoads()
        for turns in take_turns(engines, lambda run, round_: _turn_ms(run, round_, timing)):
            rounds.append(turns)
            others.end_round()
            loads, unknown_counts = others.told, not others.is_known
            told = zip(rounds, loads, strict=True)
            quiet = [each for each, load in told if is_quiet(load) and (load is not None or unknown_counts)]
            hopeless = not quiet and sum(load is not None for load in loads) >= HOPELESS_ROUNDS
            late = len(quiet) < HOPELESS_ROUNDS and spent_s >= limits.budget_s / 2
            all_count = all_count or hopeless or late
            counting = rounds if all_count else quiet
            ratios = [each["candidate"] / each["baseline"] for each in counting]
            stretch = stretch_of(ratios)
            stretches = medians_of(ratios, stretch or 1).tolist()
            interval = bounds(stretches) if stretch else None
            verdict = _judge(interval, limits.max_slowdown)
            spent_s = (timing.clock() - begin) / 1e9
            on_progress(
                Step(
                    "seconds",
                    min(int(spent_s), budget_s),
                    budget_s,
                    f"{counted(len(ratios), 'round' if all_count else 'quiet round')}, may end earlier",
                )
            )
            if verdict != "undecided" or spent_s >= limits.budget_s:
                break
    first, second = ([each[name] for each in counting or rounds] for name in engines)
    every = [b / a for a, b in zip(first, second, strict=True)]
    return Speed(
        ratio=statistics.median(every if interval is None else stretches),
        interval=interval,
        rounds=len(rounds),
        quiet_rounds=len(quiet),
        all_count=all_count,
        background_load=others.share,
        stretch=stretch,
        seconds=spent_s,
        baseline_ms=statistics.median(first),
        candidate_ms=statistics.median(second),
        verdict=verdict,
    )


_GRAVEST_FIRST: tuple[GateVerdict, ...] = ("fail", "undecided", "pass")


def _judge(interval: Interval | None, limit: float) -> GateVerdict:
    if interval is None or interval[0] <= limit <= interval[1]:
        return "undecided"
    return "fail" if interval[0] > limit else "pass"


def _turn_ms(run: Run, round_: int, timing: TimingSettings) -> float:
    """The median of a few runs after those that settle the caches."""
    samples = [turn(run, round_, timing).ms]
    rested = TimingSettings(settle_runs=0, clock=timing.clock)
    while len(samples) < _TURN_RUNS and sum(samples) < _TURN_MS:
        samples.append(turn(run, round_, rested).ms)
    return statistics.median(samples)


class _Opened(NamedTuple):
    bundle: Bundle
    session: Session
    doubt: Doubt

    @property
    def run(self) -> Run:
        return running(self.session, shuffled_images(self.bundle))


def _opened(stack: ExitStack, side: Side, target: Target) -> _Opened:
    precision = side.precision or target.precision
    classifier = stack.enter_context(
        Classifier.open(side.bundle.path, target, precision=precision, threads=target.threads)
    )
    return _Opened(side.bundle, classifier.session, classifier.doubt)


def _settled(baseline: Side, candidate: Side, target: Target) -> Target:
    """`target` with a number of threads, for both. Raises UsageError unless their batches and devices are the same."""
    first, second = (side.engine(target).target for side in (baseline, candidate))
    for what, a, b in (("batch", first.batch, second.batch), ("device", first.device, second.device)):
        if a != b:
            raise UsageError(
                f"The engine of {baseline.bundle.path} has the {what} {a}, the one of {candidate.bundle.path} {b}.",
                advice=f"Compile both for the same: {compiling(candidate.bundle.path, first)}",
            )
    return target.model_copy(update={"threads": threads_to_use(target.threads, first.threads)})


def _name(side: Side, target: Target) -> str:
    return f"{side.bundle.path.name}:{side.precision or target.precision}"


def _require_same_photos(baseline: Side, candidate: Side, limits: Limits) -> None:
    """Raise UsageError unless both have the same labelled photos, or any drop is allowed."""
    if limits.max_drop == 1:
        return
    if not len(labels_of(baseline.bundle)):
        raise UsageError(
            f"The reference images of {baseline.bundle.path} have no labels, so accuracies cannot be compared.",
            advice="Compare times only: --max-drop 1",
        )
    if not same_photos(baseline.bundle, candidate.bundle):
        raise UsageError(
            f"The accuracies of {baseline.bundle.path} and {candidate.bundle.path} are of different photos.",
            advice="Compress both from the same photos with the same seed, or compare times only: --max-drop 1",
        )


def _drop(baseline: _Opened, candidate: _Opened, limits: Limits, on_progress: OnProgress) -> tuple[Drop, EqualCoverage]:
    """What both answer here to the same photos: to all, and to those that each doubts least."""
    labels = labels_of(candidate.bundle)
    outputs = [outputs_here(one.bundle, one.session, on_progress) for one in (baseline, candidate)]
    before, after = (each.probabilities.argmax(1) == labels for each in outputs)
    paired = PairedDifference.of(after, before)
    verdict: GateVerdict = "pass"
    if drops_beyond(limits.max_drop, 0, paired.difference):
        verdict = "fail" if drops_beyond(limits.max_drop, 0, paired.interval[1]) else "undecided"
    reference = ReferenceNetwork.of(candidate.bundle)
    drop = Drop(
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        interval=wilson_interval(int(after.sum()), len(labels)),
        images=len(labels),
        paired=paired,
        reference=reference.compare(labels, after) if reference else None,
        verdict=verdict,
    )
    sides = ((each, one.doubt) for each, one in zip(outputs, (baseline, candidate), strict=True))
    return drop, compare_at_equal_coverage(labels, *sides, max_drop=limits.max_drop)
