"""The tables of a calibration, and of doubt in an evaluation, for the terminal and the page alike."""

from collections.abc import Iterator, Sequence

from rrr_edge.bundle.calibration import Calibration, ClassAnswers, Ranking
from rrr_edge.bundle.doubt import Measure
from rrr_edge.bundle.evaluation import Evaluation
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
        caption = (
            "How well doubt tells mistakes from right answers (area under the ROC curve), on the photos that chose it"
        )
        yield rankings(caption, calibration.rankings, calibration.measure)
    photos = sum(each.photos for each in calibration.by_class)
    caption = f"By class, of the {photos} photos{' that tested the promise' if calibration.promise else ''}"
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


def doubt_tables(evaluation: Evaluation) -> Iterator[Table]:
    """What is answered, which measure tells mistakes and foreign pictures apart, and the answers by class."""
    doubt = evaluation.doubt
    if doubt is None:
        return
    rows = [("answered", _share(doubt.answered, doubt.photos), _span(doubt.answered, doubt.photos))]
    if doubt.answered:
        rows.append(("wrong of these answers", _share(doubt.wrong, doubt.answered), _span(doubt.wrong, doubt.answered)))
    if doubt.promise:
        promised = f"promised of them, with {100 * doubt.promise.confidence:g}% confidence"
        rows.append((promised, f"{doubt.promise.max_error:.1%} at most", ""))
    if doubt.foreign:
        answered, pictures = doubt.foreign.answered, doubt.foreign.pictures
        rows.append(("foreign pictures answered", _share(answered, pictures), _span(answered, pictures)))
    before = evaluation.accuracy.calibration_error
    rows.append(("expected calibration error without a temperature", f"{before:.3f}", ""))
    if doubt.temperature != 1:
        rows.append((f"with the temperature {doubt.temperature:.3g}", f"{doubt.error_after:.3f}", ""))
    caption = (
        f"When it answers, by {NAMES[doubt.chosen]}" if doubt.chosen else "It was not calibrated, and always answers"
    )
    yield Table(caption, ("", "found", "95% interval"), rows)
    if doubt.rankings:
        yield rankings("Mistakes told from right answers: area under the ROC curve", doubt.rankings, doubt.chosen)
    if doubt.foreign:
        caption = f"{doubt.foreign.pictures} foreign pictures told from the photos: area under the ROC curve"
        yield rankings(caption, doubt.foreign.rankings, doubt.chosen)
    if doubt.promise:
        yield answers_by_class("Answers by class", doubt.by_class)


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}"


def _span(count: int, of: int) -> str:
    return "{:.1%} to {:.1%}".format(*wilson_interval(count, of))


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
    return Table(caption, ("measure of doubt", "area", "95% interval", ""), rows)


def answers_by_class(caption: str, found: Sequence[ClassAnswers]) -> Table:
    """Classes without photos are left out."""
    rows = []
    for each in found:
        if each.photos:
            found_wrong = (
                (_share(each.wrong, each.answered), _span(each.wrong, each.answered)) if each.answered else ("", "")
            )
            answered = _share(each.answered, each.photos)
            rows.append((each.label, f"{each.photos}", answered, f"{each.wrong}", *found_wrong))
    header = ("class", "photos", "answered", "wrong", "of the answers", "95% interval")
    return Table(caption, header, rows)
