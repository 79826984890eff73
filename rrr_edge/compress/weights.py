"""Where a ResNet152's weights come from: published ones (downloaded once), a file of tensors, or chance.

No code of a file ever runs, what is wrong with it is found before any training, and a download that cannot work is
given up within seconds.
"""

import difflib
import hashlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.recipe import RANDOM
from rrr_edge.bundle.spec import RESNET152_DEPTHS, Depths, ResNetSpec
from rrr_edge.compress.published import PUBLISHED, fetch
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.networks import build
from rrr_edge.timing.progress import OnProgress, silent


class WeightsInfo(NamedTuple):
    """What the weights are called, and the SHA-256 of their file (of the tensors' bytes where they are random)."""

    name: str
    sha256: str


def load_weights(
    source: str | os.PathLike[str],
    *,
    depths: Depths = RESNET152_DEPTHS,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The float32 state dict of a ResNet152, without its classifier, and where it comes from.

    `source` is "imagenet" or "imagenet-v2" (torchvision's), "timm" (resnet152.a1h_in1k, which Sun et al. 2023 used),
    "random" (drawn from `seed`), or a .pth, .pt or .safetensors file that holds at least the leading `depths` blocks
    in torchvision's naming. A published file is looked for in the caches of torch and Hugging Face before it is
    downloaded.

    Raises UsageError (no such source) and BadInput (cannot be downloaded, or not the weights of a ResNet152).
    """
    require_source(source)
    if source == RANDOM:
        return _random(depths, seed)
    published = PUBLISHED.get(str(source))
    path = fetch(published, on_progress) if published else Path(source)
    state_dict = fits(read_tensors(path), depths, where=str(path))
    return state_dict, WeightsInfo(str(source) if published else path.name, sha256(path))


def require_source(source: str | os.PathLike[str]) -> None:
    """Raise UsageError unless `source` names published weights, "random", or a file that is there."""
    if str(source) not in (*PUBLISHED, RANDOM) and not Path(source).is_file():
        near = difflib.get_close_matches(str(source), [*PUBLISHED, RANDOM], n=1)
        raise UsageError(
            f"There are no weights {str(source)!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            advice=f"Give one of {', '.join(PUBLISHED)}, {RANDOM}, or the path of a file ({', '.join(_READERS)}).",
        )


def read_tensors(path: Path) -> dict[str, Any]:
    """What a .pth, .pt or .safetensors file holds under names; no code in it runs. Raises BadInput."""
    if path.suffix not in _READERS:
        raise BadInput(
            f"{path} is no file of weights: its name ends with {path.suffix or 'nothing'}.",
            advice=f"Known endings: {', '.join(_READERS)}.",
        )
    return _READERS[path.suffix](path)


def fits(tensors: dict[str, Any], depths: Depths, *, where: str) -> dict[str, Tensor]:
    """The tensors of a ResNet152 among `tensors`, as float32 and without the classifier, which may be of any kind.

    Raises BadInput, naming what differs: `depths` leading blocks must be there, with ResNet152's shapes and finite
    numbers, and nothing that a ResNet152 does not have. Counts of batches may be missing.
    """
    ours = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    known, needed = _shapes(RESNET152_DEPTHS), _shapes(depths)
    counts = {name: torch.tensor(0) for name in needed if name.endswith("num_batches_tracked") and name not in ours}
    ours |= counts
    problems = {
        "missing": [name for name in needed if name not in ours],
        "not ResNet152's": [name for name in ours if name not in known],
        "not a tensor": [name for name, value in ours.items() if not isinstance(value, Tensor)],
    }
    _refuse(problems, where)
    problems = {
        "of the wrong shape": [
            f"{name} {list(value.shape)} instead of {list(known[name])}"
            for name, value in ours.items()
            if value.shape != known[name]
        ],
        "not dense floats": [name for name, value in ours.items() if not _is_plain(name, value)],
    }
    _refuse(problems, where)
    result = {name: value if _is_count(name) else value.detach().float() for name, value in ours.items()}
    _refuse({"not finite": [name for name, value in result.items() if not value.isfinite().all()]}, where)
    return {name: value.contiguous() for name, value in result.items()}


def _refuse(problems: dict[str, list[str]], where: str) -> None:
    said = "; ".join(f"{_some(names)} {_be(names)} {problem}" for problem, names in problems.items() if names)
    if said:
        raise BadInput(
            f"{where} does not hold the weights of a ResNet152: {said}.",
            advice="Give a state dict with torchvision's names (layer1.0.conv1.weight, ...), or --weights imagenet.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _is_plain(name: str, value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and (_is_count(name) or value.is_floating_point())


def _shapes(depths: Depths) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = build(ResNetSpec(depths=depths))
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} is damaged or holds more than tensors, and code in a file of weights is never run.",
            advice="Where the file is trusted, save its tensors alone: safetensors.torch.save_file(state_dict, ...).",
        ) from error
    except Exception as error:  # what a damaged file makes torch raise has no common type
        raise _unreadable(path, error) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise BadInput(f"{path} holds no state dict but {type(content).__name__}.", advice="Save model.state_dict().")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return {name.removeprefix("module."): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
}


def _unreadable(path: Path, error: Exception) -> BadInput:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BadInput(f"{path} cannot be read as weights: {reason}", advice="Copy or download the file again.")


def _random(depths: Depths, seed: int) -> tuple[dict[str, Tensor], WeightsInfo]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state_dict = build(ResNetSpec(depths=depths)).state_dict()
    state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith("fc.")}
    digest = hashlib.sha256()
    for tensor in state_dict.values():
        digest.update(tensor.numpy().tobytes())
    return state_dict, WeightsInfo(RANDOM, digest.hexdigest())
