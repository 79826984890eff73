"""Tensors read from .pth, .ckpt, .bin and .safetensors files, told apart by content; no code in them ever runs."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import safe_globals

from rrr_edge.errors import BadInput, is_lack_of_memory, reading

KNOWN_FILES = ".pth, .pt, .pth.tar, .bin, .ckpt (written by torch.save) or .safetensors"
# Plain data that training scripts save beside the tensors: their arguments, and numpy's numbers.
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "?")),
]
_SNIFFED = 512
_STATE_DICT = "torch.save(model.state_dict(), 'weights.pth')"


def read_tensors(path: Path) -> dict[str, Any]:
    """All values that the file holds under names, those in dicts of dicts under dotted names.

    So a checkpoint {"state_dict": {"conv1.weight": ...}} gives "state_dict.conv1.weight". Values need not be tensors.
    Raises BadInput for a file that is damaged, of another kind, or holds objects beside tensors and plain data.
    """
    try:
        with reading(path), path.open("rb") as file:
            start = file.read(_SNIFFED)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    for kind in _KINDS:
        if kind.begins(start):
            content = kind.read(path)
            break
    else:
        raise BadInput(f"{path} {_strange(start)}.", advice=f"Give a file of tensors: {KNOWN_FILES}.")
    if not isinstance(content, dict):
        raise BadInput(
            f"{path} holds no state dict but {type(content).__name__}.",
            advice=f"Save the tensors by name: {_STATE_DICT}",
        )
    return dict(_flat(content, ""))


def _flat(content: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Entries under other keys than strings, such as an optimiser's state, name nothing."""
    for key, value in content.items():
        if isinstance(key, str):
            if isinstance(value, dict):
                yield from _flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value


def _read_zip(path: Path) -> Any:
    """Raises BadInput for everything but what torch.save writes."""
    try:
        with zipfile.ZipFile(path) as file:
            members = {name.partition("/")[2] for name in file.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if "constants.pkl" in members:
        raise BadInput(
            f"{path} is a TorchScript archive, a program with its weights, and no program in a file is ever run.",
            advice=f"Save its tensors alone, where it is trusted: model = torch.jit.load({path.name!r}); {_STATE_DICT}",
        )
    if "data.pkl" not in members:
        raise BadInput(
            f"{path} is a zip archive, but not one that torch.save wrote.",
            advice=f"Unpack it, and give the file of tensors in it: {KNOWN_FILES}.",
        )
    return _read_pickled(path)


def _read_pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"), safe_globals(_PLAIN_DATA):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds more than tensors ({named[1]})" if named else "is damaged, or holds more than tensors"
        raise BadInput(
            f"{path} {what}, and code in a file of weights is never run.",
            advice=f"Save the tensors alone, where the model was made: {_STATE_DICT}",
        ) from error
    except Exception as error:  # what a damaged file makes torch raise has no common type
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


class _Kind(NamedTuple):
    begins: Callable[[bytes], bool]
    read: Callable[[Path], Any]


# Safetensors first: they begin with the length of their header, whose lowest byte may be any of the others' marks.
_KINDS = (
    _Kind(lambda start: start[8:9] == b"{", _read_safetensors),
    _Kind(lambda start: start.startswith(b"PK"), _read_zip),
    _Kind(lambda start: start.startswith(b"\x80"), _read_pickled),
)

# What is mistaken for a file of weights, by what it begins with.
_MISTAKEN = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself (`git lfs pull` fetches that)",
    b"<": "is a page of the web, not the file that was to be downloaded",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"\x89HDF": "is an HDF5 file, as Keras writes them, not one of PyTorch",
}


def _strange(start: bytes) -> str:
    if not start:
        return "is empty"
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    found = (words for begins, words in _MISTAKEN.items() if start.lstrip().startswith(begins))
    return next(found, "is damaged, or no file of weights")


def _damaged(path: Path, error: Exception) -> Exception:
    if is_lack_of_memory(error):
        return error
    return BadInput(
        f"{path} is damaged or cut short: it cannot be read as weights.", advice="Copy or download it again."
    )
