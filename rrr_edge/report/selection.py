"""The figure of a block selection."""

from collections.abc import Sequence

from rrr_edge.bundle.selection import Row
from rrr_edge.report.markup import together
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
    frame,
    legend,
    legend_height,
    line,
    mark,
)


def draw_selection(rows: Sequence[Row], *, chosen: str) -> str:
    """An SVG like Fig. 4: the error against the number of blocks, and the control's after as many epochs."""
    blocks = [sum(map(int, row.depths.split("_"))) for row in rows]
    mine = next(i for i, row in enumerate(rows) if row.depths == chosen)
    curves = {"blocks appended": [row.accuracy for row in rows]}
    if rows[0].control is not None:
        curves[f"control: {rows[0].depths}, as many epochs"] = [row.control or 0.0 for row in rows]
    errors = {name: [100 * (1 - accuracy) for accuracy in curve] for name, curve in curves.items()}
    x = Axis.straight(blocks, LEFT, RIGHT, least_step=1)
    y = Axis.straight((error for curve in errors.values() for error in curve), TOP + PLOT, TOP)
    drawn = [frame(x, y, x_label="bottleneck blocks", y_label="validation error, %")]
    entries = list(zip(LOOKS, errors, strict=False))
    for (look, name), curve in zip(entries, errors.values(), strict=True):
        drawn.append(line([(x(n), y(error)) for n, error in zip(blocks, curve, strict=True)], look))
        drawn += [
            mark(x(n), y(error), look, tip=f"{name}, {row.depths}: {error:.1f}%")
            for n, error, row in zip(blocks, curve, rows, strict=True)
        ]
    best = errors["blocks appended"][mine]
    drawn.append(mark(x(blocks[mine]), y(best), OWN, tip=f"chosen: {chosen}, {best:.1f}%"))
    entries.append((OWN._replace(lined=False), f"chosen: {chosen}"))
    top = y.start + BOTTOM
    told = "; ".join(f"{row.depths} {100 * (1 - row.accuracy):.1f}%" for row in rows)
    return Picture(
        "selection",
        "Forward block selection",
        f"Validation error against the number of blocks: {told}. Chosen: {chosen}.",
        together((*drawn, legend(entries, top))),
        top + legend_height(entries),
    ).alone()
