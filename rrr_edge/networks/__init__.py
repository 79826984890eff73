"""Networks: PyTorch modules built from specs, and their cost."""

from collections.abc import Callable
from typing import Any, TypeAlias, overload

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec, NetworkSpec, ResNetSpec
from rrr_edge.bundle.structure import part_of_layer
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.networks.factored import build_factored
from rrr_edge.networks.resnet import ResNet
from rrr_edge.networks.tailored import Tailored

__all__ = ["ChannelSpec", "Network", "ResNet", "ResNetSpec", "Tailored", "build", "cost", "part_of_layer"]

# The union of all modules, as NetworkSpec is of all specs.
Network: TypeAlias = ResNet | Tailored

_MODULES: dict[type[NetworkSpec], Callable[[Any], Network]] = {
    ResNetSpec: ResNet,
    ChannelSpec: ResNet,
    TailoredSpec: Tailored,
    FactoredSpec: build_factored,
}


@overload
def build(spec: ResNetSpec | ChannelSpec) -> ResNet: ...
@overload
def build(spec: TailoredSpec) -> Tailored: ...
@overload
def build(spec: NetworkSpec) -> Network: ...
def build(spec: NetworkSpec) -> Network:
    """The freshly initialised module of `spec`: images float [N, 3, H, W], normalised, to logits [N, B, K]."""
    return _MODULES[type(spec)](spec)
