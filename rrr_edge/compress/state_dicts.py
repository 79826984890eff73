"""A ResNet's tensors found in a loaded file: key names, prefix, which ResNet it is, its head."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrr_edge.bundle.sources import SOURCES, BlockKind, PhaseDepths, Source
from rrr_edge.errors import BadInput


class Head(NamedTuple):
    """A linear classifier: weight [K, F] and bias [K] for K classes and F features; zeros where there is no bias."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class StateDict:
    """What a file holds of a ResNet.

    `trunk` is everything but the classifier, in torchvision's names. `head` is None where there is none, or one of
    several layers. The rest is about the file: `naming` says whose names are in it, `prefix` is in front of each,
    `dtypes` are those of the trunk, and `others` are the parts beside trunk and head, which are left out.
    """

    source: Source
    trunk: dict[str, Any]
    head: Head | None
    naming: str
    prefix: str
    dtypes: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def words(self) -> str:
        """A clause such as "a ResNet50 for 20 classes, in torchvision's names after `model.`, float16"."""
        head = f" for {len(self.head.weight)} classes" if self.head else " without a linear classifier"
        after = f" after `{self.prefix}`" if self.prefix else ""
        beside = f"; not read: {some(self.others)}" if self.others else ""
        return f"a {self.source.name}{head}, in {self.naming} names{after}, {' and '.join(self.dtypes)}{beside}"


def find_resnet(tensors: Mapping[str, Any], where: str) -> StateDict:
    """The one ResNet among `tensors`, by dotted names, whatever prefix it is under.

    Of raw weights and their running average ("ema") the raw ones are taken. Raises BadInput where there is no ResNet,
    where there are several, or where the one that is there has other blocks than torchvision's.
    """
    found = _choose(list(_candidates(tensors)), tensors, where)
    trunk: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in tensors.items():
        ours = found.naming.rename(name.removeprefix(found.prefix)) if name.startswith(found.prefix) else None
        (trunk if ours else rest)[ours or name] = value
    _refuse_relatives(trunk, where)
    source = _identify(trunk)
    head, read = _find_head(rest, found.prefix, source.features)
    floats = {name: value for name, value in rest.items() if name not in read and _is_float(value) and value.ndim}
    return StateDict(
        source=source,
        trunk=trunk,
        head=head,
        naming=found.naming.words,
        prefix=found.prefix,
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in trunk.values() if _is_float(t)})),
        others=tuple(dict.fromkeys(_part(name, found.prefix) for name in floats)),
    )


# Names


def _from_torchvision(name: str) -> str | None:
    return name if name.partition(".")[0] in _TRUNK else None


def _from_transformers(name: str) -> str | None:
    kinds = {"convolution": ("conv", "downsample.0"), "normalization": ("bn", "downsample.1")}
    if stem := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(.+)", name):
        return f"{kinds[stem[1]][0]}1.{stem[2]}"
    pattern = r"encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.(\d))\.(convolution|normalization)\.(.+)"
    if block := re.fullmatch(pattern, name):
        conv, skip = kinds[block[5]]
        module = f"{conv}{int(block[4]) + 1}" if block[4] else skip
        return f"layer{int(block[1]) + 1}.{block[2]}.{module}.{block[6]}"
    return None


def _from_children(name: str) -> str | None:
    first, _, rest = name.partition(".")
    return f"{_CHILDREN[first]}.{rest}" if first in _CHILDREN and rest else None


class _Naming(NamedTuple):
    """`anchor` is the name of the first block's first kernel, and of nothing else."""

    words: str
    anchor: str
    rename: Callable[[str], str | None]


_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# Those that hold tensors, of nn.Sequential(*resnet.children()).
_CHILDREN = dict(zip("014567", _TRUNK, strict=True))
_NAMINGS = (
    _Naming("torchvision's", "layer1.0.conv1.weight", _from_torchvision),
    _Naming("transformers'", "encoder.stages.0.layers.0.layer.0.convolution.weight", _from_transformers),
    _Naming("nn.Sequential's", "4.0.conv1.weight", _from_children),
)


class _Candidate(NamedTuple):
    prefix: str
    naming: _Naming


def _candidates(tensors: Mapping[str, Any]) -> Iterator[_Candidate]:
    for naming in _NAMINGS:
        for name in tensors:
            if name == naming.anchor or name.endswith(f".{naming.anchor}"):
                yield _Candidate(name.removesuffix(naming.anchor), naming)


def _choose(candidates: list[_Candidate], tensors: Mapping[str, Any], where: str) -> _Candidate:
    if candidates:
        prefix = the_one([one.prefix for one in candidates], where, "ResNets")
        return next(one for one in candidates if one.prefix == prefix)
    names = [name for name, value in tensors.items() if isinstance(value, Tensor)]
    holds = f"its tensors are {some(names)}" if names else "it holds no tensors under names"
    raise BadInput(
        f"{where} does not hold the weights of a ResNet: {holds}.",
        advice="Give a state dict with torchvision's names (layer1.0.conv1.weight, ...) or transformers'.",
    )


def the_one(prefixes: Sequence[str], where: str, networks: str) -> str:
    """The prefix of the only network, or of the only one that is no running average. Raises BadInput."""
    raw = [one for one in prefixes if not re.search(r"(^|[._])ema([._]|$)", one)]
    chosen = raw if len(prefixes) > 1 and raw else prefixes
    if len(chosen) == 1:
        return chosen[0]
    raise BadInput(
        f"{where} holds {len(chosen)} {networks}, after {some([f'`{one}`' for one in chosen])}.",
        advice="Save the one that is meant alone.",
    )


# Which ResNet


def _identify(trunk: Mapping[str, Any]) -> Source:
    block: BlockKind = "bottleneck" if "layer1.0.conv3.weight" in trunk else "basic"
    depths = _depths(trunk)
    for source in (*SOURCES.values(), *_NAMES):
        if (source.block, source.depths) == (block, depths):
            return source
    return Source(f"ResNet of {', '.join(map(str, depths))} {block} blocks", block, depths, is_named=False)


# Told by their names, though nothing begins with them.
_NAMES = (Source("ResNet26", "bottleneck", (2, 2, 2, 2)), Source("ResNet200", "bottleneck", (3, 24, 36, 3)))


def _depths(trunk: Mapping[str, Any]) -> PhaseDepths:
    """Blocks by phase; one where there is none, so that it is missed by its name."""
    blocks = {(m[1], m[2]) for m in (re.match(r"layer([1-4])\.(\d+)\.", name) for name in trunk) if m}
    first, second, third, fourth = (max(1, sum(phase == one for phase, _ in blocks)) for one in "1234")
    return first, second, third, fourth


def _refuse_relatives(trunk: Mapping[str, Any], where: str) -> None:
    """Wide ResNets and ResNeXts have a ResNet's names, and other kernels in the middle of their blocks."""
    kernel = trunk.get("layer1.0.conv2.weight")
    if not isinstance(kernel, Tensor) or kernel.ndim != 4 or 0 in kernel.shape or "layer1.0.conv3.weight" not in trunk:
        return
    width, each = kernel.shape[:2]
    name = _identify(trunk).name
    if width > each:
        name = f"{name.replace('ResNet', 'ResNeXt')} {width // each}x{each}d"
    elif width > _PLANES:
        name = f"Wide {name}-{width // _PLANES}"
    else:
        return
    raise BadInput(
        f"{where} holds the weights of a {name}, which is none of the networks that can be read.", advice=_GIVE
    )


_PLANES = 64
_GIVE = f"Give the weights of a {', '.join(source.name for source in SOURCES.values())}."


# The classifier


def _find_head(rest: Mapping[str, Any], prefix: str, features: int) -> tuple[Head | None, tuple[str, ...]]:
    """The only matrix that reads the features, with its bias, and the names of both.

    It is looked for beside the trunk, then beside what the trunk is part of, and so on.
    """
    for level in _levels(prefix):
        matrices = {n: v for n, v in rest.items() if n.startswith(level) and _is_float(v) and v.ndim == 2}
        readers = [name for name, value in matrices.items() if value.shape[1] == features]
        if not readers:
            continue
        name, weight = readers[0], matrices[readers[0]]
        if len(readers) > 1 or sum(_part(other, level) == _part(name, level) for other in matrices) > 1:
            return None, ()
        bias_name = f"{name.removesuffix('weight')}bias"
        bias = rest.get(bias_name)
        if not isinstance(bias, Tensor) or bias.shape != weight.shape[:1]:
            bias = torch.zeros(len(weight))
        return Head(weight, bias), (name, bias_name)
    return None, ()


def _levels(prefix: str) -> Iterator[str]:
    """`a.b.`, then `a.`, then nothing."""
    parts = prefix.split(".")[:-1]
    for kept in range(len(parts), -1, -1):
        yield "".join(f"{part}." for part in parts[:kept])


def _part(name: str, prefix: str) -> str:
    """The part of the model in which a tensor lies: its name up to where that leaves the prefix."""
    level = next(level for level in _levels(prefix) if name.startswith(level))
    return level + name.removeprefix(level).partition(".")[0]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def some(names: Sequence[str]) -> str:
    """The first three, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
