"""Figures of a study: accuracy against time, errors by data set (figure 6) and as boxes (figure 8)."""

from collections.abc import Sequence

import numpy as np

from rrr_edge.errors import counted
from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import (
    BOTTOM,
    LEFT,
    LOOKS,
    PLOT,
    RIGHT,
    TOP,
    Axis,
    Look,
    Picture,
    axis_below,
    error_bar,
    frame,
    legend,
    legend_height,
    line,
    mark,
    row_of,
    shorten,
    text,
)
from rrr_edge.report.words import count
from rrr_edge.study.results import Results
from rrr_edge.study.tables import time_of
from rrr_edge.timing.statistics import Interval

WIDE = 900
_NAMES = 170
# The pixels of a method's row in a data set's.
_ROW = 11


def number_of(results: Results, method: str) -> int:
    """By which the method is known in every figure."""
    return results.methods.index(method) + 1


def look_of(results: Results, method: str) -> Look:
    """Coloured where it errs least."""
    return LOOKS[(number_of(results, method) - 1) % len(LOOKS)]._replace(own=method == results.best)


def legend_of(results: Results, methods: Sequence[str], *, lined: bool = False) -> list[tuple[Look, str]]:
    return [(look_of(results, m)._replace(lined=lined), f"{number_of(results, m)}  {m}") for m in methods]


def draw_pareto(results: Results) -> Picture | None:
    """The engines' errors against their times with 95% intervals both ways; without times, networks against MACs."""
    errors = {m: found for m in (results.timed or results.methods) if (found := results.overall(m))}
    shown = list(errors)
    if len(shown) < 2:
        return None
    places: dict[str, tuple[float, Interval | None]] = {}
    for m in shown:
        latency = results.latency_ms(m) if results.timed else None
        places[m] = (latency.mean, latency.interval) if latency else (results.cost(m, "macs") / 1e6, None)
    x = Axis.decades([edge for value, span in places.values() for edge in (value, *(span or ()))], LEFT, RIGHT)
    y = Axis.straight(
        [e for m in shown for e in (100 * errors[m].mean, *_percents(errors[m].interval))], TOP + PLOT, TOP
    )
    front = [m for m in results.pareto if m in shown]
    drawn = [
        frame(
            x,
            y,
            x_label="ms for one image" if results.timed else "million MACs",
            y_label="% wrong on the test photos, with 95% intervals",
        ),
        line([(x(places[m][0]), y(100 * errors[m].mean)) for m in front], Look("2 3", None)),
    ]
    entries = []
    for m in shown:
        look, (place, span), error = look_of(results, m), places[m], errors[m]
        at = x(place), y(100 * error.mean)
        cost = time_of(results, m) if results.timed else f"{count(1e6 * place)} MACs"
        words = f"{number_of(results, m)}  {m}: {100 * error.mean:.1f}%, {cost}"
        if error.interval:
            low, high = _percents(error.interval)
            drawn.append(error_bar(at[0], y(low), y(high), look))
        if span:
            drawn.append(_sideways(at[1], x(span[0]), x(span[1]), look))
        drawn += [mark(*at, look, tip=words), text(str(number_of(results, m)), at[0] + 7, at[1] - 6, look="strong")]
        entries.append((look._replace(lined=False), words))
    top = y.start + BOTTOM
    return Picture(
        "pareto",
        "Accuracy against time" if results.timed else "Accuracy against multiply-accumulates",
        f"The line joins what no other method beats in both. {'; '.join(words for _, words in entries)}.",
        together((*drawn, legend(entries, top))),
        top + legend_height(entries),
    )


def _percents(interval: Interval | None) -> tuple[float, ...]:
    return tuple(100 * edge for edge in interval) if interval else ()


def _sideways(y: float, low: float, high: float, look: Look) -> Markup:
    return element(
        "path",
        class_="bar thin own" if look.own else "bar thin",
        d=f"M{low:.2f},{y - 3:.2f}v6M{low:.2f},{y:.2f}H{high:.2f}M{high:.2f},{y - 3:.2f}v6",
    )


def draw_data_sets(results: Results) -> Picture:
    """Figure 6: a row a data set, in it a line a method; dots are seeds, the mark their mean with its t-interval."""
    easiest_first = sorted(
        results.data, key=lambda d: min(e.mean for m in results.methods if (e := results.error(m, d)))
    )
    reach = [100 * error for m in results.methods for d in results.data for error in results.seed_errors(m, d)]
    x = Axis.straight((0, *reach), _NAMES, WIDE - 20)
    height = _ROW * len(results.methods) + 10
    drawn, bottom = [], height * len(easiest_first) + 6
    drawn.append(element("path", class_="grid", d="".join(f"M{x(tick):.2f},0V{bottom}" for tick in x.ticks)))
    for row, data in enumerate(easiest_first):
        top = 6 + height * row
        drawn.append(text(shorten(data, 24), 0, top + height / 2, look="strong"))
        for place, method in enumerate(results.methods):
            drawn += _estimates(results, method, data, x, top + _ROW * (place + 0.5))
    drawn.append(axis_below(x, bottom, "% wrong on the test photos"))
    entries = legend_of(results, results.methods)
    told = "; ".join(
        f"{data}: " + ", ".join(f"{m} {100 * e.mean:.1f}%" for m in results.methods if (e := results.error(m, data)))
        for data in easiest_first
    )
    return Picture(
        "data-sets",
        "Errors by data set",
        told,
        together((*drawn, legend(entries, bottom + BOTTOM))),
        bottom + BOTTOM + legend_height(entries),
        WIDE,
    )


def _estimates(results: Results, method: str, data: str, x: Axis, y: float) -> list[Markup]:
    found = results.error(method, data)
    if found is None:
        return []
    look = look_of(results, method)
    errors = [100 * error for error in results.seed_errors(method, data)]
    low, high = (x(edge) for edge in (_percents(found.interval) or (100 * found.mean, 100 * found.mean)))
    low, high = min(max(low, x.start), x.end), min(max(high, x.start), x.end)
    tip = f"{data}, {method}: {100 * found.mean:.1f}%, {counted(found.n, 'seed')}"
    dots = "".join(f"M{x(error) - 1:.1f},{y:.1f}h2" for error in errors)
    return [
        element("path", class_="bar thin own" if look.own else "bar thin", d=f"M{low:.1f},{y:.1f}H{high:.1f}{dots}"),
        mark(x(100 * found.mean), y, look, tip=tip),
    ]


def draw_boxes(results: Results) -> Picture | None:
    """Figure 8: of each method the quartiles over data sets, whiskers to 1.5 times their range, the mean as a mark."""
    if len(results.common) < 3:
        return None
    everything = {m: 100 * results.errors(m) for m in results.methods}
    x = Axis.straight((0, *(e for errors in everything.values() for e in errors)), 6, RIGHT)
    drawn, row = [], 46
    for place, (method, errors) in enumerate(everything.items()):
        look, top = look_of(results, method), row * place
        q1, median, q3 = np.quantile(errors, [0.25, 0.5, 0.75])
        inside = errors[(errors >= q1 - 1.5 * (q3 - q1)) & (errors <= q3 + 1.5 * (q3 - q1))]
        tip = f"{method}: median {median:.1f}%, half between {q1:.1f} and {q3:.1f}%, mean {errors.mean():.1f}%"
        y = top + 30
        whiskers = f"M{x(inside.min()):.1f},{y}H{x(q1):.1f}M{x(q3):.1f},{y}H{x(inside.max()):.1f}"
        drawn += [
            row_of(x, f"{number_of(results, method)}  {shorten(method, 40)}", top, 22, own=look.own),
            element("rect", element("title", tip), class_="hollow own" if look.own else "hollow", x=x(q1), y=y - 7,
                    width=max(0.5, x(q3) - x(q1)), height=14),
            element("path", class_="line own" if look.own else "line", d=f"{whiskers}M{x(median):.1f},{y - 7}v14"),
            *(mark(x(e), y, LOOKS[2], tip=f"{method}: {e:.1f}%") for e in errors if e not in inside),
            mark(x(errors.mean()), y, look._replace(shape="diamond"), tip=tip),
        ]  # fmt: skip
    bottom = row * len(everything)
    drawn.append(axis_below(x, bottom, "% wrong on the test photos"))
    told = "; ".join(f"{m}: median {np.median(e):.1f}%, mean {e.mean():.1f}%" for m, e in everything.items())
    return Picture("boxes", "Errors over the data sets", told, together(drawn), bottom + BOTTOM)
