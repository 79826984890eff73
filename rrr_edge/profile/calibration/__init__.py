"""Calibration: what an engine's probabilities are worth, and when it had better not answer."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rrr_edge.backends import Session
from rrr_edge.bundle.calibration import CALIBRATED, Calibration, ClassAnswers, LabelSets, Promise, Ranking
from rrr_edge.bundle.doubt import MEASURES, UNCALIBRATED, Doubts, Measure
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.evaluation import Bools, Labels, calibration_error, require_numbers
from rrr_edge.bundle.files import sha256, write_file
from rrr_edge.bundle.folder import ENGINE, Bundle
from rrr_edge.bundle.reference import Floats
from rrr_edge.errors import BadInput, GateFailed, UsageError, counted
from rrr_edge.images.labelled import LabelledPhotos
from rrr_edge.images.names import first_few
from rrr_edge.profile.calibration.selective import (
    Judged,
    Wanted,
    divide,
    find_threshold,
    least_photos,
    photos_needed,
)
from rrr_edge.profile.calibration.sets import find_levels, photos_for_own_level
from rrr_edge.profile.calibration.temperature import error_after, fit_temperature
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.binomial import upper_bound
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, silent
from rrr_edge.timing.ranking import auroc, auroc_interval
from rrr_edge.timing.statistics import wilson_interval

# Where the 95% interval of the accuracy is wider, a note says so.
_VAGUE = 0.2


class Asked(NamedTuple):
    """What is to be promised: an error of the answers that are given, and the coverage of sets of labels."""

    wanted: Wanted | None = None
    coverage: float | None = None

    def require_shares(self) -> None:
        """Raise UsageError where these are no such shares."""
        error, confidence = self.wanted or Wanted(0.5)
        if not 0 < error < 1:
            raise UsageError(f"--max-error is a share of the answers such as 0.02, not {error:g}.")
        if not 0.5 < confidence < 1:
            raise UsageError(f"--confidence lies between 0.5 and 1, such as 0.95, not {confidence:g}.")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise UsageError(f"--sets is a probability such as 0.95, not {self.coverage:g}.")


class _Answers(NamedTuple):
    """Probabilities [N, K], doubts by measure [N], and which answers are wrong [N]."""

    probabilities: Floats
    doubts: dict[Measure, Doubts]
    labels: Labels
    wrong: Bools

    def judged(self, measure: Measure, rows: Labels | slice) -> Judged:
        return Judged(self.doubts[measure][rows], self.wrong[rows])


def calibrate_engine(
    bundle: Bundle,
    engine: Engine,
    session: Session,
    photos: LabelledPhotos,
    *,
    asked: Asked,
    on_progress: OnProgress = silent,
) -> Calibration:
    """Calibrate the `engine` that `session` runs on `photos`, and keep what was found beside it.

    Raises GateFailed, and keeps nothing, where what is wanted cannot be promised or answers are no numbers, and
    BadInput where not a single answer is right.
    """
    asked.require_shares()
    found = _answers(session, photos, on_progress)
    planning, testing = divide(len(found.labels))
    rankings = rank(found.doubts, found.wrong, planning)
    measure = best_measure(rankings)
    promise = None
    if asked.wanted:
        promise = _promised(engine, found, measure, (planning, testing), asked.wanted)
    threshold = promise.threshold if promise else UNCALIBRATED.threshold
    given = found.doubts[measure] <= threshold
    judged = testing if promise else np.arange(len(found.labels))
    record = Calibration(
        bundle=bundle.manifest.name,
        engine=engine.name,
        engine_sha256=sha256(bundle.engine_folder(engine.name) / ENGINE),
        photos=photos.source,
        photos_sha256=photos.sha256,
        images=len(found.labels),
        correct=int((~found.wrong).sum()),
        labels=bundle.manifest.labels,
        temperature=fit_temperature(found.probabilities, found.labels),
        error_before=calibration_error(found.probabilities.max(1), ~found.wrong),
        error_after=error_after(found.probabilities, found.labels),
        measure=measure,
        rankings=rankings,
        promise=promise,
        sets=_sets(found, asked.coverage) if asked.coverage else None,
        by_class=by_class(bundle.manifest.labels, found.labels[judged], given[judged], found.wrong[judged]),
        notes=(*photos.notes, *_notes(found, bundle.manifest.labels, asked)),
        machine=cpu_info()[0],
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_file(bundle.engine_folder(engine.name) / CALIBRATED, record.to_json())
    return record


def rank(doubts: dict[Measure, Doubts], positive: Bools, rows: Labels | slice) -> tuple[Ranking, ...]:
    """How well each measure tells the `positive` among `rows`, such as mistakes, from the others; () without both."""
    mine = positive[rows]
    count = int(mine.sum())
    if count in (0, len(mine)):
        return ()
    areas = {name: auroc(doubt[rows], mine) for name, doubt in doubts.items()}
    return tuple(
        Ranking(measure=name, area=area, interval=auroc_interval(area, count, len(mine) - count))
        for name, area in areas.items()
    )


def best_measure(rankings: tuple[Ranking, ...]) -> Measure:
    """That with the largest area, of equal ones the first; without rankings none is known to be better than another."""
    return max(rankings, key=lambda ranking: ranking.area).measure if rankings else UNCALIBRATED.measure


def by_class(names: tuple[str, ...], labels: Labels, given: Bools, wrong: Bools) -> tuple[ClassAnswers, ...]:
    """Counts of each class; `given` [N] are the answers that are."""
    counts = (np.bincount(labels[rows], minlength=len(names)).tolist() for rows in (labels >= 0, given, given & wrong))
    return tuple(
        ClassAnswers(label=name, photos=photos, answered=answered, wrong=false)
        for name, photos, answered, false in zip(names, *counts, strict=True)
    )


def _answers(session: Session, photos: LabelledPhotos, on_progress: OnProgress) -> _Answers:
    probabilities, branches = answer(session, photos.images, on_progress, "calibrate")
    require_numbers(probabilities)
    wrong = probabilities.argmax(1) != photos.labels
    if wrong.all():
        raise BadInput(
            f"Not one of {counted(len(wrong), 'photo')} is what its folder is named.",
            advice="Do the names of the folders say what the photos show?",
        )
    doubts = {name: measure(probabilities, branches) for name, measure in MEASURES.items()}
    return _Answers(probabilities, doubts, photos.labels, wrong)


def _promised(
    engine: Engine, found: _Answers, measure: Measure, parts: tuple[Labels, Labels], wanted: Wanted
) -> Promise:
    """Raises GateFailed where `wanted` cannot be promised, with the number of photos that it would take."""
    planning, testing = (found.judged(measure, rows) for rows in parts)
    kept = find_threshold(planning, testing, wanted)
    if kept is None:
        photos, least = len(found.wrong), least_photos(wanted)
        needed = photos_needed(found.judged(measure, slice(None)), wanted)
        takes = (
            "too many of the surest answers are wrong to tell how many photos it would take"
            if needed is None
            else f"that takes {least:,} photos where all are right, and about {needed:,} of this kind"
            if needed > photos
            else f"about {needed:,} of this kind can be enough, and these were not"
        )
        raise GateFailed(
            f"{engine.name} cannot promise that at most {100 * wanted.max_error:g}% of its answers are wrong, with "
            f"{100 * wanted.confidence:g}% confidence: of {counted(photos, 'photo')} it is wrong on "
            f"{int(found.wrong.sum())}; {takes}.",
            advice="Give new photos alone: to add to these until it passes would promise too much. Or allow more "
            "mistakes (--max-error), or be content with less --confidence.",
        )
    return Promise(
        max_error=wanted.max_error,
        confidence=wanted.confidence,
        threshold=kept.threshold,
        photos=len(parts[1]),
        answered=kept.answered,
        wrong=kept.wrong,
        bound=upper_bound(kept.wrong, kept.answered, wanted.confidence),
    )


def _sets(found: _Answers, coverage: float) -> LabelSets:
    """Raises GateFailed where so few photos are there that each set would hold all labels."""
    levels = find_levels(found.probabilities, found.labels, coverage)
    if not any(levels.levels):
        raise GateFailed(
            f"{counted(len(found.labels), 'photo')} are too few for sets that hold the right label with a probability "
            f"of {100 * coverage:g}%: each would be all labels.",
            advice="Give more photos, or be content with a smaller --sets.",
        )
    chosen = found.probabilities >= np.array(levels.levels)
    chosen[np.arange(len(chosen)), found.probabilities.argmax(1)] = True
    return LabelSets(coverage=coverage, levels=levels.levels, own=levels.own, mean_size=float(chosen.sum(1).mean()))


def _notes(found: _Answers, names: tuple[str, ...], asked: Asked) -> Iterator[str]:
    """What few photos and unequal classes do to the promises."""
    counts = np.bincount(found.labels, minlength=len(names))
    if not found.wrong.any():
        yield (
            "All answers are right: there is nothing to fit a temperature to, and no measure ranks mistakes better "
            "than another."
        )
    low, high = wilson_interval(int((~found.wrong).sum()), len(found.wrong))
    if high - low > _VAGUE:
        yield (
            f"{counted(len(found.wrong), 'photo')} tell little: that {low:.0%} or {high:.0%} of the answers are right "
            "fits them as well (95%), and confidences can be as far off."
        )
    if asked.wanted:
        yield (
            "The promise is for all classes together, as frequent as in these photos "
            f"({_extremes(counts, names)}), and for photos that have nothing to do with each other: frames of one "
            "video count for much less than their number. For a class alone nothing is promised."
        )
    if asked.coverage:
        least = photos_for_own_level(asked.coverage)
        few = [name for name, count in zip(names, counts.tolist(), strict=True) if count < least]
        if few:
            yield (
                f"Sets keep their coverage within each class that has {least} photos; these have fewer, and keep it "
                f"together: {first_few(few)}."
            )


def _extremes(counts: Labels, names: tuple[str, ...]) -> str:
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[few] == counts[many]:
        return f"{counts[few]} of each"
    return f"from {counts[few]} of {names[few]} to {counts[many]} of {names[many]}"
