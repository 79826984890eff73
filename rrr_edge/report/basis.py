"""The figure of basis scaling: accuracy against the parameters that are left."""

from collections.abc import Sequence

from rrr_edge.bundle.basis import BasisRow
from rrr_edge.report.markup import element, together
from rrr_edge.report.plots import BOTTOM, LEFT, LOOKS, OWN, PLOT, RIGHT, TOP, Axis, Picture, frame, mark


def draw_basis(rows: Sequence[BasisRow], *, taken: int) -> str:
    """An SVG of the judged networks, the one that was taken marked; "" where none was judged."""
    judged = [row for row in rows if row.accuracy is not None]
    return _picture(judged, taken).alone() if judged else ""


def _picture(rows: Sequence[BasisRow], taken: int) -> Picture:
    accuracies = [100 * (row.accuracy or 0) for row in rows]
    values = [row.params / 1e6 for row in rows]
    least = rows[0].least
    x = Axis.straight(values, LEFT, RIGHT)
    y = Axis.straight((*accuracies, *([] if least is None else [100 * least])), TOP + PLOT, TOP)
    marks = [
        mark(
            x(value),
            y(accuracy),
            OWN if row.removals == taken else LOOKS[0],
            tip=f"{row.removals} removals, {row.bases} basis vectors, {row.sparsity:.1%} gone: {accuracy:.1f}%",
        )
        for row, value, accuracy in zip(rows, values, accuracies, strict=True)
    ]
    if least is not None:
        height = y(100 * least)
        marks.append(element("path", class_="faint", d=f"M{LEFT},{height:.1f}H{RIGHT}", stroke_dasharray="4 3"))
    own = next(row for row in rows if row.removals == taken)
    told = "; ".join(f"{value:.3g}: {accuracy:.1f}%" for value, accuracy in zip(values, accuracies, strict=True))
    limit = "" if least is None else f" The least that is allowed: {100 * least:.1f}%."
    return Picture(
        "basis",
        "Accuracy of pruned networks",
        f"{told}. Taken: {own.params / 1e6:.3g} million parameters.{limit}",
        together((frame(x, y, x_label="million parameters", y_label="accuracy on the deciding photos, %"), *marks)),
        TOP + PLOT + BOTTOM,
    )
