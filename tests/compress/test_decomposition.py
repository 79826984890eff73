"""Basis scaling of convolutions: decomposition, scores and removal against formulas and torchvision's networks."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models import vgg

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import convolutions, delivered, full_ranks
from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec, PhaseWidths, ResNetSpec
from rrr_edge.bundle.tailored import whole_network, with_proxies
from rrr_edge.compress.basis.decompose import decompose, deliver, factorise, fold_norms, let_learn
from rrr_edge.compress.basis.pruning import most_removed, params_with, prune, weakest, without
from rrr_edge.networks import Network, build
from rrr_edge.networks.factored import pairs_of
from rrr_edge.networks.tailored import fold

RRR_SPEC = ResNetSpec(depths=(1, 1, 1, 1), branches=2, branch_widths=(40, 24), num_classes=3)
NARROW = ChannelSpec(
    stem=8, phases=tuple(PhaseWidths(outputs=w, blocks=((w // 2, w // 4),) * 2) for w in (8, 12, 16, 20)), num_classes=3
)
TAILORED = with_proxies(whole_network("resnet18", 3), 2)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def lively(network: Any) -> Any:
    """In eval mode, with normalisations that do something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def close(found: Tensor, expected: Tensor, relative: float) -> None:
    """The difference is small beside the largest number."""
    assert float((found - expected).detach().abs().max()) <= relative * float(expected.detach().abs().max())


@pytest.mark.parametrize(
    ("model", "whole", "factored", "factors"),
    [
        ("resnet50", 23_454_912, 28_611_776, 13_248),
        ("vgg16", 14_710_464, 16_517_529, 4_187),
        ("densenet121", 6_870_208, 8_208_576, 10_144),
    ],
)
def test_a_full_decomposition_has_as_many_weights_and_factors_as_was_derived(
    model: str, whole: int, factored: int, factors: int
) -> None:
    with torch.device("meta"):
        network = getattr(torchvision.models, model)(num_classes=10)
        convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        pairs = [factorise(conv) for conv in convs]
    assert sum(conv.weight.numel() for conv in convs) == whole
    assert sum(pair.basis.weight.numel() + pair.scaling.weight.numel() for pair in pairs) == factored
    assert sum(pair.rank for pair in pairs) == factors


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": partial(torchvision.models.resnet50, num_classes=10),
    # Without the large linear layers, which are not decomposed.
    "vgg16": lambda: nn.Sequential(vgg.make_layers(vgg.cfgs["D"]), nn.Flatten(), nn.Linear(512, 10)),
    "densenet121": partial(torchvision.models.densenet121, num_classes=10),
}


@pytest.mark.parametrize("model", NETWORKS)
def test_networks_of_torchvision_answer_the_same_as_pairs(model: str) -> None:
    torch.manual_seed(0)
    network = lively(NETWORKS[model]()).requires_grad_(False)
    expected = network(images())
    for name, conv in [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]:
        pair = factorise(conv)
        x = torch.randn(1, conv.in_channels, 8, 8)
        close(pair(x), conv(x), 1e-5)
        u = pair.basis.weight.detach().flatten(1)
        assert float((u @ u.T - torch.eye(pair.rank)).abs().max()) < 1e-5
        network.set_submodule(name, pair)
    found = network(images())
    assert float(((found - expected).norm() / expected.norm()).detach()) < 1e-5
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_grouped_and_strided_convolutions_are_decomposed_group_by_group() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 20, 3, stride=2, padding=2, dilation=2, groups=4)
    pair = factorise(conv)
    assert (pair.rank, pair.branches, pair.basis.groups) == (5, 4, 4)
    x = torch.randn(2, 12, 9, 9)
    close(pair(x), conv(x), 1e-5)
    close(pair.product().weight, conv.weight, 1e-6)


@pytest.mark.parametrize("spec", [RRR_SPEC, NARROW, TAILORED], ids=lambda spec: spec.kind)
def test_every_family_is_factored_delivered_and_counted(spec: Any) -> None:
    network = lively(build(spec))
    with torch.no_grad():
        expected = network(images())
        decompose(network)
        close(network(images()), expected, 1e-5)
        let_learn(network, "taylor2")
        ranks = {name: max(1, rank // (2 if i % 2 else 1)) for i, (name, rank) in enumerate(full_ranks(spec).items())}
        smaller = prune(network, ranks)
        made = deliver(smaller)
        close(made(images()), smaller(images()), 1e-5)
    assert made.spec == delivered(FactoredSpec(base=spec, ranks=ranks))
    counted = cost(made.spec, 32)
    assert counted.params == sum(p.numel() for p in made.parameters()) == params_with(spec, ranks)
    assert counted.weights_bytes == sum(tensor.nbytes for tensor in made.state_dict().values())
    assert counted.macs == _macs(made)
    again = build(type(made.spec).model_validate_json(made.spec.to_json()))
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images()), made(images()))


def _macs(network: Network) -> int:
    """By torch's own counter, which counts additions too."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images()[:1])
    return counter.get_total_flops() // 2


def test_the_attention_of_tailored_networks_is_folded_into_pairs_too() -> None:
    network = lively(build(TAILORED))
    decompose(network)
    with torch.no_grad():
        close(fold(network)(images()), network(images()), 1e-4)  # type: ignore[arg-type]


def test_folded_normalisation_changes_roundings_and_the_basis() -> None:
    plain, folded = lively(build(NARROW)), lively(build(NARROW))
    folded.load_state_dict(plain.state_dict())
    fold_norms(folded)
    with torch.no_grad():
        close(folded(images()), plain(images()), 1e-5)
        decompose(folded)
        close(folded(images()), plain(images()), 1e-5)
        decompose(plain)
    name = "layer1.0.conv1"
    ours, theirs = (pairs_of(network)[name].basis.weight.flatten(1) for network in (folded, plain))
    assert not torch.allclose((ours @ theirs.T).abs(), torch.eye(len(ours)), atol=0.1)
    norm = folded.get_submodule("layer1.0.bn1")
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))


# One layer


@pytest.fixture
def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 16, 3, padding=1, bias=False).double()


def test_a_factor_of_zero_is_a_basis_vector_less(conv: nn.Conv2d) -> None:
    pair = factorise(conv)
    pair.learn_factors("taylor2")
    assert pair.factors is not None
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        pair.factors[3] = 0
        pair.factors[7] = 0.5
        kept = pair.kept(torch.tensor([[i for i in range(16) if i != 3]]))
        close(kept(x), pair(x), 1e-12)
        close(pair.absorbed()(x), pair(x), 1e-12)
        close(pair.product()(x), pair(x), 1e-12)
    assert pair.absorbed().factors is None


def test_what_the_first_vectors_leave_out_is_the_sum_of_squared_singular_values(conv: nn.Conv2d) -> None:
    pair = factorise(conv)
    singular = np.linalg.svd(conv.weight.detach().flatten(1).numpy(), compute_uv=False)
    np.testing.assert_allclose(pair.scaling.weight.flatten(1).norm(dim=0).detach(), singular, rtol=1e-9)
    for kept in (1, 5, 11):
        left = pair.kept(torch.arange(kept)[None]).product().weight - conv.weight
        assert float(left.norm() ** 2) == pytest.approx((singular[kept:] ** 2).sum(), rel=1e-9)


def test_the_taylor_term_is_the_inner_product_of_gradient_and_contribution(conv: nn.Conv2d) -> None:
    for power, importance in ((2, "taylor2"), (1, "taylor1")):
        pair = factorise(conv)
        pair.learn_factors(importance)  # type: ignore[arg-type]
        assert pair.factors is not None
        with torch.no_grad():
            pair.factors.uniform_(0.5, 1.5)
        total = torch.zeros(16, dtype=torch.float64)
        for seed in range(2):
            x = torch.randn(2, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            slope = torch.randn(2, 16, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9 + seed))
            # A loss that is linear in the output: what is predicted is exactly what is lost.
            (pair(x) * slope).sum().backward()
            with torch.no_grad():
                whole = (pair(x) * slope).sum()
                losses = []
                for j in range(16):
                    rest = pair.kept(torch.tensor([[i for i in range(16) if i != j]]))
                    losses.append(whole - (rest(x) * slope).sum())
            total += torch.stack(losses) ** power
        torch.testing.assert_close(pair.importance, total)


def test_pairs_below_the_break_even_rank_are_smaller_and_others_become_products() -> None:
    spec = ResNetSpec(num_classes=5, depths=(1, 1, 1, 1))
    for found in convolutions(spec, 64).values():
        inputs, outputs = found.conv.inputs * found.conv.kernel**2, found.conv.outputs
        assert (
            found.largest_pair * (inputs + outputs) < inputs * outputs <= (found.largest_pair + 1) * (inputs + outputs)
        )
    whole = cost(spec, 64)
    assert params_with(spec, full_ranks(spec)) == whole.params
    below = {name: found.largest_pair for name, found in convolutions(spec, 64).items()}
    made = delivered(FactoredSpec(base=spec, ranks=below))
    assert isinstance(made, FactoredSpec)
    assert made.ranks == below
    assert cost(made, 64).params < whole.params
    assert cost(made, 64).macs < whole.macs


# Removal


def learned(spec: Any, importance: Callable[[str, int], Tensor]) -> Network:
    """Decomposed, with this importance of a convolution's factors by its name and their number."""
    network = build(spec)
    decompose(network)
    let_learn(network, "taylor2")
    for name, pair in pairs_of(network).items():
        assert pair.importance is not None
        pair.importance.copy_(importance(name, len(pair.importance)))
    return network


def test_the_least_important_of_all_layers_go_first_and_none_loses_its_last() -> None:
    network = learned(NARROW, lambda name, n: torch.rand(n, generator=torch.Generator().manual_seed(len(name))) + 0.1)
    ranks = full_ranks(NARROW)
    order = weakest(network, "none")
    assert len(order) == sum(ranks.values()) - len(ranks)
    assert set(without(ranks, order).values()) == {1}
    scores = {name: pair.importance for name, pair in pairs_of(network).items()}
    cut = len(order) // 3
    left = without(ranks, order[:cut])
    smaller = prune(network, left)
    every = sorted(float(score) for scores_of in scores.values() for score in scores_of)
    gone = 0
    for name, pair in pairs_of(network).items():
        kept = pairs_of(smaller)[name]
        strong = scores[name].argsort(descending=True)[: left[name]].sort().values
        assert torch.equal(kept.basis.weight, pair.basis.weight[strong])
        weak = set(range(pair.rank)) - set(strong.tolist())
        # Where one vector is left it may be weaker than what goes elsewhere.
        assert left[name] == 1 or all(float(scores[name][i]) <= every[cut + len(ranks)] for i in weak)
        gone += len(weak)
    assert gone == cut


def test_importance_is_normalised_by_layer_or_by_cost() -> None:
    def of(name: str, n: int) -> Tensor:
        return torch.arange(1, n + 1, dtype=torch.float32) * (1000 if name == "conv1" else 1)

    network = learned(NARROW, of)
    every = convolutions(NARROW, 32)
    for normalise in ("none", "layer", "cost"):
        expected = []
        for name, found in every.items():
            scores = of(name, found.full_rank)
            by = {"none": 1.0, "layer": float(scores.norm()), "cost": float(found.vector_params)}[normalise]
            expected += [(score / by, name) for score in scores[:-1].tolist()]
        # Equal scores may come in either order, so the scores are compared.
        position = dict.fromkeys(every, 0)
        seen = []
        for name in weakest(network, normalise):  # type: ignore[arg-type]
            by = {"none": 1.0, "layer": float(of(name, every[name].full_rank).norm())}
            seen.append(
                of(name, every[name].full_rank)[position[name]].item() / by.get(normalise, every[name].vector_params)
            )
            position[name] += 1
        np.testing.assert_allclose(seen, sorted(score for score, _ in expected), rtol=1e-5)


def test_each_branch_loses_its_own_weakest() -> None:
    network = learned(RRR_SPEC, lambda name, n: torch.arange(n, dtype=torch.float32))
    name = "layer3.0.conv2"
    pair = pairs_of(network)[name]
    assert pair.importance is not None
    assert pair.branches == 2
    rank = pair.rank
    first = torch.arange(rank, dtype=torch.float32)
    pair.importance.copy_(torch.cat([first, first.flip(0)]))
    ranks = full_ranks(RRR_SPEC) | {name: 3}
    smaller = prune(network, ranks)
    rows = [*range(rank - 3, rank), *range(rank, rank + 3)]
    assert torch.equal(pairs_of(smaller)[name].basis.weight, pair.basis.weight[rows])
    assert smaller.spec.layers == RRR_SPEC.layers + len(ranks)  # type: ignore[union-attr]


def test_the_most_that_can_go_leaves_one_vector_each() -> None:
    ones = dict.fromkeys(full_ranks(NARROW), 1)
    assert most_removed(NARROW) == 1 - params_with(NARROW, ones) / cost(NARROW, 32).params


def test_only_factors_and_the_classifier_learn() -> None:
    network = deepcopy(learned(RRR_SPEC, lambda name, n: torch.ones(n)))
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    factors = sum(pair.branches * pair.rank for pair in pairs_of(network).values())
    assert sum(p.numel() for p in learning.values()) == factors + sum(p.numel() for p in network.fc.parameters())
    assert {name.rpartition(".")[2] for name in learning if not name.startswith("fc.")} == {"factors"}


def test_ranks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="no convolution 'conv9'"):
        FactoredSpec(base=RRR_SPEC, ranks={"conv9": 3})
    with pytest.raises(ValidationError, match="a rank of 65, and at most 64"):
        FactoredSpec(base=RRR_SPEC, ranks={"conv1": 65})
    with pytest.raises(ValidationError):
        FactoredSpec(base=RRR_SPEC, ranks={"conv1": 0})
