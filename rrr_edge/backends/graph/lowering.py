"""Other ways to write grouped convolutions and pairs: equal in result, of other speed from machine to machine.

grouped   as exported: a group for each branch
split     a convolution for each branch, side by side from the stump to the heads
dense     small 1x1 convolutions as one matrix with the branches' blocks on its diagonal
product   as exported, but each pair of convolutions of a factored network as one
mixed     as exported, but some pairs as one
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.backends.graph.pairs import multiply_pairs, pairs_in
from rrr_edge.backends.graph.rewrite import Convolution, Graph, Weights, make_node, node_like
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.target import Lowering

# Weights of the largest matrix that is written out: its zeros are read and multiplied too.
DENSE_LIMIT = 1 << 22


def lower(model: Path, lowering: Lowering, out: Path, products: Collection[str] = ()) -> None:
    """Write the graph in the file `model` to `out`; the pairs `products` are what "mixed" writes as one.

    Raises MissingLibrary and CorruptArtifact (it is no graph).
    """
    graph = Graph.load(model)
    if lowering == "mixed":
        multiply_pairs(graph, products)
    else:
        _REWRITES[lowering](graph)
    graph.save(out)


@contextmanager
def lowered(model: Path, lowering: Lowering, products: Collection[str] = ()) -> Iterator[Path]:
    """The graph in the file `model` as `lower` writes it, in a file for the time being."""
    if lowering == "grouped":
        yield model
        return
    with scratch_folder() as scratch:
        written = scratch / f"{lowering}.onnx"
        lower(model, lowering, written, products)
        yield written


def _grouped(graph: Graph) -> None:
    """As it was exported."""


def _split(graph: Graph) -> None:
    branches = max((layer.groups for node in graph.nodes if (layer := graph.convolution(node))), default=1)
    wanted = _wanted_in_parts(graph, branches)
    nodes: list[Any] = []
    in_parts: set[str] = set()
    joined: set[str] = set()

    def join(tensor: str) -> None:
        if tensor in in_parts - joined:
            parts = [f"{tensor}.{i}" for i in range(branches)]
            nodes.append(make_node("Concat", f"{tensor}.join", parts, tensor, axis=1))
            joined.add(tensor)

    for node in graph.nodes:
        layer, data, output = graph.convolution(node), node.input[0], node.output[0]
        reads_all = layer is not None and layer.groups == 1
        if output not in wanted or not (reads_all or data in in_parts):
            for tensor in node.input:
                join(tensor)
            nodes.append(node)
            continue
        if reads_all:
            join(data)
        if layer is not None:
            for name in node.input[1:]:
                rows = np.split(graph.weights[name], branches)
                graph.weights |= {f"{name}.{i}": own for i, own in enumerate(rows)}
        shared = {data} if reads_all else set() if layer is not None else set(graph.weights)
        for i in range(branches):
            inputs = [name if name in shared else f"{name}.{i}" for name in node.input]
            one_group = {} if layer is None else {"group": 1}
            nodes.append(node_like(node, f"{node.name}.{i}", inputs, f"{output}.{i}", **one_group))
        in_parts.add(output)
    graph.nodes = nodes


def _wanted_in_parts(graph: Graph, branches: int) -> set[str]:
    """What a grouped convolution reads or writes, and what such a tensor is computed from channel by channel."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        layer = graph.convolution(node)
        if layer is not None and layer.groups == branches > 1:
            wanted |= {node.input[0], node.output[0]}
        elif node.output[0] in wanted and _by_channel(graph, node):
            wanted |= set(node.input) - set(graph.weights)
    return wanted


def _by_channel(graph: Graph, node: Any) -> bool:
    if node.op_type == "ReduceMean":
        return set(graph.weights[node.input[1]].tolist()) <= {2, 3, -2, -1}
    return node.op_type in ("Relu", "Add") and not set(node.input) & set(graph.weights)


def _dense(graph: Graph) -> None:
    for i, node in enumerate(graph.nodes):
        layer = graph.convolution(node)
        if layer is None or layer.groups == 1 or layer.kernel.shape[2:] != (1, 1):
            continue
        groups, (outputs, columns) = layer.groups, layer.kernel.shape[:2]
        if outputs * groups * columns > DENSE_LIMIT:
            continue
        matrix = np.zeros((groups, outputs // groups, groups, columns), layer.kernel.dtype)
        branch = np.arange(groups)
        matrix[branch, :, branch] = layer.kernel.reshape(groups, -1, columns)
        data, kernel, *bias = node.input
        graph.weights[f"{kernel}.dense"] = matrix.reshape(outputs, -1, 1, 1)
        graph.nodes[i] = node_like(node, node.name, [data, f"{kernel}.dense", *bias], node.output[0], group=1)


def _product(graph: Graph) -> None:
    multiply_pairs(graph, pairs_in(graph))


_REWRITES: dict[Lowering, Callable[[Graph], None]] = {
    "grouped": _grouped,
    "split": _split,
    "dense": _dense,
    "product": _product,
}


def pad_groups(graph: Graph, multiple: int) -> None:
    """Widen each branch's channels with zeros to a `multiple`, where only ReLUs lie between two convolutions.

    Depthwise convolutions, a group of which is one channel, stay: there are kernels of their own for them.
    """
    for node in graph.nodes:
        writer = graph.convolution(node)
        readers = _only_convolutions(graph, node.output[0])
        if writer is None or not readers:
            continue
        groups = max(layer.groups for layer in (writer, *readers))
        width = len(writer.kernel) // groups
        extra = -width % multiple
        if groups == 1 or width == 1 or extra == 0:
            continue
        for name in node.input[1:]:
            graph.weights[name] = _widened(graph.weights[name], groups, extra, axis=0)
        for reader in readers:
            kernel = reader.node.input[1]
            blocks = groups if reader.groups == 1 else 1
            graph.weights[kernel] = _widened(graph.weights[kernel], blocks, extra, axis=1)


def _only_convolutions(graph: Graph, tensor: str) -> list[Convolution]:
    """The convolutions that read `tensor`, directly or behind ReLUs; none where anything else reads it."""
    found: list[Convolution] = []
    for node in graph.readers(tensor):
        layer = graph.convolution(node)
        behind = [layer] if layer else _only_convolutions(graph, node.output[0]) if node.op_type == "Relu" else []
        if not behind:
            return []
        found += behind
    return found


def _widened(weights: Weights, blocks: int, extra: int, *, axis: int) -> Weights:
    """With `extra` zeros at the end of each of the `blocks` that lie along `axis`."""
    shape = weights.shape
    apart = weights.reshape(*shape[:axis], blocks, -1, *shape[axis + 1 :])
    padded = np.pad(apart, [(0, extra if i == axis + 1 else 0) for i in range(apart.ndim)])
    return padded.reshape(*shape[:axis], -1, *shape[axis + 1 :])
