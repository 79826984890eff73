"""Time against sparsity for each granularity of pruning, as in figure 3 of Sun et al. 2023."""

from collections.abc import Sequence

from rrr_edge.anatomy import Alternative
from rrr_edge.markup import Markup, element, together
from rrr_edge.measured import Profile
from rrr_edge.measurement import Granularity, Measurement
from rrr_edge.plots import (
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
)
from rrr_edge.report.words import milliseconds

# Three panels fit beside each other.
_WIDTH = 330
_UNPRUNED = Look("12 4", None)
_GRANULARITIES: tuple[Granularity, ...] = ("block", "channel", "element")


def sparsity_panels(profile: Profile) -> list[Picture]:
    """One panel a runtime; the engine's own network is marked in the panel of its runtime."""
    runtimes = dict.fromkeys(a.measurement.subject.runtime for a in profile.alternatives)
    return [
        _panel(runtime, [a for a in profile.alternatives if a.measurement.subject.runtime == runtime], profile)
        for runtime in runtimes
    ]


def _panel(runtime: str, alternatives: Sequence[Alternative], profile: Profile) -> Picture:
    found = [a.measurement for a in alternatives]
    baseline = next((m for m in found if m.subject.granularity == "baseline"), None)
    own = _own_sparsity(profile, baseline) if profile.engine.subject.runtime == runtime else None
    highs = [m.summary.mean_interval_ms[1] for m in found]
    x = Axis(0, 100, LEFT, _WIDTH - 12, 20)
    y = Axis.straight(
        (0, *highs, *([profile.engine.summary.mean_interval_ms[1]] if own is not None else [])), TOP + PLOT, TOP
    )
    drawn = [frame(x, y, x_label="% of ResNet152's parameters removed", y_label="mean ms for one image")]
    entries: list[tuple[Look, str]] = []
    said = []
    if baseline:
        height = y(baseline.summary.mean_ms)
        drawn.append(
            element("path", class_="unpruned line", d=f"M{x.start},{height:.2f}H{x.end}", stroke_dasharray="12 4")
        )
        entries.append((_UNPRUNED, f"not pruned, {milliseconds(baseline.summary.mean_ms)}"))
        said.append(f"not pruned {milliseconds(baseline.summary.mean_ms)}")
    for granularity, look in zip(_GRANULARITIES, LOOKS, strict=False):
        curve = sorted(
            (m for m in found if m.subject.granularity == granularity and m.subject.sparsity is not None),
            key=_sparsity,
        )
        if not curve:
            continue
        drawn.append(line([(x(100 * _sparsity(m)), y(m.summary.mean_ms)) for m in curve], look))
        drawn += [
            _point(m, x(100 * _sparsity(m)), y, look, f"{granularity}, {_sparsity(m):.0%} removed") for m in curve
        ]
        entries.append((look, f"{granularity}-wise"))
        told = ", ".join(f"{milliseconds(m.summary.mean_ms)} at {_sparsity(m):.0%}" for m in curve)
        said.append(f"{granularity}-wise {told}")
    if own is not None:
        drawn.append(_point(profile.engine, x(100 * own), y, OWN, f"{profile.bundle}, {own:.0%} removed"))
        entries.append((OWN, f"{shorten(profile.bundle, 26)}, {milliseconds(profile.engine.summary.mean_ms)}"))
        said.append(f"{profile.bundle} {milliseconds(profile.engine.summary.mean_ms)} at {own:.0%}")
    top = y.start + BOTTOM
    return Picture(
        "figure3",
        runtime,
        f"Mean milliseconds against the share of removed parameters, with 95 % intervals. {'; '.join(said)}.",
        together((*drawn, legend(entries, top))),
        top + legend_height(entries),
        _WIDTH,
    )


def _point(m: Measurement, x: float, y: Axis, look: Look, what: str) -> Markup:
    low, high = m.summary.mean_interval_ms
    tip = f"{what}: {milliseconds(m.summary.mean_ms)} ({low:.4g} to {high:.4g})"
    return together((error_bar(x, y(low), y(high), look), mark(x, y(m.summary.mean_ms), look, tip=tip)))


def _sparsity(m: Measurement) -> float:
    return m.subject.sparsity or 0.0


def _own_sparsity(profile: Profile, baseline: Measurement | None) -> float | None:
    """The share of the unpruned network's parameters that the engine's network lacks."""
    params, full = profile.engine.subject.params, baseline.subject.params if baseline else None
    return 1 - params / full if params is not None and full else None
