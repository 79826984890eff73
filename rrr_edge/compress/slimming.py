"""Channels that go from every layer of a bottleneck network in one piece, and the share of parameters that is gone."""

from typing import NamedTuple, cast

import torch

from rrr_edge.bundle.recipe import Criterion
from rrr_edge.bundle.spec import ChannelSpec, NetworkSpec, PhaseWidths
from rrr_edge.bundle.structure import BranchedSpec, block_shapes, stem_layers
from rrr_edge.errors import UsageError
from rrr_edge.networks import ResNet, build, cost
from rrr_edge.networks.resnet import Bottleneck

# Half of the last digit in which sparsities are said.
_TOLERANCE = 0.0005


def sparsity_of(spec: NetworkSpec, whole: NetworkSpec) -> float:
    """The share of `whole`'s parameters that a network for the same classes does without."""
    return 1 - cost(spec, image_size=32).params / cost(whole, image_size=32).params


def require_sparsity(sparsity: float, most: float, by: str) -> None:
    """Raise UsageError where more is asked than can go `by` that way of pruning."""
    if sparsity > most + _TOLERANCE:
        raise UsageError(
            f"A sparsity of {sparsity:.1%} is out of reach of {by} here: the most is {most:.1%}.",
            advice=f"Ask for at most {most:.3f}.",
        )


class Slimming(NamedTuple):
    """Torch-Pruning's `ratio` (of channels, in every layer), and the network that it leaves."""

    ratio: float
    spec: ChannelSpec


def slimming(sparsity: float, whole: BranchedSpec, round_to: int = 1) -> Slimming:
    """The ratio of channels whose removal from `whole`, in one piece, comes nearest to `sparsity`, by bisection.

    Raises UsageError where widths that are multiples of `round_to` leave too much.
    """
    # At the end the narrowest layers, of 64 channels as a rule, have the least that may be left of them.
    low, high = 0.0, max(0.0, 1 - round_to / _narrowest(whole))
    by = f"channel-wise pruning to multiples of {round_to}" if round_to > 1 else "channel-wise pruning"
    require_sparsity(sparsity, sparsity_of(_slimmed(whole, high, round_to), whole), by)
    for _ in range(30):
        middle = (low + high) / 2
        if sparsity_of(_slimmed(whole, middle, round_to), whole) < sparsity:
            low = middle
        else:
            high = middle
    found = [Slimming(ratio, _slimmed(whole, ratio, round_to)) for ratio in (low, high)]
    return min(found, key=lambda one: abs(sparsity_of(one.spec, whole) - sparsity))


def _slimmed(whole: BranchedSpec, ratio: float, round_to: int) -> ChannelSpec:
    """What Torch-Pruning leaves of `whole`, in one piece, when it prunes every layer by `ratio`."""

    def width(channels: int) -> int:
        # A layer that keeps all its channels is not rounded.
        kept = int(channels * (1 - ratio))
        return kept - kept % round_to if kept < channels else channels

    first, second, third, fourth = (
        PhaseWidths(
            outputs=width(phase[0].outputs),
            blocks=tuple((width(block.planes[0]), width(block.planes[1])) for block in phase),
        )
        for phase in block_shapes(whole)
    )
    stem = width(stem_layers(whole).outputs)
    return ChannelSpec(stem=stem, phases=(first, second, third, fourth), num_classes=whole.num_classes)


def _narrowest(whole: BranchedSpec) -> int:
    blocks = [block for phase in block_shapes(whole) for block in phase]
    return min(stem_layers(whole).outputs, *(min(*block.planes, block.outputs) for block in blocks))


def slim(network: ResNet, ratio: float, *, criterion: Criterion = "random", round_to: int = 1, seed: int) -> ResNet:
    """A slimmer copy of `network`, by Torch-Pruning; `network` itself is used up."""
    import torch_pruning

    importance = {
        "random": torch_pruning.importance.RandomImportance,
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    }[criterion]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch_pruning.pruner.BasePruner(
            network,
            torch.zeros(1, 3, 64, 64),
            importance=importance(),
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=[network.fc],
        ).step()
    slimmed = build(widths_of(network))
    slimmed.load_state_dict(network.state_dict())
    return slimmed


def widths_of(network: ResNet) -> ChannelSpec:
    """What the modules of a network in one piece say of themselves."""
    first, second, third, fourth = (
        _widths(cast(list[Bottleneck], list(phase)))
        for phase in (network.layer1, network.layer2, network.layer3, network.layer4)
    )
    return ChannelSpec(
        stem=network.conv1.out_channels,
        phases=(first, second, third, fourth),
        num_classes=network.fc.out_features,
    )


def _widths(phase: list[Bottleneck]) -> PhaseWidths:
    blocks = tuple((block.conv1.out_channels, block.conv2.out_channels) for block in phase)
    return PhaseWidths(outputs=phase[0].conv3.out_channels, blocks=blocks)
