"""Judged against torchvision: the whole network, its blocks, and branches that really are separate networks."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.structure import layers
from rrr_edge.networks import build, cost

torch.set_num_threads(1)

RRR = ResNetSpec(depths=(1, 1, 1, 1), branches=8, branch_widths=(79, 170), num_classes=20)
SMALL = ResNetSpec(depths=(1, 2, 2, 3), branches=3, branch_widths=(10, 12), num_classes=5)


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return lively(torchvision.models.resnet152()).eval()


def lively(network: nn.Module) -> nn.Module:
    """Give every normalisation other numbers than its defaults, in a range that keeps deep networks sane."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


def images(count: int = 2, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_whole_network_is_torchvisions_bit_for_bit(original):
    network = build(ResNetSpec()).eval()
    assert list(network.state_dict()) == list(original.state_dict())
    network.load_state_dict(original.state_dict())
    assert torch.equal(network(images()), original(images())[:, None])


@torch.no_grad()
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 3, 5, 2)])
def test_a_reduced_network_is_the_original_with_silenced_blocks(original, depths):
    network = build(ResNetSpec(depths=depths)).eval()
    loaded = network.load_state_dict(original.state_dict(), strict=False)
    removed = sum(full - kept for full, kept in zip((3, 8, 36, 3), depths, strict=True))
    # Three convolutions of one tensor and three normalisations of five: 18 a block, 828 of 1_1_1_1.
    assert (len(loaded.missing_keys), len(loaded.unexpected_keys)) == (0, 18 * removed)

    silenced = torchvision.models.resnet152().eval()
    silenced.load_state_dict(original.state_dict())
    for phase, kept in zip((silenced.layer1, silenced.layer2, silenced.layer3, silenced.layer4), depths, strict=True):
        for block in phase[kept:]:
            nn.init.zeros_(block.bn3.weight)
            nn.init.zeros_(block.bn3.bias)
    assert torch.equal(network(images()), silenced(images())[:, None])


class SeparateBranch(nn.Module):
    """conv4_x, conv5_x and head of one branch as a network of its own, out of torchvision's blocks."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        inputs, phases = 512, []
        for planes, depth in zip(spec.branch_widths, spec.depths[2:], strict=True):
            skip = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, 2, bias=False), nn.BatchNorm2d(4 * planes))
            first = TorchvisionBottleneck(inputs, planes, 2, skip)
            phases.append(nn.Sequential(first, *(TorchvisionBottleneck(4 * planes, planes) for _ in range(1, depth))))
            inputs = 4 * planes
        self.layer3, self.layer4 = phases
        self.fc = nn.Linear(inputs, spec.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(self.layer4(self.layer3(features)).mean((2, 3)))


def take_apart(network: nn.Module, spec: ResNetSpec) -> list[SeparateBranch]:
    """The branches of a fused network as separate networks: each has its rows of every tensor."""
    branches = []
    for index in range(spec.branches):
        branch = SeparateBranch(spec).to(network.conv1.weight.dtype)
        branch.load_state_dict(
            {
                name: tensor if tensor.ndim == 0 else tensor.chunk(spec.branches)[index]
                for name, tensor in network.state_dict().items()
                if name.startswith(("layer3", "layer4", "fc"))
            }
        )
        branches.append(branch.train(network.training))
    return branches


@torch.no_grad()
@pytest.mark.parametrize("spec", [RRR, SMALL], ids=["rrr", "small"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_fused_branches_equal_separate_networks(spec, training):
    torch.manual_seed(0)
    network = lively(build(spec)).double().train(training)
    separate = take_apart(network, spec)
    features = network.eval().stump(images(4).double())
    network.train(training)
    expected = torch.stack([branch(features) for branch in separate], 1)
    assert expected.std() > 0.01
    torch.testing.assert_close(network.branches(features), expected, rtol=1e-9, atol=1e-9)


def test_branches_that_each_read_their_own_batch_equal_separate_networks():
    torch.manual_seed(0)
    network = lively(build(SMALL)).double().train()
    separate = take_apart(network, SMALL)
    own = torch.randn(4, SMALL.branches, 512, 8, 8, dtype=torch.float64).relu()
    logits = network.branches(own.flatten(1, 2))
    expected = torch.stack([branch(own[:, i]) for i, branch in enumerate(separate)], 1)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    labels = torch.tensor([0, 1, 2, 3])
    for result in (logits, expected):
        sum(nn.functional.cross_entropy(result[:, i], labels) for i in range(SMALL.branches)).backward()
    for name, parameter in network.named_parameters():
        if name.startswith(("layer3", "layer4", "fc")):
            grads = torch.cat([branch.get_parameter(name).grad for branch in separate])
            torch.testing.assert_close(parameter.grad, grads, rtol=1e-9, atol=1e-9)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="1024 channels"):
        build(SMALL).branches(torch.zeros(1, 1024, 2, 2))


@torch.no_grad()
def test_the_order_of_branches_changes_nothing_but_the_order():
    torch.manual_seed(0)
    network = lively(build(SMALL)).double().eval()
    logits = network(images().double())
    order = torch.tensor([2, 0, 1])
    turned = {
        name: torch.stack(tensor.chunk(SMALL.branches))[order].flatten(0, 1)
        for name, tensor in network.state_dict().items()
        if name.startswith(("layer3", "layer4", "fc")) and tensor.ndim
    }
    network.load_state_dict(network.state_dict() | turned)
    torch.testing.assert_close(network(images().double()), logits[:, order], rtol=1e-9, atol=1e-9)
    votes = network(images().double()).softmax(-1).mean(1)
    torch.testing.assert_close(votes, logits.softmax(-1).mean(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(votes.sum(-1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_training_one_branch_leaves_the_frozen_stump_and_the_other_branches_alone():
    torch.manual_seed(0)
    network = build(SMALL)
    network.freeze_stump()
    stump = {
        k: v.clone() for k, v in network.state_dict().items() if k.startswith(("conv1", "bn1", "layer1", "layer2"))
    }
    network.eval()
    network.train()
    assert network.layer3.training
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    nn.functional.cross_entropy(network(images())[:, 1], torch.tensor([0, 1])).backward()
    optimizer.step()
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in stump.items())
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == cost(SMALL, 64).trainable_params
    for parameter in trained:
        first, second, third = parameter.grad.chunk(3)
        assert second.abs().sum() > 0
        assert first.abs().sum() == third.abs().sum() == 0


@pytest.mark.parametrize(
    ("spec", "params", "trainable"),
    [
        (ResNetSpec(), 60_192_808, None),
        (ResNetSpec(num_classes=20), 58_184_788, None),
        (ResNetSpec(depths=(1, 1, 1, 1), num_classes=20), 8_056_916, 7_592_980),
        (RRR, 8_034_120, 7_570_184),
    ],
)
def test_costs_are_the_papers(spec, params, trainable):
    assert cost(spec, 128).params == params
    assert cost(spec, 128, stump_frozen=False).trainable_params == params
    if trainable:
        assert cost(spec, 128).trainable_params == trainable


@pytest.mark.parametrize("size", [128, 75])
@pytest.mark.parametrize("spec", [ResNetSpec(), RRR, SMALL], ids=["whole", "rrr", "small"])
def test_costs_are_those_of_the_module(spec, size):
    with torch.device("meta"):
        network = build(spec).eval()
        picture = torch.zeros(1, 3, size, size)
    found = cost(spec, size)
    assert found.params == sum(p.numel() for p in network.parameters())
    assert found.weights_bytes == sum(t.numel() * t.element_size() for t in network.state_dict().values())
    with FlopCounterMode(display=False) as counter:
        network(picture)
    assert 2 * found.macs == counter.get_total_flops()
    network.freeze_stump()
    assert found.trainable_params == sum(p.numel() for p in network.parameters() if p.requires_grad)


def rounded(value: float, digits: int) -> float:
    """Half up, as in print; Python rounds halves to even."""
    return math.floor(value * 10**digits + 0.5) / 10**digits


def test_the_papers_table_of_costs_comes_out():
    """Sun et al. 2023, Fig. 1: (params of other block, first block, millions of thop's MACs of either); a = 1."""
    whole = list(layers(ResNetSpec(), 128))
    branch = list(layers(ResNetSpec(branch_widths=(89, 180)), 128))

    def thousands(table, prefix):
        return sum(layer.conv.params for layer in table if layer.name.startswith(prefix)) / 1e3

    def millions(table, prefix):
        return sum(layer.conv.thop_macs(layer.size) for layer in table if layer.name.startswith(prefix)) / 1e6

    assert rounded(thousands(whole, "conv1"), 1) == 9.5
    assert rounded(millions(whole, "conv1"), 0) == 40
    printed = {
        "layer1": (70, 75, 73, 78),
        "layer2": (280, 379, 72, 123),
        "layer3": (1120, 1510, 72, 122),
        # The paper has 72 for the third cell: 71.4998, rounded by way of 71.5.
        "layer4": (4460, 6040, 71, 122),
    }
    for phase, (other, first, other_macs, first_macs) in printed.items():
        digits = 0 if other < 1000 else -1
        assert rounded(thousands(whole, f"{phase}.1."), digits) == other
        assert rounded(thousands(whole, f"{phase}.0."), digits) == first
        assert rounded(millions(whole, f"{phase}.1."), 0) == other_macs
        assert rounded(millions(whole, f"{phase}.0."), 0) == first_macs
    ours = {"layer3": (136, 333, 9, 30), "layer4": (553, 745, 9, 15)}
    for phase, (other, first, other_macs, first_macs) in ours.items():
        assert rounded(thousands(branch, f"{phase}.1."), 0) == other
        assert rounded(thousands(branch, f"{phase}.0."), 0) == first
        assert rounded(millions(branch, f"{phase}.1."), 0) == other_macs
        assert rounded(millions(branch, f"{phase}.0."), 0) == first_macs

    # The totals are sums of the printed cells.
    blocks = dict(zip(printed, (3, 8, 36, 3), strict=True))
    params = 9.5 + sum(printed[p][1] + (n - 1) * printed[p][0] for p, n in blocks.items())
    macs = 40 + sum(printed[p][3] + (n - 1) * (printed[p][2] + (p == "layer4")) for p, n in blocks.items())
    assert (rounded(params / 1e3, 2), macs) == (58.23, 3799)
    assert rounded((9.5 + 75 + 379 + 8 * (333 + 745)) / 1e3, 2) == 9.09
    assert 40 + 78 + 123 + 8 * (30 + 15) == 601


@pytest.mark.parametrize(
    ("depths", "blocks"), [((1, 1, 1, 1), ("layer3.0", "layer4.0")), ((1, 1, 2, 3), ("layer4.1", "layer4.2"))]
)
@pytest.mark.parametrize(("kind", "module"), [("channel", nn.Dropout2d), ("plain", nn.Dropout)])
def test_dropout_follows_every_relu_of_the_last_two_blocks(depths, blocks, kind, module):
    torch.manual_seed(0)
    network = build(ResNetSpec(depths=depths, num_classes=2, dropout=0.5, dropout_kind=kind))
    seen: list[tuple[str, Tensor, Tensor]] = []
    for name, part in network.named_modules():
        if type(part) is module:
            part.register_forward_hook(lambda _, given, out, name=name: seen.append((name, given[0], out)))
    network.train()(images(2, 128))
    assert [name for name, _, _ in seen] == [f"{block}.dropout" for block in blocks for _ in range(3)]
    for _, given, out in seen:
        assert given.min() >= 0
        gone = ((out == 0) & (given > 0)).flatten(2)
        alive = (out > 0).flatten(2)
        assert gone.any()
        assert bool((gone.any(-1) & alive.any(-1)).any()) == (kind == "plain")
    network.eval()
    assert torch.equal(network(images()), network(images()))


def test_branches_start_like_networks_of_their_own():
    torch.manual_seed(0)
    network = build(RRR)
    for name, parameter in SeparateBranch(RRR).named_parameters():
        fused = network.get_parameter(name)
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        if name == "fc.bias":
            assert 0 < fused.abs().max() <= 1 / math.sqrt(4 * 170)
        elif parameter.std() > 0:
            assert fused.std().item() == pytest.approx(parameter.std().item(), rel=0.05)
        else:
            assert torch.equal(fused, parameter[:1].expand_as(fused))
