"""The worth of an engine's doubt on labelled photos, and on pictures of none of its classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrr_edge.bundle.calibration import Calibration
from rrr_edge.bundle.doubt import MEASURES, UNCALIBRATED, Doubts, Measure, tempered
from rrr_edge.bundle.doubt_found import Bin, DoubtFound, Foreign, RiskCurve
from rrr_edge.bundle.evaluation import Bools, Labels, calibration_error, require_numbers
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.errors import BadInput
from rrr_edge.images.labelled import LabelledPhotos
from rrr_edge.images.layouts import image_files
from rrr_edge.images.names import first_few, nfc
from rrr_edge.images.reading import read_pictures
from rrr_edge.profile.calibration import by_class, rank
from rrr_edge.profile.calibration.selective import Judged
from rrr_edge.timing.progress import OnProgress

# So many points of a curve are kept, and so many photos that are doubted though the answer is right.
_POINTS = 100
UNSURE = 12


class ForeignPictures(NamedTuple):
    """Pictures [N, S, S, 3] of none of the classes, and the folder that they come from."""

    images: Images
    folder: str


def read_foreign(
    folder: Path, photos: LabelledPhotos, labels: tuple[str, ...], on_progress: OnProgress
) -> ForeignPictures:
    """All pictures in `folder` and below, fitted as `photos` are; unreadable ones are left out.

    Raises BadInput where there is none, where a folder has the name of a class, or where `photos` has some of them.
    """
    files = image_files(folder)
    within = sorted(
        {part for file in files for part in map(nfc, file.relative_to(folder).parts[:-1]) if part in labels}
    )
    if within:
        raise BadInput(
            f"{folder} has folders that are named as classes of the network: {first_few(within)}.",
            advice="Foreign pictures show none of the classes.",
        )
    images, _, bad, _ = read_pictures(
        folder, [str(file.relative_to(folder)) for file in files], photos.preprocess, on_progress
    )
    if not len(images):
        why = f": {bad[0].path} {bad[0].reason}" if bad else ""
        raise BadInput(f"There is no picture in {folder} that can be read{why}.")
    known = {image.tobytes() for image in photos.images}
    if any(image.tobytes() in known for image in images):
        raise BadInput(f"Some pictures of {folder} are among the photos of classes.")
    return ForeignPictures(images, str(folder))


def judge_doubt(
    outputs: Outputs,
    photos: LabelledPhotos,
    names: tuple[str, ...],
    *,
    calibration: Calibration | None,
    foreign: tuple[ForeignPictures, Outputs] | None,
) -> DoubtFound:
    """Judge the doubts about `outputs`, which are for `photos` of the classes `names`."""
    doubt = calibration.doubt if calibration else UNCALIBRATED
    wrong = outputs.probabilities.argmax(1) != photos.labels
    confidences = tempered(outputs.probabilities, doubt.temperature).max(1)
    doubts = measures_of(outputs)
    given = doubts[doubt.measure] <= doubt.threshold
    return DoubtFound(
        measure=doubt.measure,
        temperature=doubt.temperature,
        calibrated=calibration is not None,
        promise=calibration.promise if calibration else None,
        same_photos=calibration is not None and calibration.photos_sha256 == photos.sha256,
        photos=len(wrong),
        answered=int(given.sum()),
        wrong=int((given & wrong).sum()),
        error_after=calibration_error(confidences.astype(np.float32), ~wrong),
        plain=Bin.all_of(tempered(outputs.probabilities, 1.0).max(1), ~wrong),
        tempered=Bin.all_of(confidences, ~wrong),
        rankings=rank(doubts, wrong, slice(None)),
        curves=tuple(_curves(doubts, wrong, doubt.measure)),
        by_class=by_class(names, photos.labels, given, wrong),
        foreign=_foreign(foreign, doubts, doubt.measure, doubt.threshold) if foreign else None,
    )


def measures_of(outputs: Outputs) -> dict[Measure, Doubts]:
    return {name: measure(*outputs) for name, measure in MEASURES.items()}


def most_doubted(doubt: Doubts, right: Bools) -> Labels:
    """The rows of the right answers that are doubted most, at most 12."""
    rows = np.flatnonzero(right)
    return rows[np.argsort(-doubt[rows], kind="stable")[:UNSURE]]


def _curves(doubts: dict[Measure, Doubts], wrong: Bools, chosen: Measure) -> Iterator[RiskCurve]:
    """Of the chosen measure first, then of two that are worth comparing with it, where they rank at all."""
    for name in dict.fromkeys((chosen, "max_probability", "mutual_information")):
        levels = np.unique(doubts[name])
        if len(levels) > 1 or name == chosen:
            answered, false = Judged(doubts[name], wrong).counts(levels)
            rows = np.unique(np.linspace(0, len(levels) - 1, _POINTS).round().astype(np.int64))
            yield RiskCurve(
                measure=name,
                coverage=tuple((answered[rows] / len(wrong)).tolist()),
                risk=tuple((false[rows] / answered[rows]).tolist()),
            )


def _foreign(
    foreign: tuple[ForeignPictures, Outputs], doubts: dict[Measure, Doubts], measure: Measure, threshold: float
) -> Foreign:
    pictures, outputs = foreign
    require_numbers(outputs.probabilities)
    theirs = measures_of(outputs)
    both = {name: np.concatenate((doubts[name], theirs[name])) for name in MEASURES}
    is_foreign = np.arange(len(both[measure])) >= len(doubts[measure])
    return Foreign(
        folder=pictures.folder,
        pictures=len(pictures.images),
        answered=int((theirs[measure] <= threshold).sum()),
        rankings=rank(both, is_foreign, slice(None)),
    )
