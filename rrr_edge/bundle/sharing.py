"""The weights that several bundles on one device have in common, found by their bytes."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.record import Record
from rrr_edge.errors import CorruptArtifact, UsageError


class TaskWeights(Record):
    """One bundle: `own` are the tensors' numbers that no other of the bundles has, `common` the others.

    Numbers are parameters and batch statistics, as they lie in weights.safetensors.
    """

    name: str
    accuracy: float | None
    macs: int
    numbers: int
    bytes: int
    own_numbers: int
    own_bytes: int

    @property
    def common_bytes(self) -> int:
        return self.bytes - self.own_bytes


class TaskCosts(Record):
    """`stored_once` counts every tensor once that several bundles have; `apart` is what the bundles hold together."""

    tasks: tuple[TaskWeights, ...]
    apart_bytes: int
    stored_once_bytes: int
    stored_once_numbers: int


class _Tensor(NamedTuple):
    digest: bytes
    numbers: int
    bytes: int


def compare_tasks(bundles: Sequence[Bundle]) -> TaskCosts:
    """What the bundles' weights share. Raises UsageError for one bundle given twice, and CorruptArtifact."""
    if len({bundle.path.resolve() for bundle in bundles}) < len(bundles):
        raise UsageError("A bundle is given twice.", advice="Name each bundle once.")
    found = [_tensors(bundle.weights) for bundle in bundles]
    owners = Counter(tensor for tensors in found for tensor in set(tensors))
    tasks = tuple(_task(bundle, tensors, owners) for bundle, tensors in zip(bundles, found, strict=True))
    return TaskCosts(
        tasks=tasks,
        apart_bytes=sum(task.bytes for task in tasks),
        stored_once_bytes=sum(tensor.bytes for tensor in owners),
        stored_once_numbers=sum(tensor.numbers for tensor in owners),
    )


def _task(bundle: Bundle, tensors: Sequence[_Tensor], owners: Counter[_Tensor]) -> TaskWeights:
    own = [tensor for tensor in tensors if owners[tensor] == 1]
    accuracy = bundle.manifest.accuracy
    return TaskWeights(
        name=bundle.path.name,
        accuracy=accuracy.accuracy if accuracy else None,
        macs=bundle.manifest.cost.macs,
        numbers=sum(tensor.numbers for tensor in tensors),
        bytes=sum(tensor.bytes for tensor in tensors),
        own_numbers=sum(tensor.numbers for tensor in own),
        own_bytes=sum(tensor.bytes for tensor in own),
    )


def _tensors(path: Path) -> list[_Tensor]:
    """Of a safetensors file: 8 bytes that say how long the JSON header is, the header, the tensors' bytes."""
    data = memoryview(path.read_bytes())
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        found = []
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                content = data[start + first : start + last]
                kind = json.dumps([entry["dtype"], entry["shape"]]).encode()
                digest = hashlib.sha256(kind + bytes(content)).digest()
                found.append(_Tensor(digest, prod(entry["shape"]), len(content)))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path} is no safetensors file: {error}.", advice="Make the bundle again.") from error
    return found
