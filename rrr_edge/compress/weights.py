"""The weights that a compression begins with: published ones, those of a file, or random ones."""

import difflib
import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.recipe import RANDOM
from rrr_edge.bundle.sources import (
    BACKBONE,
    CLASSIFIERS,
    SOURCES,
    BottleneckBackbone,
    ClassifierBackbone,
    PhaseDepths,
    Shape,
    Source,
    name_of,
)
from rrr_edge.bundle.spec import SMALLEST_DEPTHS
from rrr_edge.compress.checked_tensors import as_float32, check_tensors
from rrr_edge.compress.classifier_files import ClassifierState, classifier_in, read_classifier
from rrr_edge.compress.published import PUBLISHED, fetch, require_download
from rrr_edge.compress.state_dicts import Head, StateDict, find_resnet
from rrr_edge.compress.tensor_files import KNOWN_FILES, read_tensors
from rrr_edge.errors import BadInput, UsageError, require_local
from rrr_edge.images.names import shown
from rrr_edge.timing.progress import OnProgress, silent


class WeightsInfo(NamedTuple):
    """What the weights are called, and the SHA-256 of their file (of the tensors' bytes where they are random).

    `found` says in one sentence what a user's own file holds.
    """

    name: str
    sha256: str
    found: str = ""


def load_weights(
    source: str | os.PathLike[str],
    *,
    backbone: str = BACKBONE,
    depths: PhaseDepths | None = None,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The float32 state dict of the source network `backbone`, without its classifier, and where it comes from.

    `source` is one of the names in PUBLISHED ("imagenet", "imagenet-v2": torchvision's, "timm": timm's default),
    "random" (of a ResNet, drawn from `seed`), or a file as `read_resnet` and `read_classifier` take it. That may be a
    ResNet that is told by no name and has the leading `depths` blocks at least (all, unless given). A published file
    is looked for in the caches of torch and Hugging Face before it is downloaded.

    Raises UsageError (no such source) and BadInput (cannot be downloaded, or not the weights of that network).
    """
    require_source(source, backbone)
    if source == RANDOM:
        whole = SOURCES[backbone]
        return _random(whole._replace(depths=depths or whole.depths), seed)
    published = PUBLISHED[backbone].get(str(source))
    path = fetch(published, on_progress) if published else Path(source)
    state_dict: StateDict | ClassifierState
    if backbone in CLASSIFIERS:
        state_dict = read_classifier(path, cast(ClassifierBackbone, backbone))
    else:
        state_dict = read_resnet(path)
        _require_network(state_dict, SOURCES[backbone], depths or SOURCES[backbone].depths, path)
    if published:
        return state_dict.trunk, WeightsInfo(str(source), sha256(path))
    return state_dict.trunk, WeightsInfo(path.name, sha256(path), shown(f"{path} holds {state_dict.words}."))


def check_weights(source: str, backbone: str = BACKBONE, *, depths: PhaseDepths = SMALLEST_DEPTHS) -> str:
    """Read the weights and say in one sentence what a file holds; "" for other sources.

    Raises within seconds what `load_weights` would raise.
    """
    require_source(source, backbone)
    if published := PUBLISHED[backbone].get(source):
        require_download(published)
        return ""
    return "" if source == RANDOM else load_weights(source, backbone=backbone, depths=depths)[1].found


def require_source(source: str | os.PathLike[str], backbone: str = BACKBONE) -> None:
    """Raise UsageError unless `source` names weights published of `backbone`, "random", or a file that is there."""
    known = [*PUBLISHED[backbone], RANDOM]
    if str(source) in known or Path(source).is_file():
        return
    if Path(source).is_dir():
        raise UsageError(f"{source} is a folder.", advice=f"Give the file of weights in it: {KNOWN_FILES}.")
    require_local(source)
    near = difflib.get_close_matches(str(source), known, n=1)
    raise UsageError(
        f"There are no weights {str(source)!r} of {name_of(backbone)}."
        + (f" Did you mean {near[0]!r}?" if near else ""),
        advice=f"Give one of {', '.join(known)}, or the path of a file: {KNOWN_FILES}.",
    )


def read_resnet(path: Path) -> StateDict:
    """The ResNet in a file, whichever it is, in dense finite float32, its classifier too.

    The file is what torch.save or safetensors write of a model, as torchvision, timm, transformers or Lightning name
    its parts, under any prefix and in any dicts. No code in it runs. Counts of batches may be missing.

    Raises BadInput, which names what differs from that ResNet of torchvision that it resembles.
    """
    tensors, where = read_tensors(path), str(path)
    try:
        found = find_resnet(tensors, where)
    except BadInput:
        if other := classifier_in(tensors):
            raise BadInput(
                f"{path} holds the weights of a {CLASSIFIERS[other].name}, and a ResNet is asked for.",
                advice=f"Add --method finetune --backbone {other}, or give the weights of a ResNet.",
            ) from None
        raise
    name = found.source.name
    trunk = check_tensors(found.trunk, found.source.shapes(), name, where)
    head = found.head and Head(*(as_float32(value, "the classifier", name, where) for value in found.head))
    return replace(found, trunk=trunk, head=head)


def _require_network(found: StateDict, whole: Source, depths: PhaseDepths, path: Path) -> None:
    """Raise BadInput where the file is of another network than `whole`, or has fewer blocks than `depths`."""
    source = found.source
    deeper = any(own > most for own, most in zip(source.depths, whole.depths, strict=True))
    if source != whole and (source.is_named or source.block != whole.block or deeper):
        key = next((key for key in get_args(BottleneckBackbone) if SOURCES[key] == source), None)
        raise BadInput(
            f"{path} holds the weights of a {source.name}, and a {whole.name} is asked for.",
            advice=f"Add --backbone {key}, or give the weights of a {whole.name}."
            if key
            else f"Give the weights of a {whole.name}, or tune this network whole: --method finetune --backbone NAME.",
        )
    if any(own < needed for own, needed in zip(source.depths, depths, strict=True)):
        has, needs = (",".join(map(str, one)) for one in (source.depths, depths))
        raise BadInput(
            f"{path} has {has} blocks in conv2_x .. conv5_x, and {needs} are needed.",
            advice=f"Give the weights of a whole {whole.name}, or ask for fewer blocks: --depths {has}",
        )


def _random(source: Source, seed: int) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Kernels from kaiming_normal_(mode="fan_out"), normalisations that change nothing."""
    generator = torch.Generator().manual_seed(seed)
    state_dict = {name: _drawn(name, shape, generator) for name, shape in source.shapes().items()}
    digest = hashlib.sha256()
    for tensor in state_dict.values():
        digest.update(tensor.numpy().tobytes())
    return state_dict, WeightsInfo(RANDOM, digest.hexdigest())


def _drawn(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    if len(shape) == 4:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    return torch.ones(shape) if name.endswith(("weight", "running_var")) else torch.zeros(shape)
