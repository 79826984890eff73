"""Tensors of an ONNX file that lie in other files, found without the onnx package (onnx.proto, ONNX 1.17)."""

from collections.abc import Iterator
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from rrr_edge.errors import CorruptArtifact

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
# Messages that may hold tensors, each with the fields in which they do.
_TENSOR = "tensor"
_HOLDERS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def require_no_other_files(model: Path) -> None:
    """`require_self_contained`, but quick where the file nowhere says `location`, as tensors in other files must."""
    with suppress(ValueError, OSError), model.open("rb") as file:
        if mmap(file.fileno(), 0, access=ACCESS_READ).find(b"location") < 0:
            return
    require_self_contained(model)


def require_self_contained(model: Path) -> None:
    """Raise CorruptArtifact where the ONNX file `model` is none, or takes tensors from other files.

    Those may lie anywhere on the machine, and no hash of ours is over them.
    """
    try:
        external = _has_external_data(np.memmap(model, np.uint8, "r").data)
    except (ValueError, IndexError, OSError) as error:
        raise CorruptArtifact(f"{model} is no ONNX file: {error}.", advice=_ADVICE) from error
    if external:
        raise CorruptArtifact(f"{model} takes weights from other files.", advice=_ADVICE)


_ADVICE = "Compress again, and leave the graph as it is written."


def _has_external_data(data: memoryview) -> bool:
    """Every holder's fields, without recursion: graphs may be nested as deeply as a file likes."""
    waiting = [("model", data)]
    while waiting:
        kind, message = waiting.pop()
        for number, value in _fields(message):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1):
                    return True
            elif number in _HOLDERS[kind] and isinstance(value, memoryview):
                waiting.append((_HOLDERS[kind][number], value))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer: number and value. Raises ValueError or IndexError where it is none."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind, value = key & 7, 0
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if length is None:
            if kind != _LENGTH:
                raise ValueError(f"wire type {kind} is unknown")
            length, place = _varint(message, place)
        if length > len(message) - place:
            raise ValueError("it is cut off")
        if kind == _LENGTH:
            yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; a set eighth bit says that more follow."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
