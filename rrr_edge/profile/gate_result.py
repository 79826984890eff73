"""The records of a gate's result."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import PairedDifference, ReferenceComparison
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion
from rrr_edge.errors import counted
from rrr_edge.report.markup import plain_markdown
from rrr_edge.timing.statistics import Interval

GateVerdict = Literal["pass", "fail", "undecided"]
_ABOUT: dict[GateVerdict, str] = {"pass": "within", "fail": "beyond", "undecided": "not told apart from"}
MARK = "### rrr-edge gate"
# What a self-test may count, as a share of its comparisons.
FALSE_ALARMS, UNDECIDED = 0.02, 0.5


class Speed(Record):
    """The candidate's time over the baseline's, from rounds in which both had their turn.

    `ratio` is the median over stretches of `stretch` rounds, so long that they count as independent (bounds.py).
    `interval` then holds it with 99% whenever one stops to look. Both are None as long as nothing can be said, and
    `ratio` is that of the rounds. Times are medians, in ms. Only the `quiet_rounds` count, unless `all_count`
    because too few were quiet. `background_load` is the share of the cores' time that other programs took, if known.
    """

    ratio: float
    interval: Interval | None
    rounds: int
    quiet_rounds: int | None = None
    all_count: bool = False
    background_load: float | None = None
    stretch: int | None
    seconds: float
    baseline_ms: float
    candidate_ms: float
    verdict: GateVerdict


class Drop(Record):
    """Accuracies of the engines on the same labelled reference images, as they answer here.

    `interval` is Wilson's at 95% for the candidate's. `paired` is the candidate's accuracy less the baseline's: a loss
    within the limit on these images passes, one beyond it fails where the interval of the difference lies beyond the
    limit, and is undecided where the limit lies within. `reference` is the candidate's reference network beside it.
    """

    baseline: float
    candidate: float
    interval: Interval
    images: int
    paired: PairedDifference
    reference: ReferenceComparison | None = None
    verdict: GateVerdict

    def sentences(self, max_drop: float) -> Iterator[str]:
        low, high = self.interval
        yield (
            f"Accuracy {self.baseline:.2%} -> {self.candidate:.2%} ({low:.1%} to {high:.1%}, 95%) on {self.images} "
            f"images, {self.paired.words} on paired answers (limit: {max_drop:.2%} lower)."
        )
        if self.reference:
            yield f"Beside the reference: {self.reference.words}, the candidate's is {self.reference.paired.words}."
        if self.paired.interval[0] < -max_drop <= self.paired.interval[1]:
            least = "; a single one is more than the limit" if self.images * max_drop < 1 - 1e-9 else ""
            helps = ": compress with more test photos, or raise --max-drop" if self.verdict == "undecided" else ""
            yield f"So few images cannot tell whether other photos would lose more than the limit{least}{helps}."


class EqualCoverage(Record):
    """The mistakes of both engines among the `answered` photos that each doubts least.

    `paired` counts who gives no wrong answer to a photo, of all photos: over the coverage, the share of them that is
    answered, its difference is that of the risks. The verdict is on the wrong answers as a share of all photos.
    """

    answered: int = Field(ge=1)
    baseline_wrong: int
    candidate_wrong: int
    paired: PairedDifference
    verdict: GateVerdict

    def sentence(self, max_drop: float) -> str:
        coverage = self.answered / self.paired.images
        low, high = (-100 * edge / coverage for edge in reversed(self.paired.interval))
        more = 100 * (self.candidate_wrong - self.baseline_wrong) / self.answered
        limit = f"{_ABOUT[self.verdict]} the limit of {100 * max_drop / coverage:+.1f}"
        return (
            f"Of the {coverage:.1%} of the images that each doubts least, {self.baseline_wrong} and "
            f"{self.candidate_wrong} of {self.answered} are answered wrongly: {more:+.1f} points of risk (95% "
            f"interval {low:+.1f} to {high:+.1f}), {limit}."
        )


class Gate(Record):
    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge gate"] = "rrr-edge gate"
    baseline: str
    candidate: str
    target: str
    max_slowdown: float
    max_drop: float
    verdict: GateVerdict
    speed: Speed
    drop: Drop | None
    equal_coverage: EqualCoverage | None = None
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
            bounds = f"99%, if stretches of {speed.stretch} rounds are independent: {low:.3f} to {high:.3f}"
        about = _ABOUT[speed.verdict]
        rounds, quiet = counted(speed.rounds, "round"), speed.quiet_rounds
        if quiet is not None and quiet < speed.rounds:
            count = "were quiet, so that all count" if speed.all_count else "were quiet and count"
            rounds += f", of which {quiet} {count} (other programs took {speed.background_load or 0:.0%})"
        reasons = [
            f"{speed.candidate_ms:.3f} ms against {speed.baseline_ms:.3f} ms in the median, and {speed.ratio:.3f} "
            f"times as long in the median round ({bounds}), {about} the limit of {limit:g}, after "
            f"{rounds} in {speed.seconds:.1f} s."
        ]
        if speed.verdict == "undecided":
            reasons.append(
                "The budget ended before the interval decided, which takes 40 rounds at least and more the more "
                "they depend on those before: give more (--budget-s) or a quieter machine."
            )
        if self.drop:
            reasons += self.drop.sentences(self.max_drop)
            if self.equal_coverage:
                reasons.append(self.equal_coverage.sentence(self.max_drop))
        else:
            reasons.append("Accuracy was not compared.")
        return (f"{self.verdict}: {self.candidate} beside {self.baseline}, on {self.target}.", *reasons)

    def to_markdown(self) -> str:
        return _markdown(*self.sentences, f"{self.environment.cpu}, {counted(self.environment.threads, 'thread')}.")


class SelfTest(Record):
    """An engine against itself: "fail" is wrong, "undecided" wasted; it passes with few of these."""

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
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
            f"self-test: {self.engine} against itself, {counted(count, 'time')}.",
            f"False alarms: {self.false_alarms} ({self.false_alarms / count:.1%}); up to {FALSE_ALARMS:.0%} pass.",
            f"Undecided: {self.undecided} ({self.undecided / count:.1%}); up to {UNDECIDED:.0%} pass.",
        )

    def to_markdown(self) -> str:
        return _markdown(*self.sentences)


def _markdown(verdict: str, *reasons: str) -> str:
    listed = (f"- {plain_markdown(reason)}" for reason in reasons)
    return "\n".join((f"{MARK}: {plain_markdown(verdict)}", "", *listed, ""))
