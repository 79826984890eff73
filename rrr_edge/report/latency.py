"""Figures of latency: medians with intervals, and the distribution of the runs."""

import numpy as np

from rrr_edge.bundle.measurements import Measurement
from rrr_edge.bundle.profile import ENGINE, PHOTO, PREDICT, Profile
from rrr_edge.errors import counted
from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import (
    BOTTOM,
    LEFT,
    LOOKS,
    OWN,
    PLOT,
    RIGHT,
    TOP,
    Axis,
    Picture,
    axis_below,
    frame,
    legend,
    legend_height,
    line,
    row_of,
    shorten,
)
from rrr_edge.report.words import milliseconds, title_of
from rrr_edge.timing.statistics import Floats

_ROW = 46


def draw_latency(profile: Profile) -> Picture:
    """One row for each candidate: every run as a tick, the middle half as a box, the median as a bar."""
    shown = _candidates(profile)
    axis = Axis.decades((ms for m in shown for ms in m.samples_ms), 2, RIGHT)
    ratios = {r.of: f", {r.value:.3g} times the engine's" for r in profile.ratios}
    words = {m.name: f"{milliseconds(m.summary.median_ms)}{ratios.get(m.name, '')}" for m in shown}
    rows = [_box(m, axis, _ROW * index, words[m.name], own=m.name == ENGINE) for index, m in enumerate(shown)]
    bottom = _ROW * len(shown)
    return Picture(
        "latency",
        f"Every run, {title_of(profile)}",
        "Time of one image on a logarithmic axis; a tick is one run, the box the middle half, the bar the median. "
        f"{'; '.join(f'{name}: median {said}' for name, said in words.items())}.",
        together((*rows, axis_below(axis, bottom, "ms for one image, logarithmic"))),
        bottom + 42,
    )


def _box(m: Measurement, axis: Axis, top: float, words: str, *, own: bool) -> Markup:
    middle = top + 30
    q1, median, q3 = (axis(float(q)) for q in np.quantile(m.judged_ms, [0.25, 0.5, 0.75]))
    places = sorted({round(2 * axis(ms)) / 2 for ms in m.samples_ms})
    box = {"x": q1, "y": middle - 7, "width": max(q3 - q1, 2), "height": 14}
    return element(
        "g",
        row_of(axis, f"{shorten(m.name, 32)}: {words}", top, 24, own=own),
        element("path", class_="faint", d="".join(f"M{place:g},{middle - 5:g}v10" for place in places)),
        element("rect", class_="box full" if own else "box hollow", **box),
        element("path", class_="median line", d=f"M{median:.2f},{middle - 10:g}v20"),
        class_="own" if own else None,
    )


def draw_distribution(profile: Profile) -> Picture:
    """The share of runs that took at most so many times the candidate's own median."""
    shown = _candidates(profile)
    times = {m.name: np.sort(m.samples_ms) / m.summary.median_ms for m in shown}
    edge = min(max(float(t[-1]) for t in times.values()), 2.0)
    x = Axis.straight((min(float(t[0]) for t in times.values()), edge), LEFT, RIGHT)
    y = Axis(0, 100, TOP + PLOT, TOP, 25)
    rivals = iter(LOOKS * len(shown))
    looks = {m.name: OWN if m.name == ENGINE else next(rivals) for m in shown}
    curves = [line(_steps(t[t <= x.high], len(t), x, y), looks[name]) for name, t in reversed(times.items())]
    entries = [
        (looks[m.name]._replace(shape=None), f"{shorten(m.name, 30)}, median {milliseconds(m.summary.median_ms)}")
        for m in shown
    ]
    said = [
        f"{m.name}: nine in ten within {m.summary.p90_ms / m.summary.median_ms:.2f} times its median" for m in shown
    ]
    beyond = sum(int((t > x.high).sum()) for t in times.values())
    label = "times its own median" + (f"; {counted(beyond, 'run')} beyond the edge" if beyond else "")
    top = y.start + BOTTOM
    return Picture(
        "distribution",
        f"How the runs spread, {title_of(profile)}",
        f"Share of the runs against their time over their own median. {'; '.join(said)}.",
        together((frame(x, y, x_label=label, y_label="% of the runs"), *curves, legend(entries, top))),
        top + legend_height(entries),
    )


def _steps(sorted_times: Floats, runs: int, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """The corners of the empirical distribution function, as pixels."""
    corners = [(x(x.low), y(0))]
    for count, time in enumerate(sorted_times, 1):
        corners += [(x(float(time)), corners[-1][1]), (x(float(time)), y(100 * count / runs))]
    return [*corners, (x.end, corners[-1][1])]


def _candidates(profile: Profile) -> list[Measurement]:
    return [profile.engine, profile.measurement(PREDICT), profile.measurement(PHOTO), *profile.baselines]
