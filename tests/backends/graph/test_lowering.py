"""Grouped, split and dense branches answer alike in ONNX Runtime, and are what they are called."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from rrr_edge.backends.graph import lowering
from rrr_edge.backends.graph.lowering import lower, pad_groups
from rrr_edge.backends.graph.rewrite import Convolution, Graph
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import LOWERINGS, Lowering

LIMIT = 1e-5


def convolutions(graph: Graph) -> list[Convolution]:
    return [layer for node in graph.nodes if (layer := graph.convolution(node))]


def difference(model: Path, bundle: Bundle) -> float:
    images = bundle.reference.images
    pairs = zip(run_model(bundle.model, images), run_model(model, images), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def lowered(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[Lowering, Path]:
    folder = tmp_path_factory.mktemp("lowered")
    for name in LOWERINGS:
        lower(shared_bundle.model, name, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in LOWERINGS}


@pytest.mark.parametrize("name", LOWERINGS)
def test_every_lowering_answers_alike(lowered: dict[Lowering, Path], shared_bundle: Bundle, name: Lowering) -> None:
    assert difference(lowered[name], shared_bundle) <= LIMIT
    before, after = (onnx.load(path).graph for path in (shared_bundle.model, lowered[name]))
    assert (before.input, before.output) == (after.input, after.output)


def test_grouped_has_a_group_for_each_branch(lowered: dict[Lowering, Path], shared_bundle: Bundle) -> None:
    groups = [layer.groups for layer in convolutions(Graph.load(lowered["grouped"]))]
    branches = shared_bundle.manifest.spec.branches
    # conv4_1's 3x3 and last 1x1, all four of conv5_1 and the heads; the stump and what reads it have one group.
    assert sorted(groups) == [1] * (len(groups) - 7) + [branches] * 7


def test_split_joins_the_branches_nowhere_but_before_the_vote(
    lowered: dict[Lowering, Path], shared_bundle: Bundle
) -> None:
    graph, branches = Graph.load(lowered["split"]), shared_bundle.manifest.spec.branches
    grouped = Graph.load(lowered["grouped"])
    layers = convolutions(graph)
    assert {layer.groups for layer in layers} == {1}
    # Seven grouped ones and the two that read the stump for all branches.
    assert len(layers) - len(convolutions(grouped)) == 9 * (branches - 1)
    assert graph.macs() == grouped.macs()
    (join,) = [node for node in graph.nodes if node.op_type == "Concat"]
    assert [node.op_type for node in graph.readers(join.output[0])] == ["Reshape"]
    for i, tensor in enumerate(join.input):
        assert _branches_above(graph, tensor) == {str(i)}


def _branches_above(graph: Graph, tensor: str) -> set[str]:
    """The numbers that the nodes have at the end of their names, from `tensor` up to the shared stump."""
    node = graph.writer(tensor)
    if node is None or not node.name.rpartition(".")[2].isdigit():
        return set()
    return {node.name.rpartition(".")[2]}.union(*(_branches_above(graph, name) for name in node.input))


def test_dense_has_the_branches_blocks_on_its_diagonal(lowered: dict[Lowering, Path], shared_bundle: Bundle) -> None:
    grouped, dense = (convolutions(Graph.load(lowered[name])) for name in ("grouped", "dense"))
    branches = shared_bundle.manifest.spec.branches
    changed = [(a, b) for a, b in zip(grouped, dense, strict=True) if a.groups != b.groups]
    assert len(changed) == 5
    for before, after in changed:
        rows, columns = (side // branches for side in after.kernel.shape[:2])
        for i in range(branches):
            for j in range(branches):
                block = after.kernel[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                assert np.array_equal(block, before.kernel[i * rows : (i + 1) * rows] if i == j else 0 * block)
    assert {after.kernel.shape[2:] for _, after in changed} == {(1, 1)}
    assert {layer.kernel.shape[2:] for layer in dense if layer.groups > 1} == {(3, 3)}


def test_large_matrices_stay_grouped(shared_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "DENSE_LIMIT", 1_000_000)
    lower(shared_bundle.model, "dense", tmp_path / "dense.onnx")
    layers = convolutions(Graph.load(tmp_path / "dense.onnx"))
    spec = shared_bundle.manifest.spec
    a, b = (width * spec.branches for width in spec.branch_widths)
    sizes = {"4_3": 4 * a * a, "5_1": b * 4 * a, "5_3": 4 * b * b, "5_skip": 4 * b * 4 * a, "head": 6 * 4 * b}
    assert sum(layer.groups > 1 for layer in layers) == 2 + sum(size > 1_000_000 for size in sizes.values())
    assert 2 < sum(layer.groups > 1 for layer in layers) < 7


@pytest.mark.parametrize("name", ["grouped", "dense"])
def test_padded_groups_are_wide_enough_and_answer_alike(
    lowered: dict[Lowering, Path], shared_bundle: Bundle, tmp_path: Path, name: Lowering
) -> None:
    graph = Graph.load(lowered[name])
    assert any(layer.kernel.shape[1] % 4 for layer in convolutions(graph) if layer.groups > 1)
    pad_groups(graph, 4)
    graph.save(tmp_path / "padded.onnx")
    classes = len(shared_bundle.manifest.labels)
    for layer in (layer for layer in convolutions(graph) if layer.groups > 1):
        outputs = len(layer.kernel) // layer.groups
        assert layer.kernel.shape[1] % 4 == 0
        assert outputs % 4 == 0 or outputs == classes  # the heads stay as they are
    assert difference(tmp_path / "padded.onnx", shared_bundle) <= LIMIT


def test_depthwise_convolutions_are_not_padded(tmp_path: Path) -> None:
    """As in an inverted residual: 1x1, ReLU, depthwise, ReLU, 1x1."""
    rng = np.random.default_rng(0)
    kernels = {"expand": (6, 3, 1, 1), "depthwise": (6, 1, 3, 3), "project": (3, 6, 1, 1)}
    nodes, tensor = [], "images"
    for name in kernels:
        groups = 6 if name == "depthwise" else 1
        nodes.append(onnx.helper.make_node("Conv", [tensor, name], [f"{name}.out"], name, group=groups))
        nodes.append(onnx.helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"], f"{name}.relu"))
        tensor = f"{name}.relu"
    images, out = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, side, side])
        for name, side in (("images", 4), (tensor, 2))
    )
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in kernels.items()
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "one", [images], [out], weights), ir_version=10)
    onnx.save(model, tmp_path / "one.onnx")
    graph = Graph.load(tmp_path / "one.onnx")
    pad_groups(graph, 4)
    assert {layer.node.name: layer.kernel.shape for layer in convolutions(graph)} == kernels


def test_a_network_without_branches_is_left_as_it_is(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["images", "kernel"], ["out"], "conv")
    images, out = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width, 2, 2])
        for name, width in (("images", 3), ("out", 4))
    )
    graph = onnx.helper.make_graph([node], "one", [images], [out], [onnx.numpy_helper.from_array(kernel, "kernel")])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "one.onnx")
    for name in LOWERINGS:
        lower(tmp_path / "one.onnx", name, tmp_path / "lowered.onnx")
        assert onnx.load(tmp_path / "lowered.onnx").graph.node == [node]
