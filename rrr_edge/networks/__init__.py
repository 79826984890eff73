"""Networks: PyTorch modules built from specs, and their cost."""

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.spec import ChannelSpec, NetworkSpec, ResNetSpec
from rrr_edge.bundle.structure import cost as resnet_cost
from rrr_edge.bundle.structure import part_of_layer
from rrr_edge.networks.resnet import ResNet

__all__ = ["ChannelSpec", "Network", "ResNet", "ResNetSpec", "build", "cost", "part_of_layer"]

# The union of all modules, as NetworkSpec is of all specs.
Network = ResNet

_MODULES = {ResNetSpec: ResNet, ChannelSpec: ResNet}
_COSTS = {ResNetSpec: resnet_cost, ChannelSpec: resnet_cost}


def build(spec: NetworkSpec) -> Network:
    """The freshly initialised module of `spec`: images float [N, 3, H, W], normalised, to logits [N, B, K]."""
    return _MODULES[type(spec)](spec)


def cost(spec: NetworkSpec, image_size: int, *, stump_frozen: bool = True) -> Cost:
    """Parameters, MACs for one square image, and bytes of the weights, without building the network."""
    return _COSTS[type(spec)](spec, image_size, stump_frozen=stump_frozen)
