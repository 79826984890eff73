import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorrt_double import inspected

from rrr_edge.backends.graph.rewrite import Graph, Product
from rrr_edge.backends.tensorrt.layers import precision_shares, read_layers, share_out


def shares(layers: list[Any], *nodes: Product) -> dict[str, float]:
    return precision_shares(share_out(nodes, read_layers(json.dumps({"Layers": layers}))))


def layer(name: str, data: str, **more: Any) -> dict[str, Any]:
    return {**inspected(name, data), **more}


def test_int8_needs_int8_data_and_int8_weights() -> None:
    conv = Product(name="conv", macs=10, precision="int8")
    assert shares([layer("conv", "Int8", Weights={"Type": "Int8", "Count": 9})], conv) == {"int8": 1.0}
    for data, weights in (("Half", "Int8"), ("Int8", "Float"), ("Int8", "FP8")):
        assert shares([layer("conv", data, Weights={"Type": weights, "Count": 9})], conv) == {"unknown": 1.0}


def test_a_layer_that_only_writes_or_only_holds_fp16_does_not_count_as_fp16() -> None:
    half = {"Name": "t", "Dimensions": [1], "Datatype": "Half"}
    conv = Product(name="conv", macs=10, precision="fp16")
    assert shares([layer("conv", "Float", Outputs=[half])], conv) == {"fp32": 1.0}
    assert shares([layer("conv", "Float", Weights={"Type": "Half", "Count": 9})], conv) == {"unknown": 1.0}


@pytest.mark.parametrize(
    ("data", "found"), [("Half", "fp16"), ("BFloat16", "bf16"), ("Float", "fp32"), ("Int8", "unknown")]
)
def test_untold_weights_have_the_datas_type_unless_they_could_be_widened(data: str, found: str) -> None:
    gemm = layer("head", data, LayerType="gemm", Weights=None)
    assert shares([gemm], Product(name="head", macs=10, precision="fp32")) == {found: 1.0}


def test_a_layer_that_multiplies_nothing_has_its_datas_type() -> None:
    (work,) = share_out([], read_layers(json.dumps({"Layers": [layer("pool", "Int8", Weights=None)]})))
    assert work.precision == "int8"


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major FP16 format where C % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Row major linear BFloat16 format", "bf16"),
    ],
)
def test_types_are_also_read_from_formats(words: str, precision: str) -> None:
    tensor = {"Name": "t", "Dimensions": [1], "Format/Datatype": words}
    told = {"Name": "conv + relu", "LayerType": "CaskConvolution", "Inputs": [tensor], "Weights": {"Type": words}}
    assert shares([told], Product(name="conv", macs=1, precision=precision)) == {precision: 1.0}


def test_the_layer_that_computes_counts_and_not_one_that_copies_for_it() -> None:
    copy = layer("conv", "Float", Name="copy for conv", LayerType="Reformat")
    conv = layer("conv", "Int8", Name="kernel of conv", Weights={"Type": "Int8"})
    for order in ([copy, conv], [conv, copy]):
        assert shares(order, Product(name="conv", macs=3, precision="int8")) == {"int8": 1.0}


def test_shares_are_of_macs_and_what_no_layer_names_is_unknown() -> None:
    nodes = [Product(name=name, macs=macs, precision="fp16") for name, macs in (("a", 60), ("b", 30), ("c", 10))]
    fused = layer("a", "Half", Metadata="[ONNX Layer: a]\x1e[ONNX Layer: relu]\x1e[ONNX Layer: b]", LayerType="kgen")
    assert shares([fused], *nodes) == {"fp16": 0.9, "unknown": 0.1}


def test_an_engine_that_was_built_with_names_only_tells_no_precision() -> None:
    assert shares(["conv + relu"], Product(name="conv", macs=3, precision="fp16")) == {"unknown": 1.0}


def test_macs_and_types_are_read_from_the_graph(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"wide": (8, 3, 3, 3), "grouped": (6, 4, 1, 1), "head": (6, 5)}
    nodes = [
        helper.make_node("Conv", ["images", "wide"], ["a"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "grouped"], ["b"], "second", group=2),
        helper.make_node("ReduceMean", ["b", "axes"], ["c"], "mean", keepdims=0),
        helper.make_node("MatMul", ["c", "head"], ["d"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT16, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT16, ["N", 5])],
        [numpy_helper.from_array(rng.random(shape).astype(np.float16), name) for name, shape in weights.items()]
        + [numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    assert [(node.name, node.macs, node.precision) for node in Graph.load(tmp_path / "net.onnx").products()] == [
        ("first", 8 * 8 * 8 * 3 * 9, "fp16"),
        ("second", 8 * 8 * 6 * 4, "fp16"),
        ("third", 5 * 6, "fp16"),
    ]


def test_a_node_is_int8_where_both_its_operands_are_dequantised(tmp_path: Path) -> None:
    scale, zero = np.float32(0.1), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wdq"], "wdq"),
        helper.make_node("Conv", ["dq", "wdq"], ["a"], "both"),
        helper.make_node("Conv", ["a", "wdq"], ["b"], "weights only"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [
            numpy_helper.from_array(np.ones((3, 3, 1, 1), np.int8), "w"),
            numpy_helper.from_array(np.asarray(scale), "scale"),
            numpy_helper.from_array(np.asarray(zero), "zero"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    assert [(node.name, node.precision) for node in Graph.load(tmp_path / "net.onnx").products()] == [
        ("both", "int8"),
        ("weights only", "fp32"),
    ]
