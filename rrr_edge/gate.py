"""The gate: whether a candidate may replace a baseline, by its time beside the baseline's and by its accuracy."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from rrr_edge.backends import backend_of
from rrr_edge.bounds import bounds, medians_of, stretch_of
from rrr_edge.bundle import SCHEMA, Bundle
from rrr_edge.errors import UsageError
from rrr_edge.machine import usable_cores
from rrr_edge.measurement import Environment, Interval, Pace, turn_ms, warm_up, without_garbage_collection
from rrr_edge.progress import Report, Step, silent
from rrr_edge.record import Record
from rrr_edge.runtime import Classifier
from rrr_edge.target import PRECISIONS, Precision, Target

Verdict = Literal["pass", "fail", "undecided"]
Run = Callable[[int], Any]

# What a self-test may count, as a share of its comparisons.
FALSE_ALARMS, UNDECIDED = 0.02, 0.5

_PACE = Pace(settle_runs=8)
_TURN_RUNS, _TURN_MS = 5, 20.0


@dataclass(frozen=True)
class Limits:
    """`max_slowdown` is the candidate's time over the baseline's, `max_drop` the accuracy lost (absolute; 1: any)."""

    max_slowdown: float = 1.05
    max_drop: float = 0.01
    budget_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.max_slowdown > 0:
            raise UsageError(f"--max-slowdown is a ratio of times such as 1.05, not {self.max_slowdown:g}.")
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max-drop is a share between 0 and 1, such as 0.01, not {self.max_drop:g}.")


class Side(NamedTuple):
    """A bundle, and the precision of the engine that is meant; None: the target's."""

    bundle: Bundle
    precision: Precision | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """BUNDLE or BUNDLE:PRECISION. Raises BadInput, CorruptArtifact."""
        path, _, word = text.rpartition(":")
        precision = next((precision for precision in PRECISIONS if precision == word), None)
        return cls(Bundle.open(path if precision and path else text), precision)


class Speed(Record):
    """The candidate's time over the baseline's, from rounds in which both had their turn.

    `ratio` is the median over stretches of `stretch` rounds, so long that they count as independent (bounds.py).
    `interval` then holds it with 99 % whenever one stops to look. Both are None as long as nothing can be said, and
    `ratio` is that of the rounds. Times are medians, in ms.
    """

    ratio: float
    interval: Interval | None
    rounds: int
    stretch: int | None
    seconds: float
    baseline_ms: float
    candidate_ms: float
    verdict: Verdict


class Drop(Record):
    """Accuracies of the engines on the same labelled reference images, as compile stored them."""

    baseline: float
    candidate: float
    images: int
    verdict: Verdict


class Gate(Record):
    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge gate"] = "rrr-edge gate"
    baseline: str
    candidate: str
    target: str
    max_slowdown: float
    max_drop: float
    verdict: Verdict
    speed: Speed
    drop: Drop | None
    environment: Environment

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict first, then its reasons."""
        speed, limit = self.speed, self.max_slowdown
        bounds = "nothing is sure yet"
        if speed.interval is not None:
            low, high = speed.interval
            bounds = f"99 %, if stretches of {speed.stretch} rounds are independent: {low:.3f} to {high:.3f}"
        about = {"pass": "within", "fail": "beyond", "undecided": "not told apart from"}[speed.verdict]
        reasons = [
            f"{speed.candidate_ms:.3f} ms against {speed.baseline_ms:.3f} ms: {speed.ratio:.3f} times as long "
            f"({bounds}), {about} the limit of {limit:g}, after {speed.rounds} rounds in {speed.seconds:.1f} s."
        ]
        if speed.verdict == "undecided":
            reasons.append(
                "The budget ended before the interval decided, which takes 44 rounds at least and more the more they "
                "depend on those before: give more (--budget-s) or a quieter machine."
            )
        if self.drop:
            reasons.append(
                f"Accuracy {self.drop.baseline:.2%} -> {self.drop.candidate:.2%} on {self.drop.images} images "
                f"(limit: {self.max_drop:.2%} lower)."
            )
        else:
            reasons.append("Accuracy was not compared.")
        return (f"{self.verdict}: {self.candidate} beside {self.baseline}, on {self.target}.", *reasons)

    def to_markdown(self) -> str:
        return _markdown(*self.sentences, f"{self.environment.cpu}, {self.environment.threads} threads.")


class SelfTest(Record):
    """An engine against itself: "fail" is wrong, "undecided" wasted; it passes with few of these."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge gate self-test"] = "rrr-edge gate self-test"
    engine: str
    max_slowdown: float
    comparisons: tuple[Speed, ...]
    false_alarms: int
    undecided: int

    @property
    def passed(self) -> bool:
        count = len(self.comparisons)
        return self.false_alarms <= FALSE_ALARMS * count and self.undecided <= UNDECIDED * count

    @property
    def sentences(self) -> tuple[str, ...]:
        count = len(self.comparisons)
        return (
            f"self-test: {self.engine} against itself, {count} times.",
            f"False alarms: {self.false_alarms} ({self.false_alarms / count:.1%}); up to {FALSE_ALARMS:.0%} pass.",
            f"Undecided: {self.undecided} ({self.undecided / count:.1%}); up to {UNDECIDED:.0%} pass.",
        )

    def to_markdown(self) -> str:
        return _markdown(*self.sentences)


def compare(baseline: Side, candidate: Side, target: Target, limits: Limits, report: Report = silent) -> Gate:
    """Measure both engines interleaved in this process until the interval decides or the budget ends.

    Raises UsageError (not compiled; accuracies that cannot be compared), CannotRunHere, CorruptArtifact.
    """
    drop = _drop(baseline, candidate, target, limits)
    with ExitStack() as stack:
        first, second = (_opened(stack, side, target) for side in (baseline, candidate))
        speed = race(first, second, limits, report=report)
    verdicts = {speed.verdict, drop.verdict if drop else "pass"}
    threads = target.threads or usable_cores()
    return Gate(
        baseline=_name(baseline, target),
        candidate=_name(candidate, target),
        target=target.name,
        max_slowdown=limits.max_slowdown,
        max_drop=limits.max_drop,
        verdict=next(verdict for verdict in _GRAVEST_FIRST if verdict in verdicts),
        speed=speed,
        drop=drop,
        environment=Environment.here(threads=threads, versions=backend_of(target).versions()),
    )


def self_test(side: Side, target: Target, limits: Limits, *, times: int, report: Report = silent) -> SelfTest:
    """Race the engine against itself, opened twice anew each time."""
    comparisons = []
    for done in range(times):
        report(Step("self-test", done, times))
        with ExitStack() as stack:
            comparisons.append(race(_opened(stack, side, target), _opened(stack, side, target), limits))
    report(Step("self-test", times, times))
    return SelfTest(
        engine=_name(side, target),
        max_slowdown=limits.max_slowdown,
        comparisons=tuple(comparisons),
        false_alarms=sum(speed.verdict == "fail" for speed in comparisons),
        undecided=sum(speed.verdict == "undecided" for speed in comparisons),
    )


def race(baseline: Run, candidate: Run, limits: Limits, *, pace: Pace = _PACE, report: Report = silent) -> Speed:
    """Rounds of a turn each, every other one in reverse, until the ratio's interval lies on one side of the limit."""
    begin = pace.clock()
    times: dict[str, list[float]] = {"baseline": [], "candidate": []}
    ratios: list[float] = []
    order = [("baseline", baseline), ("candidate", candidate)]
    verdict: Verdict = "undecided"
    spent_s = 0.0
    with without_garbage_collection():
        for _, run in order:
            warm_up(run, pace)
        while not ratios or (verdict == "undecided" and spent_s < limits.budget_s):
            for name, run in order:
                times[name].append(_turn_ms(run, len(ratios), pace))
            order.reverse()
            ratios.append(times["candidate"][-1] / times["baseline"][-1])
            stretch = stretch_of(ratios)
            stretches = medians_of(ratios, stretch or 1).tolist()
            interval = bounds(stretches) if stretch else None
            verdict = _judge(interval, limits.max_slowdown)
            spent_s = (pace.clock() - begin) / 1e9
            report(Step("rounds", min(int(spent_s), int(limits.budget_s)), int(limits.budget_s), f"{len(ratios)}"))
    return Speed(
        ratio=statistics.median(ratios if interval is None else stretches),
        interval=interval,
        rounds=len(ratios),
        stretch=stretch,
        seconds=spent_s,
        baseline_ms=statistics.median(times["baseline"]),
        candidate_ms=statistics.median(times["candidate"]),
        verdict=verdict,
    )


def _markdown(verdict: str, *reasons: str) -> str:
    return "\n".join((f"### rrr-edge gate: {verdict}", "", *(f"- {reason}" for reason in reasons), ""))


_GRAVEST_FIRST: tuple[Verdict, ...] = ("fail", "undecided", "pass")


def _judge(interval: Interval | None, limit: float) -> Verdict:
    if interval is None or interval[0] <= limit <= interval[1]:
        return "undecided"
    return "fail" if interval[0] > limit else "pass"


def _turn_ms(run: Run, round_: int, pace: Pace) -> float:
    """The median of a few runs after those that settle the caches."""
    samples = [turn_ms(run, round_, pace)]
    rested = Pace(settle_runs=0, clock=pace.clock)
    while len(samples) < _TURN_RUNS and sum(samples) < _TURN_MS:
        samples.append(turn_ms(run, round_, rested))
    return statistics.median(samples)


def _opened(stack: ExitStack, side: Side, target: Target) -> Run:
    precision = side.precision or target.precision
    classifier = stack.enter_context(
        Classifier.open(side.bundle.path, target, precision=precision, threads=target.threads)
    )
    images = side.bundle.reference.images
    images = images[np.random.default_rng(0).permutation(len(images))]
    return lambda round_: classifier.session.run(images[(i := round_ % len(images)) : i + 1])


def _name(side: Side, target: Target) -> str:
    return f"{side.bundle.path.name}:{side.precision or target.precision}"


def _drop(baseline: Side, candidate: Side, target: Target, limits: Limits) -> Drop | None:
    """None where no image has a label, or any drop is allowed."""
    labels, others = baseline.bundle.reference.labels, candidate.bundle.reference.labels
    known = int((labels >= 0).sum())
    if limits.max_drop == 1 or not known:
        return None
    photos, of_candidate = (side.bundle.manifest.provenance.data_sha256 for side in (baseline, candidate))
    if photos != of_candidate or not np.array_equal(labels, others):
        raise UsageError(
            f"The accuracies of {baseline.bundle.path} and {candidate.bundle.path} are of different photos.",
            advice="Compress both from the same photos with the same seed, or compare times only: --max-drop 1",
        )
    before, after = (
        side.bundle.engine(
            target.model_copy(update={"precision": side.precision or target.precision})
        ).verification.accuracy
        for side in (baseline, candidate)
    )
    verdict: Verdict = "fail" if before - after > limits.max_drop else "pass"
    return Drop(baseline=before, candidate=after, images=known, verdict=verdict)
