"""Files with the weights of torchvision's classifiers that are no ResNets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from rrr_edge.bundle.sources import CLASSIFIERS, SOURCES, ClassifierBackbone
from rrr_edge.compress.checked_tensors import as_float32, check_tensors
from rrr_edge.compress.state_dicts import Head, find_resnet, some, the_one
from rrr_edge.compress.tensor_files import read_tensors
from rrr_edge.errors import BadInput
from rrr_edge.networks.torchvisions import trunk_shapes


@dataclass(frozen=True)
class ClassifierState:
    """What a file holds of a classifier of torchvision: `trunk` is all but the last layer, in torchvision's names.

    `head` is that layer, if it is there; `prefix` is in front of each name, and `others` are the parts that are not
    read.
    """

    backbone: ClassifierBackbone
    trunk: dict[str, Tensor]
    head: Head | None
    prefix: str
    others: tuple[str, ...]

    @property
    def words(self) -> str:
        """A clause such as "a MobileNetV2 for 20 classes, in torchvision's names after `model.`"."""
        head = f" for {len(self.head.weight)} classes" if self.head else " without its last layer"
        after = f" after `{self.prefix}`" if self.prefix else ""
        beside = f"; not read: {some(self.others)}" if self.others else ""
        return f"a {CLASSIFIERS[self.backbone].name}{head}, in torchvision's names{after}{beside}"


def read_classifier(path: Path, backbone: ClassifierBackbone) -> ClassifierState:
    """The network `backbone` in a file, in dense finite float32. No code in the file runs.

    The file is what torch.save or safetensors write of torchvision's model, under any prefix and in any dicts; of raw
    weights and their running average ("ema") the raw ones are taken. Raises BadInput, which names the network that is
    there instead, or what differs.
    """
    tensors, where = read_tensors(path), str(path)
    fitting = _prefixes(tensors, backbone)
    if not fitting:
        _refuse_others(tensors, CLASSIFIERS[backbone].name, where)
    source, shapes = CLASSIFIERS[backbone], trunk_shapes(backbone)
    prefix = the_one(fitting or _begins(tensors, shapes) or [""], where, f"{source.name}s")
    under = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    trunk = check_tensors(_trunk(under, shapes, source.head), shapes, source.name, where)
    matrix, bias = (under.get(f"{source.head}.{part}") for part in ("weight", "bias"))
    head = None
    if isinstance(matrix, Tensor) and isinstance(bias, Tensor) and matrix.shape[:1] == bias.shape:
        head = Head(*(as_float32(value, source.head, source.name, where) for value in (matrix, bias)))
    read = {f"{prefix}{name}" for name in (*trunk, f"{source.head}.weight", f"{source.head}.bias")}
    others = [name.partition(".")[0] for name, value in tensors.items() if name not in read and _is_weight(value)]
    return ClassifierState(backbone, trunk, head, prefix, tuple(dict.fromkeys(others)))


def classifier_in(tensors: Mapping[str, Any]) -> ClassifierBackbone | None:
    """Which of torchvision's classifiers is among `tensors` with all of its names and shapes, if any is."""
    every: tuple[ClassifierBackbone, ...] = get_args(ClassifierBackbone)
    return next((backbone for backbone in every if _prefixes(tensors, backbone)), None)


def _prefixes(tensors: Mapping[str, Any], backbone: ClassifierBackbone) -> list[str]:
    """Those under which all of the network's trunk is there, and nothing that it has not."""
    shapes, head = trunk_shapes(backbone), CLASSIFIERS[backbone].head
    found = []
    for prefix in _begins(tensors, shapes):
        under = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        has = {name: tuple(getattr(value, "shape", ())) for name, value in _trunk(under, shapes, head).items()}
        # Counts of batches have no shape, and may be missing.
        if {name: shape for name, shape in has.items() if shape} == {n: s for n, s in shapes.items() if s}:
            found.append(prefix)
    return found


def _begins(tensors: Mapping[str, Any], shapes: Mapping[str, Any]) -> list[str]:
    """The prefixes under which the trunk's first kernel is."""
    first = next(iter(shapes))
    return [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]


def _trunk(under: Mapping[str, Any], shapes: Mapping[str, Any], head: str) -> dict[str, Any]:
    """What lies in those parts of a network in which its trunk does."""
    parts = {name.partition(".")[0] for name in shapes}
    return {
        name: value
        for name, value in under.items()
        if name.partition(".")[0] in parts and name.rpartition(".")[0] != head
    }


def _refuse_others(tensors: Mapping[str, Any], wanted: str, where: str) -> None:
    """Raise BadInput where another network than the `wanted` one is there."""
    if other := classifier_in(tensors):
        raise BadInput(
            f"{where} holds the weights of a {CLASSIFIERS[other].name}, and a {wanted} is asked for.",
            advice=f"Add --backbone {other}, or give the weights of a {wanted}.",
        )
    try:
        source = find_resnet(tensors, where).source
    except BadInput:
        return
    key = next((key for key, known in SOURCES.items() if known == source), None)
    raise BadInput(
        f"{where} holds the weights of a {source.name}, and a {wanted} is asked for.",
        advice=f"{f'Add --backbone {key}, or give' if key else 'Give'} the weights of a {wanted}.",
    )


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
