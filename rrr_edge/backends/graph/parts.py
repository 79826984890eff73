"""Parts of a network by its graph's names, and the MACs of a layer."""

import re
from collections.abc import Sequence
from math import prod
from typing import cast

from rrr_edge.bundle.spec import PARTS, Part

_NAMED_PART = re.compile(rf"\b({'|'.join(PARTS)})/|\b(?:branch_)?probabilities\b")


def part_of_node(name: str, before: Part = "input") -> Part:
    """Where a layer lies, by the part that the graph's nodes have in front of their names ("conv4/layer3.0.conv1").

    Backends make longer names of these; the graph's outputs, "probabilities" and "branch_probabilities", are the
    vote's. A layer of the backend's own, such as a change of the memory's order, lies where the one `before` it lies.
    """
    found = _NAMED_PART.search(name)
    return cast(Part, found[1] or "vote") if found else before


def convolution_macs(output: Sequence[int], weights: Sequence[int]) -> int:
    """MACs of one image: every weight is used once for each place of the `output` [N, C, H, W]."""
    return prod(output[2:]) * prod(weights)


def product_macs(output: Sequence[int], left: Sequence[int]) -> int:
    """MACs of one image for a matrix product: each number of the `output` [N, ...] sums the `left`'s last axis."""
    return prod(output[1:]) * left[-1]
