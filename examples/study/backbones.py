"""Backbones that stand where ImageNet's weights do: for each task, a network that learned the other three.

They are files of tensors in torchvision's naming. Source and target never share a domain.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from domains import CLEAR, DOMAINS, draw_examples
from safetensors.torch import save

from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Schedule, Training
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, ResNetSpec, source_spec
from rrr_edge.networks import ResNet, build
from rrr_edge.timing.progress import OnProgress, silent
from rrr_edge.training import Examples, Run, minimise, train
from rrr_edge.training.stage_weights import state_of
from rrr_edge.training.whole import CrossEntropy

TRAINING = Training(
    epochs=7, batch_size=64, ema_fraction=0.0, shared_batches=True, schedule=Schedule(shape="cosine")
)  # fmt: skip


class Pictures(Record):
    """What a backbone learns from: clear pictures of each class, their side in pixels, and how often it sees each."""

    per_class: int = 80
    size: int = 64
    epochs: int = TRAINING.epochs


def pretrain(
    target: str, pictures: Pictures, *, cache: Path, resnet18: bool = False, on_progress: OnProgress = silent
) -> Path:
    """ResNet_1_1_1_1, or ResNet18, trained whole on all domains but `target`; from `cache` where it is there already.

    The file's name holds the hash of all that decides it, its pictures included; its checkpoints let a training that
    was killed go on.
    """
    sources = [domain for domain in DOMAINS if domain != target]
    examples = _together(sources, pictures.per_class, pictures.size)
    training = TRAINING.model_copy(update={"epochs": pictures.epochs})
    key = hashlib.sha256(f"{examples.sha256} {training.model_dump_json()}".encode()).hexdigest()
    path = cache / f"without-{target}{'-resnet18' if resnet18 else ''}-{key[:12]}.safetensors"
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    classes = int(examples.labels.max()) + 1
    spec = source_spec(classes, "resnet18") if resnet18 else ResNetSpec(depths=SMALLEST_DEPTHS, num_classes=classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(spec)
    run = Run(checkpoints=path.with_suffix(".checkpoints"), resume=True, on_progress=on_progress)
    learn = partial(train, network) if isinstance(network, ResNet) else partial(minimise, CrossEntropy(network))
    learn(examples, training=training, preprocess=Preprocess(image_size=pictures.size), run=run)
    write_file(path, save(state_of(network)))
    return path


def _together(domains: Sequence[str], per_class: int, size: int) -> Examples:
    """One task out of several, the classes of each after those of the one before."""
    images, labels, first = [], [], 0
    for domain in domains:
        part = draw_examples(domain, "train", per_class, size=size, spoiling=CLEAR)
        images.append(part.images)
        labels.append(part.labels + first)
        first += int(part.labels.max()) + 1
    return Examples(np.concatenate(images), np.concatenate(labels))
