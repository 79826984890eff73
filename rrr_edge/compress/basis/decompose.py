"""The decomposition of convolutions into orthonormal bases and scalings, and the way back (Wong et al. 2021)."""

import torch
from torch import nn

from rrr_edge.bundle.factored import convolutions, full_ranks
from rrr_edge.bundle.recipe import Importance
from rrr_edge.bundle.spec import FactoredSpec, TorchvisionSpec
from rrr_edge.networks import Network
from rrr_edge.networks.factored import pairs_of, with_modules
from rrr_edge.networks.pair import Pair


def factorise(conv: nn.Conv2d, branches: int | None = None) -> Pair:
    """The pair of full rank that computes what `conv` does, from thin SVDs in double precision.

    Each branch (as many as the convolution has groups, unless given) is decomposed alone: its weights [C, K],
    transposed, are U diag(s) V^T. The filters of `basis` are the columns of U in the order of falling s; `scaling` is
    V diag(s), and has the bias.
    """
    branches = branches or conv.groups
    weights = conv.weight.detach().double().reshape(branches, conv.out_channels // branches, -1)
    u, s, vt = torch.linalg.svd(weights.transpose(1, 2), full_matrices=False)
    pair = Pair.like(conv, s.shape[1], branches)
    with torch.no_grad():
        pair.basis.weight.copy_(u.transpose(1, 2).reshape(pair.basis.weight.shape))
        pair.scaling.weight.copy_((vt.transpose(1, 2) * s[:, None]).reshape(pair.scaling.weight.shape))
        if pair.scaling.bias is not None and conv.bias is not None:
            pair.scaling.bias.copy_(conv.bias)
    return pair


def decompose(network: Network) -> None:
    """Put a pair of full rank in the place of every convolution of a network."""
    base = network.spec
    assert not isinstance(base, FactoredSpec | TorchvisionSpec)
    for name, found in convolutions(base, image_size=32).items():
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        network.set_submodule(name, factorise(conv, found.conv.branches))
    network.spec = FactoredSpec(base=base, ranks=full_ranks(base))


@torch.no_grad()
def fold_norms(network: Network) -> None:
    """Multiply each convolution's weights by what its normalisation in eval mode does; that only adds from then on."""
    assert not isinstance(network.spec, FactoredSpec | TorchvisionSpec)
    for name in convolutions(network.spec, image_size=32):
        conv, norm = network.get_submodule(name), network.get_submodule(_norm_of(name))
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
        norm.bias.copy_(norm.bias.double() - norm.running_mean.double() * scale)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)


def _norm_of(conv: str) -> str:
    """The name of the normalisation that follows a convolution."""
    where, _, own = conv.rpartition(".")
    return f"{where}.1" if own == "0" else f"{where}.{own.replace('conv', 'bn')}".removeprefix(".")


def let_learn(network: Network, importance: Importance) -> None:
    """Freeze all but the factors, whose importance is added up from now on, and the classifier."""
    network.requires_grad_(False)
    network.fc.requires_grad_(True)
    for pair in pairs_of(network).values():
        pair.learn_factors(importance)
        assert pair.factors is not None
        pair.factors.requires_grad_(True)


def deliver(network: Network) -> Network:
    """A copy with the factors in the scalings, and a plain convolution wherever that has no more weights than the pair.

    Its answers are the same but for roundings.
    """
    assert isinstance(network.spec, FactoredSpec)
    every = convolutions(network.spec.base, image_size=32)
    modules: dict[str, nn.Module] = {
        name: pair.absorbed() if pair.rank <= every[name].largest_pair else pair.product()
        for name, pair in pairs_of(network).items()
    }
    return with_modules(network, modules)
