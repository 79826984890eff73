"""Figures of an evaluation: the confusion matrix as a picture, and the learning curve."""

import csv
from collections.abc import Mapping, Sequence

from rrr_edge.bundle.evaluation import Evaluation, worst_confusions
from rrr_edge.bundle.folder import TRAINING_LOG, Bundle
from rrr_edge.errors import CorruptArtifact
from rrr_edge.report.markup import element, together
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
    frame,
    legend,
    legend_height,
    line,
    mark,
    shorten,
    text,
)

_NAMES = 110
# Class names beside the rows are readable from so many pixels a row on.
_READABLE = 11


def draw_confusion(evaluation: Evaluation) -> Picture:
    """A square a cell, the darker the larger the share of the row's photos; what lies beside the diagonal is wrong."""
    classes = len(evaluation.labels)
    cell = (WIDTH - _NAMES) / classes
    drawn = [
        element("rect", class_="grid", fill="none", x=_NAMES, y=20, width=cell * classes, height=cell * classes),
        text("answer, in the same order", _NAMES, 12, look="soft"),
    ]
    for i, (label, row) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True)):
        top = 20 + i * cell
        if cell >= _READABLE:
            drawn.append(text(shorten(label, 16), _NAMES - 6, top + cell / 2 + 4, anchor="end"))
        for j, count in enumerate(row):
            if count:
                share = count / sum(row)
                tip = element("title", f"{label} taken for {evaluation.labels[j]}: {count} of {sum(row)}")
                box = {"x": _NAMES + j * cell, "y": top, "width": cell, "height": cell}
                look = "segment" if i == j else "segment own"
                drawn.append(
                    element("rect", tip, class_=look, fill="currentColor", fill_opacity=0.1 + 0.9 * share, **box)
                )
    worst = worst_confusions(evaluation, 3)
    told = "; ".join(f"{label} taken for {answer} {count} of {of} times" for label, answer, count, of in worst)
    return Picture(
        "confusion",
        f"What is taken for what, {evaluation.what}",
        f"Rows are classes, columns answers. Most often: {told or 'nothing wrong'}.",
        together(drawn),
        24 + cell * classes,
    )


def training_log(bundle: Bundle) -> list[Mapping[str, float]]:
    """The numbers of each epoch, those that were measured; empty where the bundle has no log.

    Raises CorruptArtifact.
    """
    path = bundle.training_log
    if path is None:
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"{path.parent / TRAINING_LOG} cannot be read: {error}.") from error


def draw_learning(bundle: Bundle) -> Picture | None:
    """The error on the training photos by epoch, and on the validation photos where there are any."""
    rows = [row for row in training_log(bundle) if {"epoch", "train_accuracy"} <= row.keys()]
    if len(rows) < 2:
        return None
    curves: list[tuple[Look, str, Sequence[tuple[float, float]]]] = [
        (
            LOOKS[1]._replace(shape=None),
            "training photos, augmented, a branch",
            [(row["epoch"], 100 * (1 - row["train_accuracy"])) for row in rows],
        )
    ]
    judged = [(r["epoch"], 100 * (1 - r["validation_accuracy"])) for r in rows if "validation_accuracy" in r]
    if judged:
        curves.append((OWN, "validation photos, all branches", judged))
    x = Axis.straight((row["epoch"] for row in rows), LEFT, RIGHT, least_step=1)
    y = Axis.straight((0, *(error for _, _, curve in curves for _, error in curve)), TOP + PLOT, TOP)
    drawn = [frame(x, y, x_label="epoch", y_label="% wrong")]
    for look, name, curve in curves:
        drawn.append(line([(x(epoch), y(error)) for epoch, error in curve], look))
        if look.shape and len(curve) <= 40:
            drawn += [mark(x(at), y(error), look, tip=f"{name}, epoch {at:g}: {error:.1f}%") for at, error in curve]
    entries = [(look, name) for look, name, _ in curves]
    top = y.start + BOTTOM
    told = "; ".join(f"{name}: {curve[0][1]:.1f}% to {curve[-1][1]:.1f}%" for _, name, curve in curves)
    return Picture(
        "learning",
        f"Learning curve, {bundle.manifest.name}",
        f"The share of wrong answers from the first to the last epoch. {told}.",
        together((*drawn, legend(entries, top))),
        top + legend_height(entries),
    )
