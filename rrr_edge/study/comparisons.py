"""Figures of a study: differences to the best (figure 7), criteria (figure 9) and learning curves."""

from collections.abc import Callable, Sequence
from math import cos, pi, sin
from statistics import fmean
from typing import NamedTuple

import numpy as np

from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import (
    BOTTOM,
    LEFT,
    PLOT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Picture,
    frame,
    legend,
    legend_height,
    line,
    mark,
    shorten,
    text,
)
from rrr_edge.report.words import count, three_digits
from rrr_edge.study.charts import WIDE, legend_of, look_of, number_of
from rrr_edge.study.results import Results
from rrr_edge.study.statistics import cluster_order

_NAMES = 170
_CELL, _HEAD = 24, 24
# Darker, and the number in it could not be read.
_DARKEST = 0.5
# The most methods that a spider can show apart.
_WEBS = 4
_SHARES = np.linspace(0, 1, 21)


def draw_heat_map(results: Results) -> Picture | None:
    """Figure 7: a row a data set, a column a method, the darker the more points worse than the row's best.

    Alike rows are neighbours, and so are alike columns.
    """
    if not results.common or len(results.methods) < 2:
        return None
    points = 100 * np.array([results.errors(method) for method in results.methods]).T
    points = points - points.min(axis=1, keepdims=True)
    rows, columns = cluster_order(points), cluster_order(points.T)
    width = min(110.0, (WIDE - _NAMES) / len(columns))
    largest = points.max() or 1.0
    drawn = []
    for place, column in enumerate(columns):
        drawn.append(text(str(column + 1), _NAMES + width * (place + 0.5), 14, look="strong", anchor="middle"))
    for line_, row in enumerate(rows):
        top = _HEAD + _CELL * line_
        drawn.append(text(shorten(results.common[row], 24), 0, top + 16))
        for place, column in enumerate(columns):
            words = f"{results.common[row]}, {results.methods[column]}"
            drawn.append(_cell(points[row, column], largest, words, (_NAMES + width * place, top), width))
    entries = legend_of(results, [results.methods[column] for column in columns])
    bottom = _HEAD + _CELL * len(rows) + 14
    told = "; ".join(f"{m}: {points[:, i].mean():.1f} points on average" for i, m in enumerate(results.methods))
    return Picture(
        "heat-map",
        "Points worse than the best",
        told,
        together((*drawn, legend(entries, bottom))),
        bottom + legend_height(entries),
        WIDE,
    )


def _cell(worse: float, largest: float, words: str, corner: tuple[float, float], width: float) -> Markup:
    (x, y), own = corner, " own" if worse == 0 else ""
    tip = f"{words}: {worse:.1f} points worse than the best"
    look, said = ("strong", "best") if own else (None, f"{worse:.1f}")
    box = {"x": x, "y": y, "width": width - 1, "height": _CELL - 1, "fill_opacity": _DARKEST * worse / largest}
    return together(
        (
            element("rect", element("title", tip), class_=f"segment{own}", fill="currentColor", **box),
            text(said, x + width / 2, y + 16, look=look, anchor="middle"),
        )
    )


class _Criterion(NamedTuple):
    """What is better when smaller."""

    name: str
    of: Callable[[str], float]
    say: Callable[[float], str]


def draw_criteria(results: Results) -> Picture | None:
    """Figure 9: an arm a criterion, as long as the largest value; of methods that no other beats in error and time."""
    shown = results.pareto[:_WEBS]
    if len(shown) < 2:
        return None
    criteria = [
        _Criterion("error", lambda m: float(results.errors(m).mean()), lambda value: f"{100 * value:.1f}%"),
        _Criterion("parameters", lambda m: results.cost(m, "params"), count),
        _Criterion("MACs", lambda m: results.cost(m, "macs"), count),
        _Criterion("core hours", results.core_hours, three_digits),
    ]
    if results.timed:
        criteria.insert(1, _Criterion("ms", lambda m: results.latency_ms(m).mean, three_digits))
    centre, radius = (WIDTH / 2, 130.0), 96.0

    def at(arm: int, share: float) -> tuple[float, float]:
        angle = 2 * pi * arm / len(criteria) - pi / 2
        return centre[0] + radius * share * cos(angle), centre[1] + radius * share * sin(angle)

    def ring(shares: Sequence[float]) -> list[tuple[float, float]]:
        corners = [at(arm, share) for arm, share in enumerate(shares)]
        return [*corners, corners[0]]

    values = {m: [criterion.of(m) for criterion in criteria] for m in shown}
    longest = [max(column) or 1.0 for column in zip(*values.values(), strict=True)]
    drawn = [_path(ring([share] * len(criteria))) for share in (0.25, 0.5, 0.75, 1)]
    drawn += [_path([centre, at(arm, 1)]) for arm in range(len(criteria))]
    for m, row in values.items():
        look = look_of(results, m)
        shares = [value / most for value, most in zip(row, longest, strict=True)]
        drawn.append(line(ring(shares), look))
        for arm, (share, value) in enumerate(zip(shares, row, strict=True)):
            drawn.append(mark(*at(arm, share), look, tip=f"{m}, {criteria[arm].name}: {criteria[arm].say(value)}"))
    for arm, criterion in enumerate(criteria):
        x, y = at(arm, 1.16)
        anchor = "middle" if abs(x - centre[0]) < 8 else "start" if x > centre[0] else "end"
        drawn.append(text(criterion.name, x, y - 4, look="strong", anchor=anchor))
        drawn.append(text(f"up to {criterion.say(longest[arm])}", x, y + 10, look="soft", anchor=anchor))
    entries = legend_of(results, shown, lined=True)
    top = centre[1] + 1.16 * radius + 40
    told = "; ".join(
        f"{m}: " + ", ".join(f"{c.name} {c.say(value)}" for c, value in zip(criteria, row, strict=True))
        for m, row in values.items()
    )
    return Picture(
        "criteria", "Criteria together", told, together((*drawn, legend(entries, top))), top + legend_height(entries)
    )


def _path(points: Sequence[tuple[float, float]]) -> Markup:
    return element("path", class_="grid", fill="none", d="M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points))


def draw_curves(results: Results) -> Picture | None:
    """The errors on the training photos, as they were augmented, over the training: means over a method's cells."""
    curves = {m: curve for m in results.methods if (curve := _mean_curve(results, m)) is not None}
    if not curves:
        return None
    x = Axis.straight((0, 100), LEFT, RIGHT)
    y = Axis.straight((0, *(e for curve in curves.values() for e in curve)), TOP + PLOT, TOP)
    drawn = [frame(x, y, x_label="% of the epochs", y_label="% wrong on the training photos")]
    for m, curve in curves.items():
        look = look_of(results, m)
        points = [(x(100 * share), y(error)) for share, error in zip(_SHARES, curve, strict=True)]
        at = points[(3 * number_of(results, m)) % len(points)]
        drawn += [line(points, look), mark(*at, look, tip=m), text(str(number_of(results, m)), at[0] + 6, at[1] - 6)]
    entries = legend_of(results, list(curves), lined=True)
    top = y.start + BOTTOM
    told = "; ".join(f"{m}: {curve[0]:.1f}% to {curve[-1]:.1f}%" for m, curve in curves.items())
    return Picture(
        "curves", "Learning curves", told, together((*drawn, legend(entries, top))), top + legend_height(entries)
    )


def _mean_curve(results: Results, method: str) -> list[float] | None:
    known = [record.curve for record in results.cells(method) if len(record.curve) > 1]
    if not known:
        return None
    spread = [
        np.interp(_SHARES, [point.epoch / curve[-1].epoch for point in curve], [100 * (1 - p.train) for p in curve])
        for curve in known
    ]
    return [fmean(errors) for errors in zip(*(each.tolist() for each in spread), strict=True)]
