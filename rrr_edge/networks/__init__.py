"""Networks: PyTorch modules built from specs, and their cost."""

from collections.abc import Callable
from typing import Any, TypeAlias, overload

from rrr_edge.bundle.cost import cost as cost_of_structure
from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec, NetworkSpec, ResNetSpec, TorchvisionSpec
from rrr_edge.bundle.structure import part_of_layer
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.networks.factored import build_factored
from rrr_edge.networks.resnet import ResNet
from rrr_edge.networks.tailored import Tailored
from rrr_edge.networks.torchvisions import Torchvision, torchvision_cost

__all__ = [
    "ChannelSpec",
    "Network",
    "ResNet",
    "ResNetSpec",
    "Tailored",
    "Torchvision",
    "TorchvisionSpec",
    "build",
    "cost",
    "part_of_layer",
]

# The union of all modules, as NetworkSpec is of all specs.
Network: TypeAlias = ResNet | Tailored | Torchvision

_MODULES: dict[type[NetworkSpec], Callable[[Any], Network]] = {
    ResNetSpec: ResNet,
    ChannelSpec: ResNet,
    TailoredSpec: Tailored,
    FactoredSpec: build_factored,
    TorchvisionSpec: Torchvision,
}


@overload
def build(spec: ResNetSpec | ChannelSpec) -> ResNet: ...
@overload
def build(spec: TailoredSpec) -> Tailored: ...
@overload
def build(spec: TorchvisionSpec) -> Torchvision: ...
@overload
def build(spec: NetworkSpec) -> Network: ...
def build(spec: NetworkSpec) -> Network:
    """The freshly initialised module of `spec`: images float [N, 3, H, W], normalised, to logits [N, B, K]."""
    return _MODULES[type(spec)](spec)


def cost(spec: NetworkSpec, image_size: int, *, stump_frozen: bool = True) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict. All parameters but those of a frozen stump learn.

    A tailored network is taken to have the source's blocks as they are; where they have learned, nothing is shared.
    """
    if isinstance(spec, TorchvisionSpec):
        return torchvision_cost(spec, image_size)
    return cost_of_structure(spec, image_size, stump_frozen=stump_frozen)
