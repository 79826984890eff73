"""Time against sparsity for each granularity of pruning, as in figure 3 of Sun et al. 2023."""

from collections.abc import Sequence

import numpy as np

from rrr_edge.bundle.measurements import Alternative, Granularity, Measurement
from rrr_edge.bundle.profile import Profile
from rrr_edge.report.markup import Markup, together
from rrr_edge.report.plots import (
    BOTTOM,
    LEFT,
    LOOKS,
    OWN,
    PLOT,
    TOP,
    Axis,
    Look,
    Picture,
    error_bar,
    frame,
    legend,
    legend_height,
    line,
    mark,
    shorten,
    text,
)
from rrr_edge.report.words import milliseconds, three_digits

# Three panels fit beside each other.
_WIDTH = 330
_UNPRUNED = Look("12 4", None)
_BUSY = "Too busy a machine: the heights may be far off."
_GRANULARITIES: tuple[Granularity, ...] = ("block", "channel", "element")


def sparsity_panels(profile: Profile) -> list[Picture]:
    """One panel a runtime; the engine's own network is marked in the panel of its runtime."""
    runtimes = dict.fromkeys(a.measurement.subject.runtime for a in profile.alternatives)
    return [
        _panel(runtime, [a for a in profile.alternatives if a.measurement.subject.runtime == runtime], profile)
        for runtime in runtimes
    ]


def _panel(runtime: str, alternatives: Sequence[Alternative], profile: Profile) -> Picture:
    """What was measured in the same rounds stands at the same place: a busy machine lifts a round as a whole."""
    curves = {
        granularity: sorted((a.measurement for a in alternatives if _is(a, granularity)), key=_sparsity)
        for granularity in _GRANULARITIES
    }
    unpruned = _unpruned(alternatives)
    own = _own(alternatives)
    shown = [m for curve in curves.values() for m in curve] + [m for _, m in unpruned] + ([own] if own else [])
    x = Axis(0, 100, LEFT, _WIDTH - 12, 20)
    y = Axis.straight((0, *(m.summary.mean_interval_ms[1] for m in shown)), TOP + PLOT, TOP)
    drawn = [frame(x, y, x_label="% of parameters removed", y_label="mean ms for one image")]
    entries: list[tuple[Look, str]] = []
    said = []
    if unpruned:
        path = [(x(100 * place), y(m.summary.mean_ms)) for place, m in unpruned]
        drawn.append(line([(x.start, path[0][1]), *path, (x.end, path[-1][1])], _UNPRUNED))
        ms = milliseconds(float(np.median([m.summary.mean_ms for _, m in unpruned])))
        entries.append((_UNPRUNED, f"not pruned, {ms}"))
        said.append(f"not pruned {ms}")
    for look, (granularity, curve) in zip(LOOKS, curves.items(), strict=False):
        if not curve:
            continue
        drawn.append(line([(x(100 * _sparsity(m)), y(m.summary.mean_ms)) for m in curve], look))
        drawn += [_point(m, x, y, look, granularity) for m in curve]
        entries.append((look, f"{granularity}-wise"))
        told = ", ".join(f"{milliseconds(m.summary.mean_ms)} at {_sparsity(m):.0%}" for m in curve)
        said.append(f"{granularity}-wise {told}")
    if own:
        drawn.append(_point(own, x, y, OWN, profile.bundle))
        entries.append(
            (OWN._replace(lined=False), f"{shorten(profile.bundle, 26)}, {milliseconds(own.summary.mean_ms)}")
        )
        said.append(f"{profile.bundle} {milliseconds(own.summary.mean_ms)} at {_sparsity(own):.0%}")
    top, busy = y.start + BOTTOM, "" if all(m.is_quiet for m in shown) else _BUSY
    height = top + legend_height(entries)
    if busy:
        drawn.append(text(busy, 0, height + 10, look="soft"))
    told = f"Mean milliseconds against the share of removed parameters, with 95% intervals. {'; '.join(said)}. {busy}"
    drawing = together((*drawn, legend(entries, top)))
    return Picture("figure3", runtime, told.rstrip(), drawing, height + (20 if busy else 0), _WIDTH)


def _is(alternative: Alternative, granularity: Granularity | None) -> bool:
    subject = alternative.measurement.subject
    return subject.granularity == granularity and subject.sparsity is not None


def _unpruned(alternatives: Sequence[Alternative]) -> list[tuple[float, Measurement]]:
    """The unpruned network of each round at that round's middle sparsity."""
    found = []
    for baseline in (a.measurement for a in alternatives if _is(a, "baseline")):
        beside = [a.measurement for a in alternatives if a.ratio.to == baseline.name]
        places = [_sparsity(m) for m in beside if m.subject.granularity in _GRANULARITIES]
        found.append((float(np.mean(places)) if places else 0.0, baseline))
    return sorted(found, key=lambda place: place[0])


def _own(alternatives: Sequence[Alternative]) -> Measurement | None:
    """The engine as it was measured in the round nearest to its own sparsity; None where it was not."""
    engines = {a.ratio.to: a.measurement for a in alternatives if _is(a, None)}
    rounds = [(place, engines[m.name]) for place, m in _unpruned(alternatives) if m.name in engines]
    return min(rounds, key=lambda r: abs(r[0] - _sparsity(r[1])), default=(0, None))[1]


def _point(m: Measurement, x: Axis, y: Axis, look: Look, what: str) -> Markup:
    left, (low, high) = x(100 * _sparsity(m)), m.summary.mean_interval_ms
    ms = f"{milliseconds(m.summary.mean_ms)} ({three_digits(low)} to {three_digits(high)})"
    tip = f"{what}, {_sparsity(m):.0%} removed: {ms}"
    return together((error_bar(left, y(max(low, 0)), y(high), look), mark(left, y(m.summary.mean_ms), look, tip=tip)))


def _sparsity(m: Measurement) -> float:
    return m.subject.sparsity or 0.0
