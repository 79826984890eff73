"""Figures of accuracy against time, and of the criteria of figure 9 of Sun et al. 2023."""

from collections.abc import Callable, Sequence
from math import cos, pi, sin
from typing import NamedTuple

from rrr_edge.bundle.measurements import Measurement
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.sources import name_of
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import (
    BOTTOM,
    LEFT,
    LOOKS,
    OWN,
    PLOT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Look,
    Picture,
    error_bar,
    frame,
    legend,
    legend_height,
    line,
    mark,
    text,
)
from rrr_edge.report.words import count, milliseconds, title_of
from rrr_edge.timing.statistics import wilson_interval


def draw_pareto(candidates: Sequence[Candidate]) -> Picture | None:
    """Each engine whose accuracy is known; a line joins those that no other beats in both. None for fewer than two.

    Accuracies of another task than the first candidate's, one with other labels, say nothing beside its own.
    """
    labels = set(candidates[0].bundle.manifest.labels)
    known = [c.profile for c in candidates if c.profile.accuracy and set(c.bundle.manifest.labels) == labels]
    if len(known) < 2:
        return None
    ms = [p.engine.summary.median_ms for p in known]
    intervals = [accuracy_interval(p) for p in known]
    x = Axis.decades(ms, LEFT, RIGHT)
    y = Axis.straight((100 * edge for interval in intervals for edge in interval), TOP + PLOT, TOP)
    best = sorted((p for p in known if not any(_beats(q, p) for q in known)), key=_median)
    drawn = [
        frame(x, y, x_label="median ms for one image", y_label="% of the test images right, with 95% interval"),
        line([(x(_median(p)), y(100 * p.verification.accuracy)) for p in best], Look("2 3", None)),
    ]
    entries = []
    for index, (p, (low, high)) in enumerate(zip(known, intervals, strict=True)):
        look = OWN if p is candidates[0].profile else LOOKS[index % len(LOOKS)]
        words = f"{title_of(p)}: {p.verification.accuracy:.1%}, {milliseconds(_median(p))}"
        drawn.append(error_bar(x(_median(p)), y(100 * low), y(100 * high), look))
        drawn.append(mark(x(_median(p)), y(100 * p.verification.accuracy), look, tip=words))
        entries.append((look._replace(lined=False), words))
    top = y.start + BOTTOM
    return Picture(
        "pareto",
        "Accuracy against time",
        f"The line joins what no other beats in both. {'; '.join(words for _, words in entries)}.",
        together((*drawn, legend(entries, top))),
        top + legend_height(entries),
    )


def accuracy_interval(profile: Profile) -> tuple[float, float]:
    """Wilson's, of the engine's own accuracy on the images that it was verified on."""
    images = profile.verification.images
    return wilson_interval(round(profile.verification.accuracy * images), images)


def _median(profile: Profile) -> float:
    return profile.engine.summary.median_ms


def _beats(a: Profile, b: Profile) -> bool:
    better = (a.verification.accuracy - b.verification.accuracy, _median(b) - _median(a))
    return min(better) >= 0 and max(better) > 0


class Criterion(NamedTuple):
    """What is better when smaller; a side that is not known is None.

    Where other programs left too few quiet rounds for a ratio, the two are not `comparable`.
    """

    name: str
    own: float | None
    baseline: float | None
    say: Callable[[float], str]
    comparable: bool = True


def criteria(own: Candidate, candidates: Sequence[Candidate]) -> list[Criterion]:
    """The five of figure 9, of `own` and of the source network beside it.

    The baseline's error is known where one of `candidates` is the whole network, trained for as many classes.
    """
    baseline = _baseline(own.profile)
    subject, theirs = own.profile.engine.subject, baseline.subject if baseline else None
    others = (c for c in candidates if c is not own and c.is_whole and c.task == own.task)
    whole = next((c.profile for c in others), None)
    found = [
        Criterion("error", _error(own.profile), _error(whole) if whole else None, "{:.1%}".format),
        Criterion("parameters", subject.params, theirs.params if theirs else None, count),
        Criterion("MACs", subject.macs, theirs.macs if theirs else None, count),
    ]
    for device in ("CPU", "GPU"):
        mine = (c for c in (own, *candidates) if c.bundle.path == own.bundle.path)
        there = next((c.profile for c in mine if c.device == device), None)
        beside_it = _baseline(there) if there else None
        bounded = [bound.of for bound in there.bounds] if there else []
        found.append(
            Criterion(
                f"{device} ms",
                _median(there) if there else None,
                beside_it.summary.median_ms if beside_it else None,
                "{:.3g}".format,
                comparable=beside_it is None or beside_it.name not in bounded,
            )
        )
    return found


def draw_spider(own: Candidate, candidates: Sequence[Candidate]) -> Picture | None:
    """An arm a criterion, as long as the larger of both values; None where fewer than three are known of both."""
    every = criteria(own, candidates)
    known = [c for c in every if c.own is not None and c.baseline is not None and c.comparable]
    if len(known) < 3:
        return None
    centre, radius = (WIDTH / 2, 140.0), 96.0

    def at(arm: int, share: float) -> tuple[float, float]:
        angle = 2 * pi * arm / len(known) - pi / 2
        return centre[0] + radius * share * cos(angle), centre[1] + radius * share * sin(angle)

    def ring(shares: Sequence[float]) -> list[tuple[float, float]]:
        corners = [at(arm, share) for arm, share in enumerate(shares)]
        return [*corners, corners[0]]

    # Where both are 0, both arms have no length.
    longest = [max(c.own or 0, c.baseline or 0) or 1 for c in known]
    sides = {
        OWN: [(c.own or 0) / most for c, most in zip(known, longest, strict=True)],
        LOOKS[1]: [(c.baseline or 0) / most for c, most in zip(known, longest, strict=True)],
    }
    drawn = [_path(ring([share] * len(known))) for share in (0.25, 0.5, 0.75, 1)]
    drawn += [_path([centre, at(arm, 1)]) for arm in range(len(known))]
    for look, shares in reversed(sides.items()):
        drawn.append(line(ring(shares), look))
        drawn += [
            mark(*at(arm, share), look, tip=f"{known[arm].name}: {share:.0%}") for arm, share in enumerate(shares)
        ]
    words = [f"{c.say(c.own or 0)} of {c.say(c.baseline or 0)}" for c in known]
    for arm, (c, said) in enumerate(zip(known, words, strict=True)):
        x, y = at(arm, 1.14)
        anchor = "middle" if abs(x - centre[0]) < 8 else "start" if x > centre[0] else "end"
        lift = -12 if y < centre[1] - 90 else 8 if y > centre[1] + 100 else 0
        drawn.append(text(c.name, x, y + lift, look="strong", anchor=anchor))
        drawn.append(text(said, x, y + lift + 15, look="soft", anchor=anchor))
    absent = [c.name for c in every if c not in known and c.comparable]
    busy = [c.name for c in every if not c.comparable]
    entries = [(OWN, title_of(own.profile)), (LOOKS[1], name_of(own.bundle.manifest.recipe.backbone))]
    top = max(at(arm, 1.14)[1] for arm in range(len(known))) + 44
    left_out = [
        *([f"Not known of both, so left out: {', '.join(absent)}."] if absent else []),
        *([f"Too busy a machine to compare, so left out: {', '.join(busy)}."] if busy else []),
    ]
    for row, sentence in enumerate(left_out):
        drawn.append(text(sentence, 0, top + legend_height(entries) + 10 + 18 * row, look="soft"))
    told = "; ".join(f"{c.name} {said}" for c, said in zip(known, words, strict=True))
    return Picture(
        "spider",
        f"Candidate and baseline, {title_of(own.profile)}",
        f"An arm for each criterion, as long as the larger value: {told}. {' '.join(left_out)}".rstrip(),
        together((*drawn, legend(entries, top))),
        top + legend_height(entries) + (2 + 18 * len(left_out) if left_out else 0),
    )


def _path(points: Sequence[tuple[float, float]]) -> Markup:
    return element("path", class_="grid", fill="none", d="M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _error(profile: Profile) -> float | None:
    return 1 - profile.verification.accuracy if profile.accuracy else None


def _baseline(profile: Profile) -> Measurement | None:
    """The unpruned network in the engine's own runtime, else the fastest that was measured."""
    whole = [m for m in profile.baselines if m.subject.params]
    same = [m for m in whole if m.subject.runtime == profile.engine.subject.runtime]
    return min(same or whole, key=lambda m: m.summary.median_ms, default=None)
