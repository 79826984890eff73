"""Removal of a tailored network's weakest proxies and blocks."""

from collections.abc import Iterator

from rrr_edge.bundle.tailored import TailoredNode, TailoredSpec, connected
from rrr_edge.errors import UsageError


def pruned(spec: TailoredSpec, *, threshold: float, drop_blocks: int) -> TailoredSpec:
    """`spec` with fewer paths, by the attention recorded in it (Morgado and Vasconcelos 2019, section 3.4).

    Proxies go whose attention is at most `threshold`, and the `drop_blocks` universal blocks with the least of all;
    then every node that is left without inputs, or that none reads. Raises UsageError where nothing would be left.
    """
    weakest = sorted((node.attention[0], own) for own, node in spec.existing.items() if node.block)
    dropped = {own for _, own in weakest[:drop_blocks]}
    left = connected([_left(node, own in dropped, threshold) for own, node in enumerate(spec.nodes, start=1)])
    if not left[-1].paths or drop_blocks > len(weakest):
        raise UsageError(
            f"Without {drop_blocks} of its {len(weakest)} blocks, and the proxies whose attention is at most "
            f"{threshold:g}, nothing leads through this network.",
            advice="Set a smaller --drop-blocks, or a smaller --prune-proxies.",
        )
    return spec.model_copy(update={"nodes": left})


def leaner(spec: TailoredSpec, *, threshold: float, most: int) -> Iterator[TailoredSpec]:
    """`spec` pruned of 0, 1, ... up to `most` blocks, as long as anything leads through it, each network once.

    The turn of a block may come when it has gone already, as nothing led into it or none read it.
    """
    before = None
    for count in range(most + 1):
        try:
            left = pruned(spec, threshold=threshold, drop_blocks=count)
        except UsageError:
            return
        if left != before:
            yield left
        before = left


def _left(node: TailoredNode, without_block: bool, threshold: float) -> TailoredNode:
    weights = node.attention[1:] if node.block else node.attention
    strong = tuple(source for source, weight in zip(node.proxies, weights, strict=True) if weight > threshold)
    return TailoredNode(block=node.block and not without_block, proxies=strong)
