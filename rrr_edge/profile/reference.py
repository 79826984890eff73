"""Networks that a bundle is compared with: another bundle as one, and the measurement on this bundle's test photos."""

from pathlib import Path

import numpy as np

from rrr_edge.backends import Session
from rrr_edge.backends.onnxruntime import ONNXRuntime, ONNXRuntimeSession
from rrr_edge.bundle.evaluation import Labels, ReferenceComparison
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Floats, Images
from rrr_edge.bundle.reference_network import (
    NetworkBeside,
    ReferenceNetwork,
    RunnableNetwork,
    images_sha256,
    labels_of,
    require_order,
    same_photos,
)
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.errors import BadInput
from rrr_edge.images.labelled import LabelledPhotos, held_in, photos_of
from rrr_edge.images.names import first_few
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.progress import OnProgress, silent

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
        network=f"{manifest.recipe.method} from {SOURCES[manifest.recipe.backbone].name}",
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


def answers_of(network: RunnableNetwork, bundle: Bundle, photos: LabelledPhotos, on_progress: OnProgress) -> Labels:
    """The class that `network` gives to each of `photos` of `bundle`.

    Raises what fitting them anew raises, and BadInput where its outputs seem to be in another order.
    """
    probabilities = _probabilities(network, bundle, photos, on_progress)
    require_order(network.about, probabilities, photos.labels, bundle.manifest.labels)
    return np.asarray(probabilities.argmax(1))


def keep_reference(
    network: RunnableNetwork, bundle: Bundle, photos: LabelledPhotos, on_progress: OnProgress = silent
) -> ReferenceNetwork | None:
    """Measure `network` on the test photos in `bundle`, and keep what was found as the bundle's reference network.

    Where it wants its photos fitted in another way than the bundle's, they are read anew from the folder of `photos`;
    None, and nothing is kept, where that does not hold them. Raises UsageError where there is no folder.
    """
    held: LabelledPhotos | None = photos_of(bundle)
    if network.about.preprocess != bundle.manifest.preprocess and photos.folder is not None:
        held = held_in(photos, bundle)
    if held is None:
        return None
    probabilities = _probabilities(network, bundle, held, on_progress)
    found = ReferenceNetwork.judged(
        network, probabilities, held.labels, names=bundle.manifest.labels, images=images_sha256(bundle.manifest)
    )
    write_file(bundle.reference_network, found.to_json())
    return found


def compared_with_reference(bundle: Bundle, session: Session, on_progress: OnProgress) -> ReferenceComparison | None:
    """The bundle's reference network beside what `session` answers to the same test photos; None where it has none."""
    reference = ReferenceNetwork.of(bundle)
    if reference is None:
        return None
    labels = labels_of(bundle)
    return reference.compare(labels, answers_here(bundle, session, on_progress) == labels)


def answers_here(bundle: Bundle, session: Session, on_progress: OnProgress) -> Labels:
    """The class that `session` gives to each of the labelled test photos in `bundle`."""
    photos = photos_of(bundle)
    return np.asarray(answer(session, photos.images, on_progress, "evaluate").probabilities.argmax(1))


def _probabilities(network: RunnableNetwork, bundle: Bundle, photos: LabelledPhotos, on_progress: OnProgress) -> Floats:
    own = network.about.preprocess
    images = photos.images if own == bundle.manifest.preprocess else photos.fitted(own, on_progress)
    return network.answer(images, on_progress)
