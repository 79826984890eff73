"""The report's verdict in one sentence, by fixed rules, with what is bad as well as what is good."""

from collections.abc import Iterator, Sequence

from rrr_edge.bundle.measurements import Alternative, Measurement, Ratio, quiet_ratio
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.verification import may_guess
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.tradeoff import accuracy_interval
from rrr_edge.report.words import interval_of, milliseconds, title_of


def verdict(candidates: Sequence[Candidate]) -> str:
    """On the first candidate, and on whatever among the rest and in its own profile is better."""
    own = candidates[0]
    target, here = own.profile.target, own.profile.environment
    threads = f"{target.threads} thread{'s' if target.threads > 1 else ''}"
    claims = [
        f"{own.profile.bundle} answers one image in {milliseconds(own.median_ms)} with {target.name} "
        f"{target.precision} on {threads} of {here.cpu}",
        *_speed(own),
        *_accuracy(own),
    ]
    doubts = list(_doubts(candidates))
    return f"{', '.join(claims)}{', but ' if doubts else ''}{'; '.join(doubts)}."


def _speed(own: Candidate) -> Iterator[str]:
    """Over the fastest of the slower baselines, which flatters least, and over the slowest."""
    slower = sorted((r for r in own.profile.ratios if r.interval[0] > 1), key=lambda r: r.value)
    if slower:
        yield f"{_times(slower[0])} as fast as {slower[0].of} (95% interval {interval_of(slower[0].interval)})"
    if len(slower) > 1:
        yield f"{_times(slower[-1])} as fast as {slower[-1].of}"


def _accuracy(own: Candidate) -> Iterator[str]:
    proof = own.profile.verification
    if own.profile.accuracy:
        low, high = accuracy_interval(own.profile)
        beside = ""
        if reference := own.profile.reference:
            beside = f", {reference.paired.words} beside the {reference.accuracy:.1%} of {reference.name}"
        yield f"and is right on {proof.accuracy:.1%} of {proof.images} test images ({low:.1%} to {high:.1%}){beside}"


def _doubts(candidates: Sequence[Candidate]) -> Iterator[str]:
    own, profile = candidates[0], candidates[0].profile
    classes = len(own.bundle.manifest.labels)
    if not profile.verification.passed:
        yield "it failed its verification"
    if profile.accuracy is None:
        yield "how often it is right is not known"
    elif may_guess(accuracy_interval(profile)[0], classes):
        yield f"that is not surely better than guessing at random among {classes} classes"
    if not (profile.ratios or profile.bounds or len(candidates) > 1):
        yield "nothing was measured beside it"
    for bound in profile.bounds:
        known = ", ".join(filter(None, (bound.words, bound.bias)))
        why = profile.engine.disturbed or "the machine was busy"
        yield f"how much faster it is than {bound.of} cannot be said, as {why} ({known})"
    for beside in profile.ratios:
        if beside.interval[1] < 1:
            yield f"{beside.of} is faster: it takes {beside.value:.2f} times as long ({interval_of(beside.interval)})"
        elif beside.interval[0] <= 1:
            yield f"it cannot be told from {beside.of} ({_times(beside)} its time, {interval_of(beside.interval)})"
    for alternative in _faster_pruned(profile.alternatives)[:1]:
        subject = alternative.subject
        yield (
            f"{subject.granularity}-wise pruning by {subject.sparsity or 0:.0%} is faster in the same runtime "
            f"({milliseconds(alternative.summary.median_ms)}), its accuracy not known"
        )
    for other in candidates[1:]:
        if other.bundle.path != own.bundle.path:
            yield from _better(other.profile, profile)
    if profile.beyond_ceiling:
        yield f"the machine's ceiling is not its best: parts compute above it ({profile.beyond_ceiling})"
    if unstable := [m for m in profile.measurements if m.summary.unstable]:
        spread = f"the middle half of the runs spreads by {profile.engine.summary.spread:.0%}"
        its = f"its own time was unstable ({profile.engine.disturbed or spread})"
        others = "one other time was" if len(unstable) == 1 else f"{len(unstable)} other times were"
        yield its if profile.engine in unstable else f"{others} unstable"


def _better(other: Profile, own: Profile) -> Iterator[str]:
    """In what another bundle's engine is surely better: the intervals lie apart, and accuracies are of one task."""
    if other.engine.summary.median_interval_ms[1] < own.engine.summary.median_interval_ms[0]:
        yield f"{title_of(other)} is faster ({milliseconds(other.engine.summary.median_ms)})"
    if other.accuracy and own.accuracy and other.accuracy.per_class.keys() == own.accuracy.per_class.keys():
        (low, high), (_, reached) = accuracy_interval(other), accuracy_interval(own)
        if low > reached:
            yield f"{title_of(other)} is right more often ({other.verification.accuracy:.1%}, {low:.1%} to {high:.1%})"


def _faster_pruned(alternatives: Sequence[Alternative]) -> list[Measurement]:
    """What pruning made faster than the engine was in the very same rounds; the fastest first."""
    engines = {a.ratio.to: a.measurement for a in alternatives if a.measurement.subject.granularity is None}
    faster = [
        a.measurement
        for a in alternatives
        if a.measurement.subject.granularity not in (None, "baseline")
        and a.ratio.to in engines
        and (beside := quiet_ratio(a.measurement, engines[a.ratio.to]))
        and beside.interval[1] < 1
    ]
    return sorted(faster, key=lambda m: m.summary.median_ms)


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.3g} times"
