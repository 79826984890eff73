"""The teacher of a tailoring: a bundle's network, or one that is fine-tuned here."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from rrr_edge.bundle.files import sha256, write_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import NetTailor
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import NetworkSpec, source_spec
from rrr_edge.bundle.tailored import TailoredSpec, whole_network
from rrr_edge.bundle.verification import Accuracy, guessing_warning
from rrr_edge.compress.validation import may_have_seen
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.dataset import Dataset
from rrr_edge.images.held_out import held_out_of
from rrr_edge.networks.tailored import Tailored

_NOTE = "teacher.sha256"
_ADVICE = "Leave --teacher out, and one is fine-tuned first, or give the bundle of such a network."


def require_teacher(path: str, recipe: NetTailor) -> Bundle:
    """The bundle of a teacher that fits `recipe`. Raises UsageError, BadInput and CorruptArtifact."""
    bundle = Bundle.open(Path(path))
    manifest, wanted = bundle.manifest, SOURCES[recipe.backbone].name
    if not _is_whole(manifest.spec, recipe):
        raise UsageError(f"The teacher {path} is not a {wanted} in one piece.", advice=_ADVICE)
    size, fit = manifest.preprocess.image_size, manifest.preprocess.fit
    if size != recipe.image_size:
        raise UsageError(
            f"The teacher {path} reads images of {size} pixels, not {recipe.image_size}.",
            advice=f"Set --image-size {size}.",
        )
    if fit != recipe.fit:
        raise UsageError(f"The teacher {path} reads photos by {fit}, not by {recipe.fit}.", advice=f"Set --fit {fit}.")
    theirs = manifest.preprocess.document()
    ours = Preprocess.of(recipe).document()
    if other := [f"{name} {theirs[name]} instead of {value}" for name, value in ours.items() if theirs[name] != value]:
        raise UsageError(f"The teacher {path} does not read photos as here: {', '.join(other)}.", advice=_ADVICE)
    if doubt := guessing_teacher(manifest.accuracy, len(manifest.labels)):
        raise UsageError(f"{path}: {doubt}", advice=_ADVICE)
    return bundle


def load_teacher(bundle: Bundle, recipe: NetTailor, labels: tuple[str, ...]) -> Tailored:
    """The network of a bundle that `require_teacher` has let pass. Raises UsageError for other classes."""
    theirs = bundle.manifest.labels
    if theirs != labels:
        other = sorted(set(theirs) ^ set(labels))
        said = f"they differ in {', '.join(other[:5])}" if other else "their order differs"
        raise UsageError(f"The teacher {bundle.path} has other classes than the photos: {said}.", advice=_ADVICE)
    network = Tailored(whole_network(recipe.backbone, len(labels)))
    network.load_state_dict(load(bundle.weights.read_bytes()))
    return network


def begin(spec: TailoredSpec, trunk: Mapping[str, Tensor], *, seed: int) -> Tailored:
    """The network of `spec` with the source's weights; what these do not have is drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Tailored(spec)
    network.load_state_dict({**network.state_dict(), **trunk})
    return network


def guessing_teacher(judged: Accuracy | None, classes: int) -> str:
    """A sentence where a teacher may be no better than guessing, else nothing."""
    doubt = guessing_warning(judged, classes) if judged else ""
    return doubt and f"The teacher has nothing to teach. {doubt}"


def require_same_teacher(bundle: Bundle, checkpoints: Path | None, *, resume: bool) -> None:
    """Note in `checkpoints` which teacher it is. Raises BadInput where an interrupted run imitated another one."""
    if checkpoints is None:
        return
    note, digest = checkpoints / _NOTE, sha256(bundle.weights)
    if resume and note.is_file() and note.read_text() != digest:
        raise BadInput(
            f"The teacher {bundle.path} has changed since this run was interrupted.", advice="Start anew with --force."
        )
    write_file(note, digest)


def require_unseen_by(bundle: Bundle, recipe: NetTailor, dataset: Dataset) -> None:
    """Raise UsageError where the teacher may have learned from photos that are held out here."""
    if may_have_seen(bundle, recipe, dataset):
        share = held_out_of(recipe).share
        raise UsageError(
            f"The teacher {bundle.path} has learned from photos that are held out here to decide how many blocks are "
            "dropped.",
            advice=f"Train the teacher on the same photos with --seed {recipe.seed} --validation-share {share:g}, add "
            "a folder val with photos, say how many go (--drop-blocks 2), or leave --teacher out.",
        )


def doubt_of(bundle: Bundle, dataset: Dataset) -> str:
    """A sentence where the teacher may have learned from photos that others are judged by, else nothing."""
    if bundle.manifest.provenance.data_sha256 == dataset.digest:
        return ""
    return (
        f"The teacher {bundle.path.name} has learned from other photos. If photos that decide or test here are among "
        "them, the accuracies flatter."
    )


def _is_whole(spec: NetworkSpec, recipe: NetTailor) -> bool:
    if isinstance(spec, TailoredSpec):
        return spec.backbone == recipe.backbone and all(node.block and not node.proxies for node in spec.nodes)
    return spec == source_spec(spec.num_classes, recipe.backbone)
