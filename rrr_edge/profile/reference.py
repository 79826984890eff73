"""Networks that a bundle is compared with: another bundle as one, and the measurement on this bundle's test photos."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrr_edge.backends import Session
from rrr_edge.backends.onnxruntime import ONNXRuntime, ONNXRuntimeSession
from rrr_edge.bundle.evaluation import Labels, ReferenceComparison, require_numbers
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Floats, Images, Outputs
from rrr_edge.bundle.reference_network import (
    NetworkBeside,
    ReferenceNetwork,
    RunnableNetwork,
    images_sha256,
    labels_of,
    require_order,
    same_photos,
)
from rrr_edge.bundle.sources import name_of
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.images.labelled import LabelledPhotos, held_in, photos_of
from rrr_edge.images.names import first_few
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.progress import OnProgress

_OTHER_PHOTOS = "It was made from other photos or another split; where it was trained on these, its accuracy flatters."


def bundle_beside(bundle: Bundle, path: Path) -> RunnableNetwork:
    """The network of the bundle at `path`, run by ONNX Runtime, to be compared with that of `bundle`.

    Raises BadInput (no bundle, other classes), CorruptArtifact and MissingLibrary.
    """
    other = Bundle.open(path)
    manifest, labels = other.manifest, bundle.manifest.labels
    missing, unknown = (sorted(set(a) - set(b)) for a, b in ((labels, manifest.labels), (manifest.labels, labels)))
    if missing or unknown:
        said = [
            *([f"lacks {first_few(missing)}"] if missing else []),
            *([f"has {first_few(unknown)}"] if unknown else []),
        ]
        raise BadInput(
            f"{path} has other classes than {bundle.path}: it {' and '.join(said)}.",
            advice="Compare bundles of the same classes.",
        )
    order = [manifest.labels.index(label) for label in labels]
    same = same_photos(bundle, other) or (
        manifest.provenance.data_sha256 == bundle.manifest.provenance.data_sha256
        and manifest.recipe.seed == bundle.manifest.recipe.seed
    )
    session = ONNXRuntimeSession(other.model)
    about = NetworkBeside(
        name=path.name,
        network=f"{manifest.recipe.method} from {name_of(manifest.recipe.backbone)}",
        source="bundle",
        sha256=other.model_sha256,
        params=manifest.cost.params,
        macs=manifest.cost.macs,
        preprocess=manifest.preprocess,
        note="" if same else _OTHER_PHOTOS,
    )

    def answers(images: Images, on_progress: OnProgress) -> Floats:
        return answer(session, images, on_progress, "reference").probabilities[:, order]

    return RunnableNetwork(about, answers, ONNXRuntime().versions())


class Beside(NamedTuple):
    """What a network to compare with answers: the class of each photo [N], and of the test photos in the bundle.

    These, `stored`, are None where it wants them fitted in another way and their files are not at hand.
    """

    about: NetworkBeside
    answers: Labels
    stored: ReferenceNetwork | None


def ask_beside(network: RunnableNetwork, bundle: Bundle, photos: LabelledPhotos, on_progress: OnProgress) -> Beside:
    """The answers of `network` to `photos`, and to the test photos in `bundle`, which may be among them.

    Raises what fitting them anew raises, BadInput where its outputs seem to be in another order, and GateFailed where
    they are no numbers.
    """
    names = bundle.manifest.labels
    probabilities = network.answer(photos.fitted(network.about.preprocess, on_progress), on_progress)
    require_numbers(probabilities)
    require_order(network.about, probabilities, photos.labels, names)
    stored, held, rows = None, photos_of(bundle), held_in(photos, bundle)
    own = probabilities[rows] if rows is not None else None
    if own is None and held.is_fitted(network.about.preprocess):
        own = network.answer(held.images, on_progress)
    if own is not None:
        digest = images_sha256(bundle.manifest)
        stored = ReferenceNetwork.judged(network, own, held.labels, names=names, images=digest)
    return Beside(network.about, np.asarray(probabilities.argmax(1)), stored)


def keep_reference(found: ReferenceNetwork, bundle: Bundle, *, force: bool = False) -> NetworkBeside | None:
    """Keep `found` as the bundle's reference network. Returns another network that is kept already, which stays.

    It is another with other weights, or photos fitted in another way; `force` replaces it, as what is corrupt is.
    """
    try:
        kept = ReferenceNetwork.of(bundle)
    except CorruptArtifact:
        kept = None
    if kept is not None and not force:
        a, b = kept.network, found.network
        if (a.sha256, a.preprocess) != (b.sha256, b.preprocess):
            return a
    write_file(bundle.reference_network, found.to_json())
    return None


def compared_with_reference(bundle: Bundle, session: Session, on_progress: OnProgress) -> ReferenceComparison | None:
    """The bundle's reference network beside what `session` answers to the same test photos; None where it has none."""
    reference = ReferenceNetwork.of(bundle)
    if reference is None:
        return None
    labels = labels_of(bundle)
    return reference.compare(labels, answers_here(bundle, session, on_progress) == labels)


def answers_here(bundle: Bundle, session: Session, on_progress: OnProgress) -> Labels:
    """The class that `session` gives to each of the labelled test photos in `bundle`. Raises as `outputs_here`."""
    return np.asarray(outputs_here(bundle, session, on_progress).probabilities.argmax(1))


def outputs_here(bundle: Bundle, session: Session, on_progress: OnProgress) -> Outputs:
    """What `session` answers to the labelled test photos in `bundle`. Raises GateFailed where that is no number."""
    outputs = answer(session, photos_of(bundle).images, on_progress, "evaluate")
    require_numbers(outputs.probabilities)
    return outputs
