"""Removal of the least important basis vectors of a factored network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import convolutions, delivered
from rrr_edge.bundle.recipe import Normalise
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec
from rrr_edge.networks import Network, Torchvision
from rrr_edge.networks.factored import pairs_of, with_modules
from rrr_edge.networks.pair import Pair

Ranks = Mapping[str, int]


def weakest(network: Network, normalise: Normalise) -> tuple[str, ...]:
    """The names of the convolutions in the order in which each is to lose a basis vector, so that none loses its last.

    Of a convolution of several branches each branch loses its own weakest, and the sum of these counts. "layer" divides
    importance by its norm over the layer (Molchanov et al. 2017), "cost" by the parameters that go.
    """
    assert isinstance(network.spec, FactoredSpec)
    every = convolutions(network.spec.base, image_size=32)
    found: list[tuple[float, str]] = []
    for name, pair in pairs_of(network).items():
        scores = _of_branches(pair).sort(1).values.sum(0)
        if normalise == "layer":
            scores = scores / scores.norm().clamp_min(torch.finfo(scores.dtype).tiny)
        elif normalise == "cost":
            scores = scores / every[name].vector_params
        found += [(score, name) for score in scores[:-1].tolist()]
    # A stable sort of what rises within a layer: the order of its own vectors stays.
    return tuple(name for _, name in sorted(found, key=lambda one: one[0]))


def without(ranks: Ranks, removed: Sequence[str]) -> dict[str, int]:
    """The ranks when the convolutions named in `removed` have lost a basis vector for each time."""
    counts = Counter(removed)
    return {name: rank - counts[name] for name, rank in ranks.items()}


def prune(network: Network, ranks: Ranks) -> Network:
    """A copy in which each pair has lost its least important basis vectors, down to those ranks."""
    assert not isinstance(network, Torchvision)
    modules = {}
    for name, pair in pairs_of(network).items():
        strongest = _of_branches(pair).argsort(stable=True, dim=1, descending=True)[:, : ranks[name]]
        modules[name] = pair.kept(strongest.sort(1).values)
    return with_modules(network, modules)


def _of_branches(pair: Pair) -> Tensor:
    """The importance [B, R] of each branch's basis vectors."""
    assert pair.importance is not None
    return pair.importance.reshape(pair.branches, pair.rank).abs().cpu()


def removals_at_most(base: BaseSpec, share: float, sparsity: float | None) -> int:
    """How many removals of `share` of the vectors each it takes, at most, until `sparsity` of the parameters are gone.

    None: until no convolution can lose one. The vectors that save least go first, as they would at worst: a pair saves
    nothing before it is smaller than its convolution.
    """
    every = convolutions(base, image_size=32).values()
    saved = sorted(
        max(0, -one.added_params(rank - 1)) - max(0, -one.added_params(rank))
        for one in every
        for rank in range(2, one.full_rank + 1)
    )
    enough = len(saved)
    if sparsity is not None:
        whole = cost(base, image_size=32).params
        wanted = whole - int(whole * (1 - sparsity))
        enough = next((count for count, sum_ in enumerate(accumulate(saved, initial=0)) if sum_ >= wanted), enough)
    return removals_of(enough, share, left=sum(one.full_rank for one in every))


def removals_of(count: int, share: float, *, left: int) -> int:
    """How many removals take `count` of what is `left`, where each takes `share` of what is left then."""
    removals = 0
    while count > 0:
        gone = max(1, round(share * left))
        count, left, removals = count - gone, left - gone, removals + 1
    return removals


def params_with(base: BaseSpec, ranks: Ranks) -> int:
    """The parameters of the network that is delivered with those ranks."""
    return cost(delivered(FactoredSpec(base=base, ranks=dict(ranks))), image_size=32).params


def most_removed(base: BaseSpec) -> float:
    """The share of the parameters of `base` that goes when every convolution keeps one basis vector."""
    ones = dict.fromkeys(convolutions(base, image_size=32), 1)
    return 1 - params_with(base, ones) / cost(base, image_size=32).params
