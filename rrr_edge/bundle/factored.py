"""The structure of factored networks as data: the convolutions that can be pairs, parameters, MACs."""

from collections.abc import Iterator
from typing import NamedTuple

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec
from rrr_edge.bundle.structure import ConvShape, layers, resnet_cost
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.bundle.tailored_structure import STEM_CONV, node_shapes, paths, tailored_cost

_FLOAT_BYTES = 4


class Convolution(NamedTuple):
    """A convolution of a network, by its module's name, with the side of its square output."""

    name: str
    conv: ConvShape
    size: int

    @property
    def full_rank(self) -> int:
        """The number of basis vectors, of one branch, that make any weights: K = inputs * kernel^2, at most C."""
        return min(self._inputs, self.conv.outputs)

    @property
    def largest_pair(self) -> int:
        """The largest rank whose pair has fewer weights, and so fewer MACs, than the convolution: R (K + C) < K C."""
        return (self._inputs * self.conv.outputs - 1) // (self._inputs + self.conv.outputs)

    @property
    def vector_params(self) -> int:
        """What a pair has less with one basis vector less in each branch."""
        return self.conv.branches * (self._inputs + self.conv.outputs)

    def added_params(self, rank: int) -> int:
        """What a pair of that rank has more than the convolution."""
        return rank * self.vector_params - self.conv.branches * self._inputs * self.conv.outputs

    @property
    def _inputs(self) -> int:
        return self.conv.inputs * self.conv.kernel**2


def convolutions(base: BaseSpec, image_size: int) -> dict[str, Convolution]:
    """All convolutions of a network by name, for square images."""
    if not isinstance(base, TailoredSpec):
        return {name: Convolution(name, conv, size) for name, _, conv, size in layers(base, image_size)}
    return {found.name: found for found in _tailored(base, image_size)}


def _tailored(base: TailoredSpec, image_size: int) -> Iterator[Convolution]:
    yield Convolution("conv1", STEM_CONV, (image_size + 1) // 2)
    shapes = node_shapes(base.backbone)
    for path in paths(base, image_size):
        shape = shapes[path.node]
        if path.universal:
            names = [f"{shape.name}.{own}" for own in shape.convs]
        else:
            names = [f"{shape.name}.proxies.{path.source}.conv{i}" for i, _ in enumerate(path.convs, start=1)]
        yield from (Convolution(name, conv, size) for name, (conv, size) in zip(names, path.convs, strict=True))


def factored_cost(spec: FactoredSpec, image_size: int) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict, counted on the structure.

    Nothing is taken to be shared with other tasks, and everything to be able to learn.
    """
    base = tailored_cost(spec.base, image_size) if isinstance(spec.base, TailoredSpec) else _of(spec.base, image_size)
    every = convolutions(spec.base, image_size)
    added = {name: every[name].added_params(rank) for name, rank in spec.ranks.items()}
    params = base.params + sum(added.values())
    return Cost(
        params=params,
        trainable_params=params,
        macs=base.macs + sum(more * every[name].size ** 2 for name, more in added.items()),
        weights_bytes=base.weights_bytes + _FLOAT_BYTES * sum(added.values()),
    )


def _of(base: BaseSpec, image_size: int) -> Cost:
    assert not isinstance(base, TailoredSpec)
    return resnet_cost(base, image_size)


def full_ranks(base: BaseSpec) -> dict[str, int]:
    """The ranks with which every convolution is a pair that computes the same."""
    return {name: found.full_rank for name, found in convolutions(base, image_size=32).items()}


def delivered(spec: FactoredSpec) -> BaseSpec | FactoredSpec:
    """`spec` with a plain convolution wherever a pair has no fewer weights than that."""
    every = convolutions(spec.base, image_size=32)
    ranks = {name: rank for name, rank in spec.ranks.items() if rank <= every[name].largest_pair}
    return FactoredSpec(base=spec.base, ranks=ranks) if ranks else spec.base
