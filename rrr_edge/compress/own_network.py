"""A user's own network with its classifier, run as torchvision's module, to be compared with."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Floats, Images
from rrr_edge.bundle.reference_network import NetworkBeside, RunnableNetwork
from rrr_edge.bundle.sources import CLASSIFIERS, BlockKind, ClassifierBackbone, Source
from rrr_edge.bundle.spec import TorchvisionSpec
from rrr_edge.compress.classifier_files import classifier_in, read_classifier
from rrr_edge.compress.state_dicts import Head
from rrr_edge.compress.tensor_files import read_tensors
from rrr_edge.compress.weights import read_resnet
from rrr_edge.errors import BadInput, reading
from rrr_edge.images.names import first_few, nfc
from rrr_edge.networks import cost
from rrr_edge.timing.progress import OnProgress, Step

# The order in which folders are listed, as torchvision's ImageFolder numbers classes.
FOLDER_ORDER = "folder-order"
_BLOCKS: dict[BlockKind, type[BasicBlock | Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
_BATCH = 32
_NOTE = "Which photos it was trained on is not known; if these are among them, its accuracy flatters."


class _Own(NamedTuple):
    """What a file holds: `network` builds it, `macs` are those with so many classes at so many pixels."""

    name: str
    words: str
    head: Head | None
    network: Callable[[Head], nn.Module]
    macs: Callable[[int, int], int]


def open_own(path: Path, labels: str, classes: tuple[str, ...], *, preprocess: Preprocess) -> RunnableNetwork:
    """The network in the file `path` with its classifier, to be compared with a network of `classes`.

    It is a ResNet or one of the CLASSIFIERS. `labels` tells what its outputs mean: a text file with a class a line, or
    "folder-order", the order of `classes` themselves. `preprocess` fits the photos for it.

    Raises BadInput: another network, no linear classifier, labels of another number or other classes.
    """
    own = _read(path)
    if own.head is None:
        raise BadInput(
            f"{path} holds {own.words}, so it cannot be measured.",
            advice="Give the checkpoint of the whole network, or leave --labels out.",
        )
    order = _order(labels, classes, outputs=len(own.head.weight), path=path)
    network = own.network(own.head)
    about = NetworkBeside(
        name=path.name,
        network=own.name,
        source="weights",
        sha256=sha256(path),
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs=own.macs(len(classes), preprocess.image_size),
        preprocess=preprocess,
        note=_NOTE,
    )

    def answer(images: Images, on_progress: OnProgress) -> Floats:
        return _probabilities(network, images, preprocess, on_progress)[:, order]

    return RunnableNetwork(about, answer, {name: version(name) for name in ("torch", "torchvision")})


def _order(labels: str, classes: tuple[str, ...], *, outputs: int, path: Path) -> list[int]:
    """For each of `classes` the output that means it."""
    if labels.lower() == FOLDER_ORDER:
        if outputs != len(classes):
            raise BadInput(
                f"{path} has a classifier of {outputs} classes, and there are {len(classes)}.",
                advice="Give --labels a text file with a class a line, of these very classes; or leave it out.",
            )
        return list(range(outputs))
    names = _read_labels(Path(labels))
    if len(names) != outputs:
        raise BadInput(
            f"{labels} has {len(names)} labels, and {path} a classifier of {outputs} classes.",
            advice="Write one class a line, in the order of the network's outputs.",
        )
    missing, unknown = (sorted(a - b) for a, b in ((set(classes), set(names)), (set(names), set(classes))))
    if missing or unknown or len(set(names)) < len(names):
        said = [
            *([f"it lacks {first_few(missing)}"] if missing else []),
            *([f"it has {first_few(unknown)}, which the photos have not"] if unknown else []),
            *(["a label is there twice"] if len(set(names)) < len(names) else []),
        ]
        raise BadInput(
            f"The labels in {labels} are not the classes of the photos: {'; '.join(said)}.",
            advice=f"The classes are {first_few(classes)}, in any order.",
        )
    return [names.index(name) for name in classes]


def _read_labels(path: Path) -> list[str]:
    try:
        with reading(path):
            lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read as a list of labels: {getattr(error, 'strerror', None) or error}.",
            advice=f"Give a text file with a class a line, or --labels {FOLDER_ORDER}.",
        ) from error
    return [nfc(line.strip()) for line in lines if line.strip()]


def _read(path: Path) -> _Own:
    try:
        return _resnet(path)
    except BadInput:
        backbone = classifier_in(read_tensors(path))
        if backbone is None:
            raise
    return _classifier(path, backbone)


def _resnet(path: Path) -> _Own:
    state = read_resnet(path)
    source, trunk = state.source, state.trunk
    return _Own(source.name, state.words, state.head, partial(_torchvisions, source, trunk), partial(_macs, source))


def _classifier(path: Path, backbone: ClassifierBackbone) -> _Own:
    state = read_classifier(path, backbone)
    source = CLASSIFIERS[backbone]

    def network(head: Head) -> nn.Module:
        whole: nn.Module = get_model(backbone, weights=None, num_classes=len(head.weight))
        whole.load_state_dict({**state.trunk, f"{source.head}.weight": head.weight, f"{source.head}.bias": head.bias})
        return whole.eval()

    def macs(classes: int, image_size: int) -> int:
        return cost(TorchvisionSpec(backbone=backbone, num_classes=classes), image_size).macs

    return _Own(source.name, state.words, state.head, network, macs)


def _torchvisions(source: Source, trunk: dict[str, Tensor], head: Head) -> nn.Module:
    network: nn.Module = TorchvisionResNet(_BLOCKS[source.block], list(source.depths), num_classes=len(head.weight))
    network.load_state_dict({**trunk, "fc.weight": head.weight, "fc.bias": head.bias})
    network.eval()
    return network


def _macs(source: Source, classes: int, image_size: int) -> int:
    """Multiply-accumulates of convolutions and the classifier for one image."""
    with torch.device("meta"):
        network = TorchvisionResNet(_BLOCKS[source.block], list(source.depths), num_classes=classes).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size))
    return int(counter.get_total_flops()) // 2


@torch.inference_mode()
def _probabilities(network: nn.Module, images: Images, preprocess: Preprocess, on_progress: OnProgress) -> Floats:
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    parts: list[Tensor] = []
    for start in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).permute(0, 3, 1, 2)
        parts.append(network((pixels / 255 - mean) / std).softmax(1))
        on_progress(Step("reference", min(start + _BATCH, len(images)), len(images)))
    found: Floats = torch.cat(parts).numpy()
    return found
