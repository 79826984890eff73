"""Figures of doubt: confidence against how often answers are right, and risk against coverage."""

from collections.abc import Sequence

from rrr_edge.bundle.doubt_found import Bin
from rrr_edge.bundle.evaluation import Evaluation
from rrr_edge.report.doubt import NAMES
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
    Look,
    Picture,
    error_bar,
    frame,
    legend,
    legend_height,
    line,
    mark,
)
from rrr_edge.timing.statistics import wilson_interval

_EVEN = Look("1.5 3", None)
_PLAIN = LOOKS[1]._replace(lined=False)


def draw_reliability(evaluation: Evaluation) -> Picture | None:
    """A mark for the answers of about one confidence; on the dotted line they are as often right as they are sure."""
    doubt = evaluation.doubt
    if doubt is None:
        return None
    x, y = Axis(0, 100, LEFT, RIGHT, 20), Axis(0, 100, TOP + PLOT, TOP, 20)
    drawn = [
        frame(x, y, x_label="confidence, %", y_label="% right"),
        line([(x(0), y(0)), (x(100), y(100))], _EVEN),
    ]
    entries: list[tuple[Look, str]] = [(_EVEN, "as often right as sure")]
    series: list[tuple[Look, str, tuple[Bin, ...]]] = []
    if doubt.temperature != 1:
        series.append((_PLAIN, "the engine's probabilities", doubt.plain))
    own = "the engine's probabilities" if doubt.temperature == 1 else f"with the temperature {doubt.temperature:.3g}"
    series.append((OWN._replace(lined=False), own, doubt.tempered))
    for look, name, bins in series:
        entries.append((look, name))
        for each in bins:
            at, right = x(100 * each.confidence), round(each.right * each.photos)
            if look.own:
                low, high = wilson_interval(right, each.photos)
                drawn.append(error_bar(at, y(100 * low), y(100 * high), look))
            tip = f"{name}: {right} of {each.photos} right at {each.confidence:.0%}"
            drawn.append(mark(at, y(100 * each.right), look, tip=tip))
    errors = f"The expected calibration error is {evaluation.accuracy.calibration_error:.3f}"
    if doubt.temperature != 1:
        errors += f" without and {doubt.error_after:.3f} with the temperature"
    return _picture("reliability", f"Confidence and truth, {evaluation.what}", f"{errors}.", drawn, entries)


def draw_risk(evaluation: Evaluation) -> Picture | None:
    """The share of wrong answers among the surest, the more are given; and what was promised for how many."""
    doubt = evaluation.doubt
    if doubt is None:
        return None
    limit = 100 * doubt.promise.max_error if doubt.promise else 0.0
    # The first few answers say nothing: one mistake among them would stretch the axis.
    shown = [
        [(100 * c, 100 * r) for c, r in zip(curve.coverage, curve.risk, strict=True) if c * doubt.photos >= 10]
        or [(100 * curve.coverage[-1], 100 * curve.risk[-1])]
        for curve in doubt.curves
    ]
    x = Axis(0, 100, LEFT, RIGHT, 20)
    y = Axis.straight((0, limit, *(risk for points in shown for _, risk in points)), TOP + PLOT, TOP)
    drawn = [frame(x, y, x_label="% answered, the surest first", y_label="% of the answers wrong")]
    entries: list[tuple[Look, str]] = []
    looks = (OWN._replace(shape=None), *(look._replace(shape=None) for look in LOOKS[1:]))
    for curve, points, look in zip(doubt.curves, shown, looks, strict=False):
        drawn.append(line([(x(c), y(r)) for c, r in points], look))
        entries.append((look, NAMES[curve.measure]))
    told = f"Of all answers {100 * doubt.curves[0].risk[-1]:.1f}% are wrong."
    if doubt.promise:
        share = 100 * doubt.answered / doubt.photos
        at = x(share)
        promised = f"promised: at most {limit:.3g}% wrong"
        drawn.append(element("path", class_="base", stroke_dasharray="4 3", d=f"M{x.start:g},{y(limit):.2f}H{x.end:g}"))
        entries.append((Look("4 3", None), promised))
        if doubt.answered:
            wrong = 100 * doubt.wrong / doubt.answered
            look = OWN._replace(lined=False)
            tip = f"{doubt.wrong} of {doubt.answered} answers wrong, {share:.1f}% answered"
            drawn.append(mark(at, y(wrong), look, tip=tip))
            entries.append((look, f"here: {wrong:.3g}% wrong, {share:.3g}% answered"))
        told += f" Promised are at most {limit:.3g}%; {doubt.words}."
    return _picture("risk", f"Risk and coverage, {evaluation.what}", told, drawn, entries)


def _picture(name: str, title: str, told: str, drawn: Sequence[Markup], entries: Sequence[tuple[Look, str]]) -> Picture:
    top = TOP + PLOT + BOTTOM
    return Picture(name, title, told, together((*drawn, legend(entries, top))), top + legend_height(entries))
