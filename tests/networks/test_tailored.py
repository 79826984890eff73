"""Tailored networks against torchvision, and against the published counts (Morgado and Vasconcelos 2019)."""

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_edge.bundle.sources import Backbone
from rrr_edge.bundle.tailored import (
    STEM,
    TailoredNode,
    TailoredSpec,
    connected,
    whole_network,
    with_proxies,
)
from rrr_edge.bundle.tailored_structure import backbone_flops
from rrr_edge.networks import Tailored, build, cost
from rrr_edge.networks.tailored import fold, shrink

NODES = 8


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


def images(count: int = 3, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def lively(spec: TailoredSpec) -> Tailored:
    """Weights, statistics and attention that are all different, in eval mode."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = build(spec)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2)
        for name, parameter in network.named_parameters():
            if name.endswith(".attention"):
                nn.init.normal_(parameter)
            elif ".proxies." in name and parameter.dim() == 4:
                nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("backbone", "max_skip", "proxies", "proxy_params", "universal"),
    [
        ("resnet34", 1, 16, 1_092_992, 21_284_672),
        ("resnet34", 3, 45, 2_750_208, 21_284_672),
        ("resnet34", 5, 70, 4_083_200, 21_284_672),
        ("resnet18", 3, 21, 1_145_728, 11_176_512),
        ("resnet50", 3, 45, 3_351_360, 23_508_032),
    ],
)
def test_the_published_counts(
    backbone: Backbone, max_skip: int, proxies: int, proxy_params: int, universal: int
) -> None:
    spec = with_proxies(whole_network(backbone, 10), max_skip)
    with torch.device("meta"):
        network = build(spec)
    params = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(len(node.proxies) for node in spec.nodes) == proxies
    assert sum(n for name, n in params.items() if ".proxies." in name) == proxy_params
    counted = cost(spec, 224)
    assert counted.shared_params == universal == sum(params[name] for name in network.universal())
    attention = sum(node.paths for node in spec.nodes if node.paths > 1)
    head = 10 * (network.fc.in_features + 1)
    assert counted.trainable_params == proxy_params + attention + head
    assert counted.params == sum(params.values()) == universal + counted.trainable_params
    assert counted.weights_bytes == sum(t.nbytes for t in network.state_dict().values())


def test_flops_are_the_papers_and_macs_are_torchvisions() -> None:
    whole = whole_network("resnet34", 1000)
    assert backbone_flops(whole, 224) == 3_581_010_944
    # torchvision's own figure for ResNet34, in GMACs.
    assert cost(whole, 224).macs == pytest.approx(3.664e9, rel=1e-3)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_with_main_paths_alone_it_is_torchvisions_bit_for_bit(backbone: Backbone) -> None:
    theirs = getattr(torchvision.models, backbone)(num_classes=7).eval()
    ours = build(whole_network(backbone, 7)).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images())[:, 0], theirs(images()))


def test_attention_begins_at_the_papers_weights_and_sums_to_one() -> None:
    network = build(with_proxies(whole_network("resnet18", 5), 3))
    for own, weights in network.attention().items():
        assert float(weights.detach().sum()) == pytest.approx(1)
        if own >= 3:
            assert weights.tolist() == pytest.approx([0.947915] + [0.0173617] * 3, abs=1e-6)


def test_the_node_is_the_weighted_sum_of_block_and_pooled_proxies() -> None:
    network = lively(with_proxies(whole_network("resnet18", 5), 3))
    with torch.no_grad():
        found = network.outputs(images(side=64))
        node = network.nodes[7]  # the first of conv5_x, from conv3_2, conv4_1 and conv4_2
        sources = [found.nodes[own] for own in (4, 5, 6)]
        block = node.block(found.nodes[6])
        parts = [block]
        for own, source in zip((4, 5, 6), sources, strict=True):
            proxy = node.proxies[str(own)]
            stride = source.shape[-1] // block.shape[-1]
            pooled = F.max_pool2d(source, stride + 1, stride, stride // 2)
            parts.append(proxy.bn1(F.conv2d(pooled, proxy.conv1.weight)))
        weights = torch.softmax(node.attention, 0)
        expected = sum(weight * part for weight, part in zip(weights, parts, strict=True)).relu()
    torch.testing.assert_close(found.nodes[7], expected)
    assert [source.shape[-1] // block.shape[-1] for source in sources] == [4, 2, 2]


def _masked(network: Tailored, removed: set[tuple[int, int | None]], x: Tensor) -> Tensor:
    """The whole network with `removed` (node, source or None for the block) masked, by the definition."""
    state: dict[int, Tensor | None] = {STEM: network.maxpool(network.relu(network.bn1(network.conv1(x))))}
    for own, node in network.nodes.items():
        logits, parts = [], []
        for place, source in enumerate([None, *map(int, node.proxies)]):
            read = state[own - 1 if source is None else source]
            if (own, source) not in removed and read is not None:
                logits.append(node.attention[place])
                parts.append(node.block(read) if source is None else node.proxies[str(source)](read))
        weights = torch.stack(logits).softmax(0) if parts else ()
        state[own] = sum(w * p for w, p in zip(weights, parts, strict=True)).relu() if parts else None
    last = state[len(network.nodes)]
    assert last is not None
    return network.fc(network.avgpool(last))


@pytest.mark.parametrize("blocks", [{4}, {2, 3}, {5, 6, 7}], ids=str)
def test_a_pruned_network_answers_as_the_masked_one(blocks: set[int]) -> None:
    network = lively(with_proxies(whole_network("resnet18", 5), 2))
    removed: set[tuple[int, int | None]] = {(own, None) for own in blocks}
    # The first of the blocks is left without any input, so that what reads it loses a path too.
    removed |= {(min(blocks), source) for source in network.spec.nodes[min(blocks) - 1].proxies}
    nodes = connected(
        [
            TailoredNode(
                block=(own, None) not in removed,
                proxies=tuple(source for source in node.proxies if (own, source) not in removed),
            )
            for own, node in enumerate(network.spec.nodes, start=1)
        ]
    )
    smaller = shrink(network, network.spec.model_copy(update={"nodes": nodes}))
    assert not nodes[min(blocks) - 1].paths
    with torch.no_grad():
        torch.testing.assert_close(smaller(images()), _masked(network, removed, images()), rtol=1e-5, atol=1e-6)
    assert all(float(weights.detach().sum()) == pytest.approx(1) for weights in smaller.attention().values())


def test_a_node_that_none_reads_goes_with_what_only_it_reads() -> None:
    nodes = connected(
        [
            TailoredNode(),
            TailoredNode(proxies=(0,)),
            TailoredNode(),
            TailoredNode(block=False, proxies=(1,)),
        ]
    )
    assert [node.paths for node in nodes] == [1, 0, 0, 1]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_folding_attention_changes_roundings_only_and_leaves_no_attention(backbone: Backbone) -> None:
    network = lively(with_proxies(whole_network(backbone, 5), 3))
    with torch.no_grad():
        for node in network.nodes.values():
            node.attention[0] -= 3  # so small that a shortcut must be multiplied somewhere
        folded = fold(network)
        torch.testing.assert_close(folded(images()), network(images()), rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in folded.named_parameters() if name.endswith(".attention")]
    factors = [node.identity_factor for node in folded.nodes.values()]
    assert any(factor != 1 for factor in factors)
    plain = fold(build(with_proxies(whole_network(backbone, 5), 3)))
    assert all(node.identity_factor == 1 for node in plain.nodes.values())


def test_layers_are_counted_on_the_longest_way() -> None:
    for name, layers in {"resnet18": 18, "resnet34": 34, "resnet50": 50}.items():
        whole = whole_network(name, 5)
        assert with_proxies(whole, 3).layers == whole.layers == layers
    proxies = [TailoredNode(block=False, proxies=(own - 1,)) for own in range(1, NODES + 1)]
    assert whole_network("resnet18", 5).model_copy(update={"nodes": tuple(proxies)}).layers == 2 + NODES


def test_specs_that_lead_nowhere_are_refused() -> None:
    whole = whole_network("resnet18", 5)
    with pytest.raises(ValidationError, match="8 residual blocks"):
        TailoredSpec(backbone="resnet18", nodes=whole.nodes[:-1], num_classes=5)
    for own in (1, NODES):
        nodes = list(whole.nodes)
        nodes[own - 1] = TailoredNode(block=False)
        with pytest.raises(ValidationError):
            TailoredSpec(backbone="resnet18", nodes=tuple(nodes), num_classes=5)
    nodes = [*whole.nodes[:-1], TailoredNode(proxies=(8,))]
    with pytest.raises(ValidationError, match="earlier nodes"):
        TailoredSpec(backbone="resnet18", nodes=tuple(nodes), num_classes=5)
