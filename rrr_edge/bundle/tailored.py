"""The specs of tailored networks: which universal blocks and which proxies of a ResNet a task uses."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import SOURCES, Backbone

# Wherever the nodes of a network are numbered: the stem's output, and before the universal block of node 1.
STEM = 0
ProxyWidths = Literal["code", "paper"]


class TailoredNode(Record):
    """The paths into one node: the universal block of the node before, where it is kept, and a proxy for each source.

    `proxies` are the numbers of their source nodes, 0 for the stem. `attention` are the weights of the paths in the
    node's sum, the block's first; () as long as they are not trained. A node without paths does not exist.
    """

    block: bool = True
    proxies: tuple[int, ...] = ()
    attention: tuple[float, ...] = ()

    @property
    def paths(self) -> int:
        return self.block + len(self.proxies)

    def sources(self, own: int) -> tuple[int, ...]:
        """The nodes that node number `own` reads, one a path."""
        return ((own - 1,) if self.block else ()) + self.proxies


class TailoredSpec(Record):
    """A ResNet whose residual blocks are weighed against small proxies (Morgado and Vasconcelos 2019, section 3).

    `nodes` are the outputs of the backbone's residual blocks, numbered from 1. Without proxies and with all blocks it
    is the backbone itself. `proxy_widths` of bottleneck networks: 1/8 of a block's width, at least 16, as in the
    authors' code, or 1/4 as in the paper.
    """

    kind: Literal["tailored"] = "tailored"
    backbone: Backbone
    nodes: tuple[TailoredNode, ...]
    num_classes: int = Field(ge=2)
    proxy_widths: ProxyWidths = "code"

    branches: ClassVar[int] = 1
    dropout: ClassVar[float] = 0.0
    vote: ClassVar[Literal["probabilities"]] = "probabilities"

    @model_validator(mode="after")
    def _is_connected(self) -> Self:
        blocks = sum(SOURCES[self.backbone].depths)
        if len(self.nodes) != blocks:
            raise ValueError(f"{len(self.nodes)} nodes, but {self.backbone} has {blocks} residual blocks")
        for own, node in enumerate(self.nodes, start=1):
            if list(node.proxies) != sorted(set(node.proxies)) or not all(STEM <= p < own for p in node.proxies):
                raise ValueError(f"node {own} has proxies from {node.proxies}, not from earlier nodes in order")
            if node.attention and len(node.attention) != node.paths:
                raise ValueError(f"node {own} has {node.paths} paths and {len(node.attention)} weights")
        if connected(self.nodes) != self.nodes:
            raise ValueError("a node that exists is read by none, or one that is read does not exist")
        if not self.nodes[-1].paths:
            raise ValueError("the last node has no path")
        return self

    @property
    def existing(self) -> dict[int, TailoredNode]:
        """The nodes that have paths, by number."""
        return {own: node for own, node in enumerate(self.nodes, start=1) if node.paths}

    @property
    def layers(self) -> int:
        """As a ResNetSpec's, on the longest way through blocks and proxies."""
        block, proxy = (3, 2) if SOURCES[self.backbone].block == "bottleneck" else (2, 1)
        before = {STEM: 1}
        for own, node in self.existing.items():
            ways = [before[own - 1] + block] if node.block else []
            before[own] = max(ways + [before[source] + proxy for source in node.proxies])
        return before[len(self.nodes)] + 1

    @property
    def blocks(self) -> int:
        """The number of universal blocks that are kept."""
        return sum(node.block for node in self.nodes)


def whole_network(backbone: Backbone, num_classes: int) -> TailoredSpec:
    """The backbone itself: all blocks, no proxies."""
    nodes = (TailoredNode(),) * sum(SOURCES[backbone].depths)
    return TailoredSpec(backbone=backbone, nodes=nodes, num_classes=num_classes)


def with_proxies(whole: TailoredSpec, max_skip: int | None, widths: ProxyWidths = "code") -> TailoredSpec:
    """`whole` with proxies to each node from the `max_skip` nodes before it (all, where None), the stem included."""
    nodes = tuple(
        TailoredNode(proxies=tuple(range(STEM if max_skip is None else max(STEM, own - max_skip), own)))
        for own in range(1, len(whole.nodes) + 1)
    )
    return TailoredSpec(backbone=whole.backbone, nodes=nodes, num_classes=whole.num_classes, proxy_widths=widths)


def connected(nodes: Sequence[TailoredNode]) -> tuple[TailoredNode, ...]:
    """`nodes` without paths from nodes that do not exist, and without the paths of nodes that none reads.

    The last node is the classifier's. What is removed takes its attention along; the rest of it is not normalised.
    """
    kept = list(nodes)
    while True:
        existing = {STEM} | {own for own, node in enumerate(kept, start=1) if node.paths}
        read = {len(kept)} | {source for own, node in enumerate(kept, start=1) for source in node.sources(own)}
        left = [
            _with_sources(node, own, existing) if own in read else TailoredNode(block=False)
            for own, node in enumerate(kept, start=1)
        ]
        if left == kept:
            return tuple(left)
        kept = left


def _with_sources(node: TailoredNode, own: int, existing: set[int]) -> TailoredNode:
    keep = [source in existing for source in node.sources(own)]
    if all(keep):
        return node
    return TailoredNode(
        block=node.block and own - 1 in existing,
        proxies=tuple(source for source in node.proxies if source in existing),
        attention=tuple(weight for weight, kept in zip(node.attention, keep, strict=False) if kept),
    )


def with_attention(spec: TailoredSpec, attention: Mapping[int, Sequence[float]]) -> TailoredSpec:
    """`spec` with the weights of each node's paths, by its number."""
    nodes = tuple(
        node.model_copy(update={"attention": tuple(attention.get(own, ()))})
        for own, node in enumerate(spec.nodes, start=1)
    )
    return spec.model_copy(update={"nodes": nodes})
