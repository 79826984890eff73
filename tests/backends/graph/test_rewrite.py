"""Graphs are read and written whole; MACs are counted like the structure's."""

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rrr_edge.backends.graph.rewrite import Graph, Tensor, make_node, node_like
from rrr_edge.bundle.files import writing_to
from rrr_edge.bundle.folder import Bundle
from rrr_edge.errors import CannotRunHere, CorruptArtifact


def small(kind: int = TensorProto.FLOAT) -> Graph:
    """images [N, 4, 6, 6] -> Conv (two groups, 3x3) -> MatMul over the last axis, in the type `kind`."""
    kernel = numpy_helper.from_array(np.ones((8, 2, 3, 3), np.float32), "kernel")
    matrix = numpy_helper.from_array(np.ones((4, 5), np.float32), "matrix")
    unread = numpy_helper.from_array(np.ones(3, np.float32), "unread")
    nodes = [
        helper.make_node("Cast", ["images"], ["typed"], "typed", to=kind),
        helper.make_node("Cast", ["kernel"], ["own"], "own", to=kind),
        helper.make_node("Conv", ["typed", "own"], ["map"], "conv", group=2),
        helper.make_node("Cast", ["map"], ["wide"], "wide", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "matrix"], ["out"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8, 4, 5])],
        [kernel, matrix, unread],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")])
def test_macs_are_shared_out_by_precision(kind: int, precision: str) -> None:
    convolution, product = 8 * 2 * 9 * 16, 8 * 4 * 4 * 5
    shares = small(kind).precision_shares()
    assert shares == pytest.approx(
        {precision: convolution / (convolution + product), "fp32": product / (convolution + product)}
    )


def test_types_and_shapes_are_inferred_and_a_free_dimension_is_0() -> None:
    tensors = small(TensorProto.FLOAT16).tensors()
    assert tensors["map"] == Tensor("FLOAT16", (0, 8, 4, 4))
    assert tensors["matrix"] == Tensor("FLOAT", (4, 5))
    assert tensors["images"].shape == (0, 4, 6, 6)


def test_what_is_saved_is_the_graph_without_weights_that_nothing_reads(tmp_path: Path) -> None:
    graph = small()
    graph.weights["matrix"] = np.zeros((4, 7), np.float32)
    graph.model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 7
    graph.save(tmp_path / "small.onnx")
    again = onnx.load(tmp_path / "small.onnx")
    assert {w.name for w in again.graph.initializer} == {"kernel", "matrix"}
    assert Graph.load(tmp_path / "small.onnx").tensors()["out"].shape == (0, 8, 4, 7)


def test_only_convolutions_with_constant_weights_count_as_such() -> None:
    graph = small()
    assert [graph.convolution(node) for node in graph.nodes] == [None] * 5
    graph.nodes[2] = node_like(graph.nodes[2], "conv", ["typed", "kernel"], "map")
    layer = graph.convolution(graph.nodes[2])
    assert layer is not None
    assert (layer.groups, layer.kernel.shape, layer.bias) == (2, (8, 2, 3, 3), None)


def test_writers_and_readers_are_found() -> None:
    graph = small()
    assert [node.name for node in graph.readers("typed")] == ["conv"]
    assert graph.writer("map").name == "conv"
    assert graph.writer("images") is graph.writer("kernel") is None


def test_a_copied_node_has_the_new_attributes_and_keeps_the_others() -> None:
    node = make_node("Conv", "a", ["x", "w"], "y", group=2, strides=[2, 2])
    copy = node_like(node, "b", ["z", "w"], "q", group=1)
    assert {a.name: helper.get_attribute_value(a) for a in copy.attribute} == {"group": 1, "strides": [2, 2]}
    assert (copy.name, list(copy.input), list(copy.output)) == ("b", ["z", "w"], ["q"])


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    with pytest.raises(CorruptArtifact, match=r"model.onnx cannot be read as an ONNX graph"):
        Graph.load(tmp_path / "model.onnx")


def test_the_graphs_macs_are_the_manifests(shared_bundle: Bundle) -> None:
    graph = Graph.load(shared_bundle.model)
    assert graph.precision_shares() == {"fp32": 1.0}
    assert sum(graph.macs().values()) == shared_bundle.manifest.cost.macs


def test_a_full_disk_is_that_of_the_graph_and_not_of_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnx.save_model", full)
    with pytest.raises(CannotRunHere, match=r"temporary/lowered\.onnx is full"), writing_to(tmp_path / "bundle"):
        small().save(tmp_path / "temporary" / "lowered.onnx")
