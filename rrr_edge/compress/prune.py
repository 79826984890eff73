"""Pruning of a ResNet's elements, channels or blocks: the granularities that Sun et al. 2023 compare (figure 3).

Sparsity is always the share of all of its parameters that goes. Afterwards what is left learns as in fine-tuning.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rrr_edge.bundle.recipe import RANDOM, Block, BlockOrder, Channel, Criterion, Element
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import ChannelSpec, Depths, NetworkSpec, PhaseWidths, ResNetSpec, SourceSpec, source_spec
from rrr_edge.compress.method import (
    FROM_SCRATCH,
    CompressedNetwork,
    Inputs,
    Method,
    as_it_is,
    begin,
    freeze_nothing,
    learn,
)
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.errors import MissingLibrary, UsageError
from rrr_edge.networks import Network, ResNet, build, cost
from rrr_edge.networks.resnet import Bottleneck

R = TypeVar("R", Element, Channel, Block)

# Half of the last digit in which sparsities are said.
_TOLERANCE = 0.0005


def sparsity_of(spec: NetworkSpec, whole: SourceSpec) -> float:
    """The share of `whole`'s parameters that a network for the same classes does without."""
    return 1 - _params(spec) / _params(whole)


# Blocks


def without_blocks(sparsity: float, whole: ResNetSpec, order: BlockOrder = "reverse") -> ResNetSpec:
    """`whole` without as many blocks as come nearest to `sparsity`, removed in that order.

    Raises UsageError for more than there is in them: of ResNet152 83.3 % with 1,000 classes, 86.2 % with 20.
    """
    specs = [whole.model_copy(update={"depths": depths}) for depths in depths_by_removal(whole.depths, order)]
    _demand(sparsity, sparsity_of(specs[-1], whole), "block-wise pruning, which keeps the first block of each phase,")
    return min(specs, key=lambda spec: abs(sparsity_of(spec, whole) - sparsity))


def depths_by_removal(depths: Depths, order: BlockOrder) -> Iterator[Depths]:
    """From `depths` down to one block a phase, block by block, always the last of a phase."""
    left = list(depths)
    yield depths
    for phase in {"reverse": (3, 2, 1, 0), "forward": (0, 1, 2, 3)}[order]:
        while left[phase] > 1:
            left[phase] -= 1
            first, second, third, fourth = left
            yield first, second, third, fourth


# Channels


class Slimming(NamedTuple):
    """Torch-Pruning's `ratio` (of channels, in every layer), and the network that it leaves."""

    ratio: float
    spec: ChannelSpec


def slimming(sparsity: float, whole: ResNetSpec, round_to: int = 1) -> Slimming:
    """The ratio of channels whose removal from `whole` comes nearest to `sparsity`, found by bisection.

    Raises UsageError where widths that are multiples of `round_to` leave too much.
    """
    # At the end the narrowest layers, of 64 channels, have the least that may be left of them.
    low, high = 0.0, max(0.0, 1 - round_to / 64)
    by = f"channel-wise pruning to multiples of {round_to}" if round_to > 1 else "channel-wise pruning"
    _demand(sparsity, sparsity_of(_slimmed(whole, high, round_to), whole), by)
    for _ in range(30):
        middle = (low + high) / 2
        if sparsity_of(_slimmed(whole, middle, round_to), whole) < sparsity:
            low = middle
        else:
            high = middle
    found = [Slimming(ratio, _slimmed(whole, ratio, round_to)) for ratio in (low, high)]
    return min(found, key=lambda one: abs(sparsity_of(one.spec, whole) - sparsity))


def _slimmed(whole: ResNetSpec, ratio: float, round_to: int) -> ChannelSpec:
    """What Torch-Pruning leaves of `whole`, in one piece, when it prunes every layer by `ratio`."""

    def width(channels: int) -> int:
        # A layer that keeps all its channels is not rounded.
        kept = int(channels * (1 - ratio))
        return kept - kept % round_to if kept < channels else channels

    first, second, third, fourth = (
        PhaseWidths(outputs=width(4 * planes), blocks=((width(planes),) * 2,) * depth)
        for planes, depth in zip((64, 128, *whole.branch_widths), whole.depths, strict=True)
    )
    return ChannelSpec(stem=width(64), phases=(first, second, third, fourth), num_classes=whole.num_classes)


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


# Elements


def mask(network: Network, sparsity: float, *, criterion: Criterion = "random", seed: int) -> int:
    """Hold weights at zero, as many in each layer as make `sparsity` of all parameters, and return their number.

    The masks of torch.nn.utils.prune: buffers beside the weights, applied before every forward pass, kept by a
    checkpoint. Biases and normalisation stay. Raises UsageError where these are more than what is to be left.
    """
    layers = _masked_layers(network)
    weights, params = sum(m.weight.numel() for m in layers), sum(p.numel() for p in network.parameters())
    _demand(sparsity, weights / params, "element-wise pruning, which keeps biases and normalisation,")
    # Without gradients the masked weights stay leaves, which a copy of the network needs.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in layers:
            _MASKS[criterion](module, "weight", min(1.0, sparsity * params / weights))
    return sum(int((module.get_buffer("weight_mask") == 0).sum()) for module in layers)


def make_permanent(network: Network) -> None:
    """Write the zeros into the weights and forget the masks."""
    for module in _masked_layers(network):
        prune.remove(module, "weight")  # type: ignore[no-untyped-call]


def _masked_layers(network: Network) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


_MASKS: dict[Criterion, Callable[[nn.Module, str, float], Any]] = {
    "random": prune.random_unstructured,
    "magnitude": prune.l1_unstructured,
}


# Methods


def _make_element(recipe: Element, inputs: Inputs) -> CompressedNetwork:
    spec = _element_spec(recipe, len(inputs.dataset.labels))
    network, info = begin(recipe, spec, inputs, fill=_refill(recipe, spec))
    zeros = mask(network, recipe.sparsity, criterion=recipe.criterion, seed=recipe.seed)
    trained = learn(network, recipe, inputs)
    make_permanent(network)
    params = _params(spec)
    note = (
        f"{zeros / params:.1%} of the parameters are held at zero, {recipe.criterion} ones of each layer, and "
        f"{params - zeros:,} of {params:,} are not. The shapes, and so the MACs that are computed, are "
        f"{SOURCES[recipe.backbone].name}'s."
    )
    return CompressedNetwork(network, info, trained, _notes(recipe, note))


def _make_channel(recipe: Channel, inputs: Inputs) -> CompressedNetwork:
    whole = source_spec(len(inputs.dataset.labels), recipe.backbone)
    network, info = begin(recipe, whole, inputs, fill=_refill(recipe, whole))
    ratio = slimming(recipe.sparsity, whole, recipe.round_to).ratio
    network = slim(network, ratio, criterion=recipe.criterion, round_to=recipe.round_to, seed=recipe.seed)
    note = (
        f"{sparsity_of(network.spec, whole):.1%} of {SOURCES[recipe.backbone].name}'s parameters are gone, with "
        f"{ratio:.1%} of the channels of each layer, {recipe.criterion} ones."
    )
    return CompressedNetwork(network, info, learn(network, recipe, inputs), _notes(recipe, note))


def _make_block(recipe: Block, inputs: Inputs) -> CompressedNetwork:
    classes = len(inputs.dataset.labels)
    spec, whole = _block_spec(recipe, classes), source_spec(classes, recipe.backbone)
    network, info = begin(recipe, spec, inputs, fill=_refill(recipe, spec))
    note = (
        f"{sparsity_of(spec, whole):.1%} of {SOURCES[recipe.backbone].name}'s parameters are gone, with {recipe.order} "
        f"blocks: "
        f"ResNet_{'_'.join(map(str, spec.depths))} is left."
    )
    return CompressedNetwork(network, info, learn(network, recipe, inputs), _notes(recipe, note))


def _refill(recipe: R, spec: ResNetSpec) -> Callable[[Any], dict[str, Tensor]]:
    return partial(reuse, spec=spec, seed=recipe.seed)


def _notes(recipe: R, note: str) -> tuple[str, ...]:
    return (note, FROM_SCRATCH) if recipe.weights == RANDOM else (note,)


def _element_spec(recipe: Element, num_classes: int) -> ResNetSpec:
    return source_spec(num_classes, recipe.backbone)


def _channel_spec(recipe: Channel, num_classes: int) -> ChannelSpec:
    return slimming(recipe.sparsity, source_spec(num_classes, recipe.backbone), recipe.round_to).spec


def _block_spec(recipe: Block, num_classes: int) -> ResNetSpec:
    return without_blocks(recipe.sparsity, source_spec(num_classes, recipe.backbone), recipe.order)


def _with_torch_pruning(recipe: Channel) -> Channel:
    """Raises MissingLibrary."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("torch-pruning", extra="compress", purpose="Channel-wise pruning") from error
    return recipe


ELEMENT: Method[Element] = Method(as_it_is, _element_spec, freeze_nothing, _make_element)
CHANNEL: Method[Channel] = Method(_with_torch_pruning, _channel_spec, freeze_nothing, _make_channel)
BLOCK: Method[Block] = Method(as_it_is, _block_spec, freeze_nothing, _make_block)


def _demand(sparsity: float, most: float, by: str) -> None:
    if sparsity > most + _TOLERANCE:
        raise UsageError(
            f"A sparsity of {sparsity:.1%} is out of reach of {by} here: the most is {most:.1%}.",
            advice=f"Ask for at most {most:.3f}.",
        )


def _params(spec: NetworkSpec) -> int:
    return cost(spec, image_size=32).params
