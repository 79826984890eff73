"""Evaluation: a network's, a graph's or an engine's answers to labelled photos, judged and kept in the bundle."""

import time
from typing import NamedTuple

from rrr_edge.backends import Session
from rrr_edge.bundle.calibration import Calibration
from rrr_edge.bundle.evaluation import (
    Bools,
    Evaluation,
    Labels,
    Mistake,
    ReferenceComparison,
    confident_mistakes,
    confusion_of,
    judge,
    sha256_of,
    top_k_of,
)
from rrr_edge.bundle.files import describe_file, sha256, staged_folder
from rrr_edge.bundle.folder import EVALUATION, MANIFEST, Bundle
from rrr_edge.bundle.reference import Floats, Images
from rrr_edge.bundle.reference_network import ReferenceNetwork
from rrr_edge.images.labelled import LabelledPhotos
from rrr_edge.profile.doubt import ForeignPictures, judge_doubt, measures_of, most_doubted
from rrr_edge.profile.reference import Beside
from rrr_edge.report.confusion import draw_confusion, draw_learning
from rrr_edge.report.contact_sheet import draw_contact_sheet
from rrr_edge.report.doubt_figures import draw_reliability, draw_risk
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, silent

_SHEET, _UNSURE_SHEET = "mistakes.jpg", "unsure.jpg"


class Evaluated(NamedTuple):
    """What is evaluated: an engine by its name, "onnx" or "network"; its session, and the libraries that run it.

    `calibration` is an engine's, if it has one.
    """

    what: str
    session: Session
    versions: dict[str, str]
    calibration: Calibration | None = None


def evaluate_bundle(
    bundle: Bundle,
    model: Evaluated,
    photos: LabelledPhotos,
    *,
    beside: Beside | None = None,
    foreign: ForeignPictures | None = None,
    on_progress: OnProgress = silent,
) -> tuple[Evaluation, Floats]:
    """Judge the answers of `model`, which is of `bundle`, to `photos`, and keep what was found.

    Returns it with the probabilities [N, K]. `beside` has answered the same photos; where there is none, and the photos
    are those in the bundle, the bundle's reference network is compared with. How `foreign` pictures are told apart is
    judged too. Raises GateFailed where an answer is no number: nothing is kept.
    """
    outputs = answer(model.session, photos.images, on_progress, "evaluate")
    probabilities = outputs.probabilities
    labels, names = photos.labels, bundle.manifest.labels
    accuracy = judge(probabilities, labels, names)
    answers, worst = probabilities.argmax(1), confident_mistakes(probabilities, labels)
    strangers = (foreign, answer(model.session, foreign.images, on_progress, "foreign")) if foreign else None
    doubt = judge_doubt(outputs, photos, names, calibration=model.calibration, foreign=strangers)
    unsure = most_doubted(measures_of(outputs)[doubt.measure], answers == labels)
    found = Evaluation(
        bundle=bundle.manifest.name,
        manifest_sha256=sha256(bundle.path / MANIFEST),
        what=model.what,
        what_sha256=sha256_of(bundle, model.what),
        photos=photos.source,
        photos_sha256=photos.sha256,
        labels=names,
        accuracy=accuracy,
        top_k=top_k_of(probabilities, labels),
        confusion=confusion_of(answers, labels, len(names)),
        mistakes=_shown(photos, names, probabilities, worst),
        doubt=doubt,
        reference=_compared(bundle, photos, answers == labels, beside),
        notes=photos.notes,
        versions=model.versions,
        machine=cpu_info()[0],
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    sheets = {_SHEET: photos.images[worst], _UNSURE_SHEET: photos.images[unsure]}
    return _kept(bundle, found, sheets, _shown(photos, names, probabilities, unsure)), probabilities


def _shown(photos: LabelledPhotos, names: tuple[str, ...], probabilities: Floats, rows: Labels) -> tuple[Mistake, ...]:
    answers = probabilities.argmax(1)
    return tuple(
        Mistake(
            photo=photos.names[row],
            label=names[photos.labels[row]],
            answer=names[answers[row]],
            probability=float(probabilities[row, answers[row]]),
            of_label=float(probabilities[row, photos.labels[row]]),
        )
        for row in rows
    )


def _compared(
    bundle: Bundle, photos: LabelledPhotos, own_right: Bools, beside: Beside | None
) -> ReferenceComparison | None:
    if beside is not None:
        return beside.about.compare(beside.answers == photos.labels, own_right)
    stored = ReferenceNetwork.of(bundle) if photos.folder is None else None
    return stored.compare(photos.labels, own_right) if stored else None


def _kept(bundle: Bundle, found: Evaluation, sheets: dict[str, Images], unsure: tuple[Mistake, ...]) -> Evaluation:
    """Store it with its pictures; `sheets` are the images of the mistakes and of the right answers in `unsure`."""
    doubt = found.doubt
    assert doubt
    with staged_folder(bundle.evaluation_folder(found.what)) as stage:
        pictures = (draw_confusion(found), draw_learning(bundle), draw_reliability(found), draw_risk(found))
        for picture in filter(None, pictures):
            (stage / f"{picture.name}.svg").write_text(picture.alone(), "utf-8")
        if found.mistakes:
            (stage / _SHEET).write_bytes(draw_contact_sheet(sheets[_SHEET], found.mistakes))
            found = found.model_copy(update={"contact_sheet": describe_file(stage / _SHEET)})
        if unsure:
            (stage / _UNSURE_SHEET).write_bytes(draw_contact_sheet(sheets[_UNSURE_SHEET], unsure, "rightly"))
            doubt = doubt.model_copy(update={"unsure_sheet": describe_file(stage / _UNSURE_SHEET)})
            found = found.model_copy(update={"doubt": doubt})
        (stage / EVALUATION).write_text(found.to_json(), "utf-8")
    return found
