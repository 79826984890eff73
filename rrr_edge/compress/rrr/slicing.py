"""Reuse, reduce, recycle (Sun et al. 2023): a source's weights, and filters split into branches (Algorithm 2).

`reduce` keeps the leading blocks of each phase, `branch_widths` sizes the branches by equation 1, and `split` fills
them. The stump keeps everything; branches keep convolution kernels only: their normalisation starts fresh, as do the
heads.
"""

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rrr_edge.bundle.recipe import Split
from rrr_edge.bundle.spec import RESNET_WIDTHS, Depths, ResNetSpec
from rrr_edge.bundle.structure import SKIP, STUMP_CHANNELS, Layer, block_shapes, in_stump, layers
from rrr_edge.errors import UsageError
from rrr_edge.networks import cost

StateDict = Mapping[str, Tensor]
Indices = NDArray[np.int64]


def branch_widths(depths: Depths, branches: int, num_classes: int) -> tuple[int, int, int]:
    """Equation 1: (a, C4, C5) with C = floor(C_o / sqrt(branches)) - a planes in conv4_x and conv5_x of a branch.

    `a` is the smallest integer >= 0 with which all branches and their heads have no more parameters than the unsplit
    conv4_x, conv5_x and head. Raises UsageError where there is none.
    """
    if branches < 1:
        raise UsageError(f"A network cannot have {branches} branches.", advice="Ask for 1 or more, 8 as a rule.")
    budget = _tail_params(depths, RESNET_WIDTHS, num_classes)
    c4, c5 = (math.isqrt(width * width // branches) for width in RESNET_WIDTHS)
    for a in range(c4):
        if branches * _tail_params(depths, (c4 - a, c5 - a), num_classes) <= budget:
            return a, c4 - a, c5 - a
    raise UsageError(
        f"{branches} branches with {num_classes} classes never fit into the {budget:,} parameters of the unsplit "
        f"ResNet_{'_'.join(map(str, depths))}, however narrow they are.",
        advice="Ask for fewer branches.",
    )


def reduce(state_dict: StateDict, depths: Depths) -> dict[str, Tensor]:
    """The entries of a ResNet's state dict that the leading `depths` blocks of its phases use."""
    return {name: tensor for name, tensor in state_dict.items() if _is_kept(name, depths)}


def reuse(state_dict: StateDict, spec: ResNetSpec, *, seed: int) -> dict[str, Tensor]:
    """The state dict of the unsplit `spec`: all that it keeps of a ResNet's, normalisation too, and a fresh head."""
    return reduce(state_dict, spec.depths) | _fresh_heads(spec, np.random.default_rng(seed))


def split(state_dict: StateDict, spec: ResNetSpec, *, seed: int, how: Split = "paper") -> dict[str, Tensor]:
    """The state dict of `spec`, its kernels taken from that of a ResNet with at least its depths.

    "paper" is Algorithm 2 to the letter: every input channel of every layer draws its own list of source rows, so
    the filters of all but the first branches mix slices of different original filters, and a branch's inputs are the
    first channels whatever the layer before chose. "coherent" (ours) makes each branch a true sub-network: every
    layer is dealt out once, and the next layer keeps just the input channels that its own branch was dealt.

    Depends on `seed` alone, not on the state of any global generator.
    """
    for_kernels, for_heads = np.random.default_rng(seed).spawn(2)
    result = {name: state_dict[name].clone() for name in state_dict if in_stump(name) and _is_kept(name, spec.depths)}
    result |= _SPLITS[how](state_dict, spec, for_kernels)
    for layer in _tail(spec):
        result |= _fresh_norm(layer.norm, layer.conv.branches * layer.conv.outputs)
    return result | _fresh_heads(spec, for_heads)


def _split_as_printed(state_dict: StateDict, spec: ResNetSpec, rng: np.random.Generator) -> dict[str, Tensor]:
    """Algorithm 2: for input x, branch i takes rows I[i*C_b : (i+1)*C_b] of a list I that is drawn for x alone."""
    result = {}
    for layer in _tail(spec):
        kernel = state_dict[f"{layer.name}.weight"]
        inputs, wanted = layer.conv.inputs, layer.conv.branches * layer.conv.outputs
        in_order = np.tile(np.arange(len(kernel)), (inputs, 1))
        shuffled = (rng.permuted(in_order, axis=1) for _ in range(math.ceil(wanted / len(kernel)) - 1))
        rows = np.concatenate([in_order, *shuffled], axis=1)[:, :wanted]
        result[f"{layer.name}.weight"] = kernel[torch.from_numpy(rows.T), torch.arange(inputs)]
    return result


def _split_coherently(state_dict: StateDict, spec: ResNetSpec, rng: np.random.Generator) -> dict[str, Tensor]:
    """Each branch a sub-network: what a layer keeps is what the next one reads.

    All blocks of a phase add to the same residual channels, so the choice that the first block makes for its last
    convolution holds for its skip convolution and for the last convolutions of the blocks after it.
    """
    result = {}
    stream = np.tile(np.arange(STUMP_CHANNELS), (spec.branches, 1))
    for block in (block for phase in block_shapes(spec)[2:] for block in phase):
        kernels = {part: state_dict[f"{block.name}.{part}.weight"] for part in block.convs}
        rows1 = _deal(len(kernels["conv1"]), block.planes[0], spec.branches, rng)
        rows2 = _deal(len(kernels["conv2"]), block.planes[1], spec.branches, rng)
        rows3 = _deal(len(kernels["conv3"]), block.outputs, spec.branches, rng) if block.projects else stream
        chosen = {"conv1": (rows1, stream), "conv2": (rows2, rows1), "conv3": (rows3, rows2), SKIP: (rows3, stream)}
        for part, kernel in kernels.items():
            result[f"{block.name}.{part}.weight"] = _sub_kernels(kernel, *chosen[part])
        stream = rows3
    return result


_SPLITS: dict[Split, Callable[[StateDict, ResNetSpec, np.random.Generator], dict[str, Tensor]]] = {
    "paper": _split_as_printed,
    "coherent": _split_coherently,
}


def _deal(channels: int, each: int, branches: int, rng: np.random.Generator) -> Indices:
    """Hands [branches, each] from decks of all `channels`: the first in order, the others shuffled.

    A hand that straddles two decks passes over what it holds already, so no branch has a channel twice.
    """
    deck, hands = np.arange(channels), []
    for _ in range(branches):
        hand, deck = deck[:each], deck[each:]
        if len(hand) < each:
            shuffled = rng.permutation(channels)
            held = np.isin(shuffled, hand)
            new, missing = shuffled[~held], each - len(hand)
            hand, deck = np.concatenate([hand, new[:missing]]), np.concatenate([new[missing:], shuffled[held]])
        hands.append(hand)
    return np.stack(hands)


def _sub_kernels(kernel: Tensor, rows: Indices, inputs: Indices) -> Tensor:
    """From [C_o, C_in, k, k] the kernels [B*R, I, k, k] of rows [B, R] and input channels [B, I]."""
    return kernel[torch.from_numpy(rows[:, :, None]), torch.from_numpy(inputs[:, None, :])].flatten(0, 1)


def _fresh_norm(name: str, channels: int) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.ones(channels),
        f"{name}.bias": torch.zeros(channels),
        f"{name}.running_mean": torch.zeros(channels),
        f"{name}.running_var": torch.ones(channels),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def _fresh_heads(spec: ResNetSpec, rng: np.random.Generator) -> dict[str, Tensor]:
    """nn.Linear's default: weight and bias uniform within 1 / sqrt(fan-in)."""
    outputs, inputs = spec.branches * spec.num_classes, 4 * spec.branch_widths[1]

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy((rng.uniform(-1, 1, shape) / math.sqrt(inputs)).astype(np.float32))

    return {"fc.weight": uniform(outputs, inputs), "fc.bias": uniform(outputs)}


def _tail(spec: ResNetSpec) -> list[Layer]:
    return [layer for layer in layers(spec, image_size=32) if not in_stump(layer.name)]


def _tail_params(depths: Depths, widths: tuple[int, int], num_classes: int) -> int:
    spec = ResNetSpec(depths=depths, branch_widths=widths, num_classes=num_classes)
    return cost(spec, image_size=32, stump_frozen=True).trainable_params


def _is_kept(name: str, depths: Depths) -> bool:
    block = re.match(r"layer([1-4])\.(\d+)\.", name)
    return block is None or int(block[2]) < depths[int(block[1]) - 1]
