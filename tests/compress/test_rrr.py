"""The splitter, judged by weights that tell where they come from and by the original network with channels masked."""

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress.rrr.slicing import branch_widths, reduce, split
from rrr_edge.errors import UsageError
from rrr_edge.networks import build

torch.set_num_threads(1)

ONES = (1, 1, 1, 1)
RRR = ResNetSpec(depths=ONES, branches=8, branch_widths=(79, 170), num_classes=20)
DEEPER = ResNetSpec(depths=(1, 1, 2, 3), branches=3, branch_widths=(100, 180), num_classes=5)
HOWS = ["paper", "coherent"]


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build(ResNetSpec(depths=(2, 2, 3, 3))).state_dict()


@pytest.fixture(scope="module")
def labelled(original) -> dict[str, Tensor]:
    """Every kernel says where it stood: row * inputs + input, which float32 holds exactly."""
    return {
        name: torch.arange(tensor.shape[0] * tensor.shape[1], dtype=torch.float32)
        .reshape(*tensor.shape[:2], 1, 1)
        .expand_as(tensor)
        if tensor.ndim == 4
        else tensor
        for name, tensor in original.items()
    }


def origin(kernel: Tensor, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Source row and source input channel [rows, inputs] of every 2-D slice of a split labelled kernel."""
    assert torch.equal(kernel.amin((2, 3)), kernel.amax((2, 3)))
    return tuple(np.divmod(kernel[:, :, 0, 0].numpy().astype(int), inputs))


def tail_params(depths: tuple[int, ...], widths: tuple[int, int], num_classes: int) -> int:
    """Counted on torchvision's blocks."""
    inputs, modules = 512, []
    with torch.device("meta"):
        for planes, depth in zip(widths, depths[2:], strict=True):
            skip = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes))
            modules += [Bottleneck(inputs, planes, 2, skip), *(Bottleneck(4 * planes, planes) for _ in range(1, depth))]
            inputs = 4 * planes
        modules.append(nn.Linear(inputs, num_classes))
    return sum(p.numel() for module in modules for p in module.parameters())


# Of the paper's authors, from their table for 20 classes.
@pytest.mark.parametrize(
    ("branches", "a", "c4", "c5"),
    [
        (2, 6, 175, 356),
        (4, 9, 119, 247),
        (8, 11, 79, 170),
        (16, 13, 51, 115),
        (32, 13, 32, 77),
        (64, 12, 20, 52),
        (128, 11, 11, 34),
        (256, 10, 6, 22),
    ],
)
def test_branch_widths_are_the_authors_and_the_widest_that_fit(branches, a, c4, c5):
    assert branch_widths(ONES, branches, 20) == (a, c4, c5)
    budget = tail_params(ONES, (256, 512), 20)
    assert branches * tail_params(ONES, (c4, c5), 20) <= budget
    assert branches * tail_params(ONES, (c4 + 1, c5 + 1), 20) > budget


def test_branch_widths_of_other_networks():
    assert branch_widths((3, 8, 36, 3), 8, 20) == (1, 89, 180)
    assert branch_widths(ONES, 1, 20) == (0, 256, 512)


@pytest.mark.parametrize(("branches", "num_classes"), [(256, 1000), (0, 20), (-1, 20), (100_000, 20)])
def test_impossible_branches_are_refused(branches, num_classes):
    with pytest.raises(UsageError, match=str(branches)):
        branch_widths(ONES, branches, num_classes)


def test_reduce_keeps_just_what_the_reduced_network_has():
    full = torchvision.models.resnet152().state_dict()
    for depths in (ONES, (3, 2, 12, 1)):
        kept = reduce(full, depths)
        assert set(kept) == set(build(ResNetSpec(depths=depths)).state_dict())
        assert all(kept[name] is full[name] for name in kept)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("spec", [RRR, DEEPER], ids=["rrr", "deeper"])
def test_a_split_fills_the_network_and_starts_its_norms_and_heads_afresh(original, spec, how):
    parts = split(original, spec, seed=0, how=how)
    network = build(spec)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(parts)
    for name, tensor in parts.items():
        if name.startswith(("conv1", "bn1", "layer1", "layer2")):
            assert torch.equal(tensor, original[name])
            assert tensor.data_ptr() != original[name].data_ptr()
        elif name.startswith("fc"):
            assert tensor.std().item() == pytest.approx(fresh[name].std().item(), rel=0.3)
            assert tensor.abs().max() <= (4 * spec.branch_widths[1]) ** -0.5
        elif tensor.ndim != 4:
            assert torch.equal(tensor, fresh[name])
            assert tensor.dtype == fresh[name].dtype


@pytest.mark.parametrize("how", HOWS)
def test_a_split_depends_on_its_seed_alone(original, how):
    torch.manual_seed(1)
    np.random.seed(1)
    first = split(original, DEEPER, seed=3, how=how)
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.random.get_rng_state()
    second = split(reduce(original, DEEPER.depths), DEEPER, seed=3, how=how)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = split(original, DEEPER, seed=4, how=how)
    assert not torch.equal(first["layer3.0.conv1.weight"], other["layer3.0.conv1.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize("how", HOWS)
def test_one_branch_keeps_all_kernels_as_they_are(original, how):
    spec = ResNetSpec(depths=(1, 2, 3, 2), num_classes=7)
    parts = split(original, spec, seed=0, how=how)
    kernels = [name for name, tensor in parts.items() if tensor.ndim == 4]
    assert len(kernels) == 1 + 3 * 8 + 4
    assert all(torch.equal(parts[name], original[name]) for name in kernels)
    assert torch.equal(parts["layer3.1.bn2.running_var"], torch.ones(256))
    assert parts["fc.weight"].shape == (7, 2048)


@pytest.mark.parametrize("how", HOWS)
def test_the_first_branch_is_the_leading_slice_in_every_layer(original, how):
    for spec in (RRR, DEEPER):
        parts = split(original, spec, seed=0, how=how)
        names = [name for name, tensor in parts.items() if name.startswith("layer") and tensor.ndim == 4]
        for name in names:
            kernel = parts[name].chunk(spec.branches if name.startswith(("layer3", "layer4")) else 1)[0]
            assert torch.equal(kernel, original[name][: kernel.shape[0], : kernel.shape[1]])


def test_algorithm_2_draws_a_list_of_rows_for_every_input_channel(labelled):
    parts = split(labelled, RRR, seed=0, how="paper")
    thrice = {256: 120, 1024: 480, 512: 336, 2048: 1344}
    checked = 0
    for name, kernel in parts.items():
        if not name.startswith(("layer3", "layer4")) or kernel.ndim != 4:
            continue
        rows, inputs = origin(kernel, labelled[name].shape[1])
        assert (inputs == np.arange(kernel.shape[1])).all(), "every branch reads the first input channels"
        for x in range(kernel.shape[1]):
            assert Counter(Counter(rows[:, x]).values())[3] == thrice[len(labelled[name])]
            assert set(Counter(rows[:, x]).values()) == {2, 3}
        each = len(kernel) // 8
        in_order = rows[: len(labelled[name])]
        assert (in_order == np.arange(len(in_order))[:, None]).all()
        for branch in range(4, 8):
            late = rows[branch * each : (branch + 1) * each]
            assert (late != late[:, :1]).any()
        checked += 1
    assert checked == 8


def choices(parts: dict[str, Tensor], labelled: dict[str, Tensor], spec: ResNetSpec) -> dict[str, list]:
    """By kernel and branch, the (rows, inputs) of the original that it consists of."""
    found = {}
    for name, kernel in parts.items():
        if name.startswith(("layer3", "layer4")) and kernel.ndim == 4:
            found[name] = []
            for part in kernel.chunk(spec.branches):
                rows, inputs = origin(part, labelled[name].shape[1])
                assert (rows == rows[:, :1]).all(), "rows are whole"
                assert (inputs == inputs[:1]).all(), "all rows read the same inputs"
                found[name].append((rows[:, 0], inputs[0]))
    return found


def test_a_coherent_split_uses_every_filter_and_none_twice_in_a_branch(labelled):
    found = choices(split(labelled, RRR, seed=0, how="coherent"), labelled, RRR)
    assert len(found) == 8
    for name, branches in found.items():
        used = Counter(row for rows, _ in branches for row in rows)
        assert set(used) == set(range(len(labelled[name])))
        assert set(used.values()) == {2, 3}
        assert all(len(set(rows)) == len(rows) for rows, _ in branches)
    late = [tuple(sorted(rows)) for rows, _ in found["layer4.0.conv2.weight"]]
    assert len(set(late)) == 8


class Masked(nn.Module):
    """A normalisation of the original network of which only some channels are heard."""

    def __init__(self, norm: nn.Module, channels: np.ndarray) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mask", torch.zeros(norm.num_features).index_fill(0, torch.from_numpy(channels), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.mask[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("spec", [RRR, DEEPER], ids=["rrr", "deeper"])
def test_every_coherent_branch_is_the_original_with_the_other_channels_masked(original, labelled, spec):
    """Given the original's normalisation, a branch computes what the masked original does."""
    found = choices(split(labelled, spec, seed=5, how="coherent"), labelled, spec)
    torch.manual_seed(1)
    whole = torchvision.models.resnet152().eval()
    whole.load_state_dict(original, strict=False)
    norms = {n: m for n, m in whole.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        nn.init.uniform_(norm.weight, 0.3, 0.9)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)

    parts = split(whole.state_dict(), spec, seed=5, how="coherent")
    for name, branches in found.items():
        norm = name.removesuffix(".weight").replace("downsample.0", "downsample.1").replace("conv", "bn")
        rows = torch.from_numpy(np.concatenate([rows for rows, _ in branches]))
        for entry in ("weight", "bias", "running_mean", "running_var"):
            parts[f"{norm}.{entry}"] = whole.state_dict()[f"{norm}.{entry}"][rows]
    network = build(spec).double().eval()
    network.load_state_dict(parts)

    features = network.stump(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    ours = network.layer4(network.layer3(features)).chunk(spec.branches, 1)
    phases = (whole.layer3[: spec.depths[2]].double(), whole.layer4[: spec.depths[3]].double())
    for branch in range(spec.branches):
        for name, branches in found.items():
            block, _, part = name.removesuffix(".weight").rpartition(".")
            owner = whole.get_submodule(block)
            norm = "1" if part == "0" else part.replace("conv", "bn")
            setattr(owner, norm, Masked(norms[f"{block}.{norm}"], branches[branch][0]))
        masked = features
        for phase in phases:
            masked = phase(masked)
        kept = torch.from_numpy(found[f"layer4.{spec.depths[3] - 1}.conv3.weight"][branch][0])
        assert masked[:, kept].abs().max() > 0.1
        torch.testing.assert_close(ours[branch], masked[:, kept], rtol=1e-9, atol=1e-9)
        assert masked.count_nonzero() == masked[:, kept].count_nonzero()
