"""The tables of a calibration, and of doubt in an evaluation, for the terminal and the page alike."""

from collections.abc import Iterator, Sequence

from rrr_edge.bundle.calibration import Calibration, ClassAnswers, Ranking
from rrr_edge.bundle.doubt import Measure
from rrr_edge.report.tables import Table
from rrr_edge.timing.statistics import wilson_interval

NAMES: dict[Measure, str] = {
    "max_probability": "maximum probability",
    "entropy": "entropy",
    "margin": "margin of the first two",
    "mutual_information": "mutual information of the branches",
    "variation_ratio": "variation ratio of their votes",
    "disagreement": "disagreement of the branches",
}


def calibration_tables(calibration: Calibration) -> Iterator[Table]:
    """The measures of doubt, the answers by class, and the sets."""
    if calibration.rankings:
        caption = "How well doubt tells mistakes from right answers (area under the ROC curve), on the photos that plan"
        yield rankings(caption, calibration.rankings, calibration.measure)
    caption = f"By class, of the {calibration.images} photos"
    yield answers_by_class(caption, calibration.by_class)
    if calibration.sets:
        rows = [
            (label, f"{level:.3f}", "its own" if own else "common")
            for label, level, own in zip(calibration.labels, calibration.sets.levels, calibration.sets.own, strict=True)
        ]
        sets = calibration.sets
        caption = (
            f"Sets that hold the right label with a probability of {sets.coverage:g}: a label is in them from its "
            f"level on ({sets.mean_size:.2f} labels in the mean)"
        )
        yield Table(caption, ("class", "probability", "level"), rows)


def rankings(caption: str, found: Sequence[Ranking], chosen: Measure | None = None) -> Table:
    rows = [
        (
            NAMES[each.measure],
            f"{each.area:.3f}",
            f"{each.interval[0]:.3f} to {each.interval[1]:.3f}",
            "chosen" if each.measure == chosen else "",
        )
        for each in found
    ]
    return Table(caption, ("measure of doubt", "area", "95 % interval", ""), rows)


def answers_by_class(caption: str, found: Sequence[ClassAnswers]) -> Table:
    """Classes without photos are left out."""
    rows = []
    for each in found:
        if each.photos:
            share = wilson = ""
            if each.answered:
                share = f"{each.wrong / each.answered:.1%}"
                wilson = "{:.1%} to {:.1%}".format(*wilson_interval(each.wrong, each.answered))
            answered = f"{each.answered / each.photos:.1%}"
            rows.append((each.label, f"{each.photos}", answered, f"{each.wrong}", share, wilson))
    header = ("class", "photos", "answered", "wrong", "of the answers", "95 % interval")
    return Table(caption, header, rows)
