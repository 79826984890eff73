"""Pruning of a ResNet's elements, channels or blocks: the granularities that Sun et al. 2023 compare (figure 3).

Sparsity is always the share of all of its parameters that goes. Afterwards what is left learns as in fine-tuning.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from rrr_edge.bundle.recipe import RANDOM, Block, BlockOrder, Channel, Criterion, Element
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import ChannelSpec, Depths, NetworkSpec, ResNetSpec, source_spec
from rrr_edge.bundle.structure import BranchedSpec
from rrr_edge.compress.chain import begin_with, doubts_of, inherit, name_of, start_of
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
from rrr_edge.compress.slimming import require_sparsity, slim, slimming, sparsity_of
from rrr_edge.compress.weights import WeightsInfo
from rrr_edge.errors import MissingLibrary, UsageError
from rrr_edge.networks import Network, ResNet, cost

# Blocks


def without_blocks(sparsity: float, whole: ResNetSpec, order: BlockOrder = "reverse") -> ResNetSpec:
    """`whole` without as many blocks as come nearest to `sparsity`, removed in that order.

    Raises UsageError for more than there is in them: of ResNet152 83.3% with 1,000 classes, 86.2% with 20.
    """
    specs = [whole.model_copy(update={"depths": depths}) for depths in depths_by_removal(whole.depths, order)]
    require_sparsity(
        sparsity, sparsity_of(specs[-1], whole), "block-wise pruning, which keeps the first block of each phase,"
    )
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


# Elements


def mask(network: Network, sparsity: float, *, criterion: Criterion = "random", seed: int) -> int:
    """Hold weights at zero, as many in each layer as make `sparsity` of all parameters, and return their number.

    The masks of torch.nn.utils.prune: buffers beside the weights, applied before every forward pass, kept by a
    checkpoint. Biases and normalisation stay. Raises UsageError where these are more than what is to be left.
    """
    layers = _masked_layers(network)
    weights, params = sum(m.weight.numel() for m in layers), sum(p.numel() for p in network.parameters())
    require_sparsity(sparsity, weights / params, "element-wise pruning, which keeps biases and normalisation,")
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
    network, info = _begin(recipe, inputs)
    zeros = mask(network, recipe.sparsity, criterion=recipe.criterion, seed=recipe.seed)
    trained = learn(network, recipe, inputs)
    make_permanent(network)
    params = cost(spec, image_size=32).params
    note = (
        f"{zeros / params:.1%} of the parameters are held at zero, {recipe.criterion} ones of each layer, and "
        f"{params - zeros:,} of {params:,} are not. The shapes, and so the MACs that are computed, are "
        f"{name_of(recipe)}'s."
    )
    return CompressedNetwork(network, info, trained, _notes(recipe, note, inputs))


def _make_channel(recipe: Channel, inputs: Inputs) -> CompressedNetwork:
    whole = _whole(recipe, len(inputs.dataset.labels))
    network, info = _begin(recipe, inputs)
    assert isinstance(network, ResNet)
    ratio = slimming(recipe.sparsity, whole, recipe.round_to).ratio
    network = slim(network, ratio, criterion=recipe.criterion, round_to=recipe.round_to, seed=recipe.seed)
    note = (
        f"{sparsity_of(network.spec, whole):.1%} of {name_of(recipe)}'s parameters are gone, with "
        f"{ratio:.1%} of the channels of each layer, {recipe.criterion} ones."
    )
    return CompressedNetwork(network, info, learn(network, recipe, inputs), _notes(recipe, note, inputs))


def _make_block(recipe: Block, inputs: Inputs) -> CompressedNetwork:
    classes = len(inputs.dataset.labels)
    spec, whole = _block_spec(recipe, classes), source_spec(classes, recipe.backbone)
    network, info = begin(recipe, spec, inputs, fill=partial(reuse, spec=spec, seed=recipe.seed))
    note = (
        f"{sparsity_of(spec, whole):.1%} of {SOURCES[recipe.backbone].name}'s parameters are gone, with {recipe.order} "
        f"blocks: "
        f"ResNet_{'_'.join(map(str, spec.depths))} is left."
    )
    return CompressedNetwork(network, info, learn(network, recipe, inputs), _notes(recipe, note, inputs))


def _begin(recipe: Element | Channel, inputs: Inputs) -> tuple[Network, WeightsInfo]:
    """The network that is pruned: a bundle's, or the backbone in one piece."""
    bundle = start_of(recipe)
    if bundle is not None:
        return begin_with(bundle)
    spec = source_spec(len(inputs.dataset.labels), recipe.backbone)
    return begin(recipe, spec, inputs, fill=partial(reuse, spec=spec, seed=recipe.seed))


def _notes(recipe: Element | Channel | Block, note: str, inputs: Inputs) -> tuple[str, ...]:
    bundle = start_of(recipe)
    if bundle is not None:
        return (note, *doubts_of(bundle, recipe, inputs.dataset))
    return (note, FROM_SCRATCH) if recipe.weights == RANDOM else (note,)


def _element_spec(recipe: Element, num_classes: int) -> NetworkSpec:
    start = start_of(recipe)
    return start.manifest.spec if start else source_spec(num_classes, recipe.backbone)


def _channel_spec(recipe: Channel, num_classes: int) -> ChannelSpec:
    return slimming(recipe.sparsity, _whole(recipe, num_classes), recipe.round_to).spec


def _whole(recipe: Channel, num_classes: int) -> BranchedSpec:
    start = start_of(recipe)
    if start is None:
        return source_spec(num_classes, recipe.backbone)
    spec = start.manifest.spec
    if not isinstance(spec, ResNetSpec | ChannelSpec) or spec.branches > 1:
        raise UsageError(
            f"Channels are pruned of bottleneck networks in one piece, and {start.path} holds another.",
            advice="Begin with a bundle of the methods finetune, linear-probe, block or channel.",
        )
    return spec


def _block_spec(recipe: Block, num_classes: int) -> ResNetSpec:
    return without_blocks(recipe.sparsity, source_spec(num_classes, recipe.backbone), recipe.order)


def _with_torch_pruning(recipe: Channel) -> Channel:
    """Raises MissingLibrary, and what `inherit` raises."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("torch-pruning", extra="compress", purpose="Channel-wise pruning") from error
    return inherit(recipe)


ELEMENT: Method[Element] = Method(inherit, _element_spec, freeze_nothing, _make_element)
CHANNEL: Method[Channel] = Method(_with_torch_pruning, _channel_spec, freeze_nothing, _make_channel)
BLOCK: Method[Block] = Method(as_it_is, _block_spec, freeze_nothing, _make_block)
