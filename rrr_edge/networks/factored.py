"""Factored networks: networks of another family some of whose convolutions are pairs."""

from collections.abc import Mapping

from torch import nn

from rrr_edge.bundle.factored import convolutions
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.networks.pair import Pair
from rrr_edge.networks.resnet import ResNet
from rrr_edge.networks.tailored import Tailored


def build_base(base: BaseSpec) -> ResNet | Tailored:
    return Tailored(base) if isinstance(base, TailoredSpec) else ResNet(base)


def build_factored(spec: FactoredSpec) -> ResNet | Tailored:
    """The base's module with freshly initialised pairs in the places of the convolutions that `spec` has ranks for.

    The state dict has `NAME.basis.weight` and `NAME.scaling.weight` instead of `NAME.weight`.
    """
    network = build_base(spec.base)
    shapes = convolutions(spec.base, image_size=32)
    for name, rank in spec.ranks.items():
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        network.set_submodule(name, Pair.like(conv, rank, shapes[name].conv.branches).initialise())
    network.spec = spec
    return network


def pairs_of(network: nn.Module) -> dict[str, Pair]:
    """The pairs of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Pair)}


def with_modules(network: ResNet | Tailored, modules: Mapping[str, nn.Module]) -> ResNet | Tailored:
    """A network in which `modules` are in the places of a factored network's pairs; the rest is copied.

    Its spec is the base's where no pair is left.
    """
    assert isinstance(network.spec, FactoredSpec)
    base = network.spec.base
    result = build_base(base)
    state = {name: tensor for name, tensor in network.state_dict().items() if not _is_of(name, modules)}
    for name, module in modules.items():
        result.set_submodule(name, module)
        state |= {f"{name}.{own}": tensor for own, tensor in module.state_dict().items()}
    result.load_state_dict(state)
    for name, parameter in network.named_parameters():
        if not _is_of(name, modules):
            result.get_parameter(name).requires_grad_(parameter.requires_grad)
    ranks = {name: pair.rank for name, pair in pairs_of(result).items()}
    result.spec = FactoredSpec(base=base, ranks=ranks) if ranks else base
    return result.train(network.training)


def _is_of(name: str, modules: Mapping[str, nn.Module]) -> bool:
    return any(name.startswith(f"{own}.") for own in modules)
