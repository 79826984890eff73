"""Pairs of convolutions of a factored network in a graph, and the one convolution that computes the same."""

from collections.abc import Collection
from typing import Any

from rrr_edge.backends.graph.rewrite import Graph, node_like

_BASIS, _SCALING = ".basis", ".scaling"


def pair_of(layer: str) -> str:
    """The network's convolution to which a layer belongs, by the name that the export gave it ("stump/conv1/...")."""
    _, _, rest = layer.partition("/")
    return rest.partition("/")[0].removesuffix(_BASIS).removesuffix(_SCALING)


def pairs_in(graph: Graph) -> dict[str, tuple[Any, Any]]:
    """The nodes of each pair, by the convolution's name: the basis, which nothing else reads, and the scaling."""
    found = {}
    for second in graph.nodes:
        scaling, first = graph.convolution(second), graph.writer(second.input[0])
        if scaling is None or first is None or not _module(second).endswith(_SCALING):
            continue
        basis = graph.convolution(first)
        if basis is not None and basis.bias is None and len(graph.readers(first.output[0])) == 1:
            found[pair_of(second.name)] = first, second
    return found


def multiply_pairs(graph: Graph, names: Collection[str]) -> None:
    """Write each of these pairs as one convolution."""
    pairs = pairs_in(graph)
    for name in names:
        first, second = pairs[name]
        basis, scaling = graph.convolution(first), graph.convolution(second)
        assert basis is not None
        assert scaling is not None
        branches = scaling.groups
        rows = scaling.kernel.reshape(branches, -1, scaling.kernel.shape[1]).astype("float64")
        filters = basis.kernel.reshape(branches, scaling.kernel.shape[1], -1).astype("float64")
        kernel = f"{second.input[1]}.product"
        product = (rows @ filters).reshape(len(scaling.kernel), *basis.kernel.shape[1:])
        graph.weights[kernel] = product.astype(basis.kernel.dtype)
        inputs = [first.input[0], kernel, *second.input[2:]]
        merged = node_like(first, first.name.replace(_BASIS, ""), inputs, second.output[0])
        place = graph.nodes.index(second)
        graph.nodes[place] = merged
        graph.nodes.remove(first)


def _module(node: Any) -> str:
    return str(node.name).partition("/")[2].partition("/")[0]
