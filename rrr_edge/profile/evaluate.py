"""Evaluation: a network's, a graph's or an engine's answers to labelled photos, judged and kept in the bundle."""

import time
from typing import NamedTuple

from rrr_edge.backends import Session
from rrr_edge.bundle.evaluation import (
    Bools,
    Evaluation,
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
from rrr_edge.profile.reference import Beside
from rrr_edge.report.confusion import draw_confusion, draw_learning
from rrr_edge.report.contact_sheet import draw_contact_sheet
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, silent

_SHEET = "mistakes.jpg"


class Evaluated(NamedTuple):
    """What is evaluated: an engine by its name, "onnx" or "network"; its session, and the libraries that run it."""

    what: str
    session: Session
    versions: dict[str, str]


def evaluate_bundle(
    bundle: Bundle,
    model: Evaluated,
    photos: LabelledPhotos,
    *,
    beside: Beside | None = None,
    on_progress: OnProgress = silent,
) -> tuple[Evaluation, Floats]:
    """Judge the answers of `model`, which is of `bundle`, to `photos`, and keep what was found.

    Returns it with the probabilities [N, K]. `beside` has answered the same photos; where there is none, and the photos
    are those in the bundle, the bundle's reference network is compared with. Raises GateFailed where an answer is no
    number: nothing is kept.
    """
    probabilities = answer(model.session, photos.images, on_progress, "evaluate").probabilities
    labels, names = photos.labels, bundle.manifest.labels
    accuracy = judge(probabilities, labels, names)
    answers, worst = probabilities.argmax(1), confident_mistakes(probabilities, labels)
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
        mistakes=tuple(
            Mistake(
                photo=photos.names[row],
                label=names[labels[row]],
                answer=names[answers[row]],
                probability=float(probabilities[row, answers[row]]),
                of_label=float(probabilities[row, labels[row]]),
            )
            for row in worst
        ),
        reference=_compared(bundle, photos, answers == labels, beside),
        notes=photos.notes,
        versions=model.versions,
        machine=cpu_info()[0],
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return _kept(bundle, found, photos.images[worst]), probabilities


def _compared(
    bundle: Bundle, photos: LabelledPhotos, own_right: Bools, beside: Beside | None
) -> ReferenceComparison | None:
    if beside is not None:
        return beside.about.compare(beside.answers == photos.labels, own_right)
    stored = ReferenceNetwork.of(bundle) if photos.folder is None else None
    return stored.compare(photos.labels, own_right) if stored else None


def _kept(bundle: Bundle, found: Evaluation, worst: Images) -> Evaluation:
    """Store it with its pictures; `worst` are the mistakes' images."""
    with staged_folder(bundle.evaluation_folder(found.what)) as stage:
        pictures = (draw_confusion(found), draw_learning(bundle))
        for picture in filter(None, pictures):
            (stage / f"{picture.name}.svg").write_text(picture.alone(), "utf-8")
        if len(worst):
            (stage / _SHEET).write_bytes(draw_contact_sheet(worst, found.mistakes))
            found = found.model_copy(update={"contact_sheet": describe_file(stage / _SHEET)})
        (stage / EVALUATION).write_text(found.to_json(), "utf-8")
    return found
