"""Precision in the graph, for a trained bundle in all four: types, operators, answers. ModelOpt runs once for each."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.backends.tensorrt.prepare import prepare, run_prepared
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Precision
from rrr_edge.bundle.verification import verify
from rrr_edge.errors import MissingLibrary, pip_install
from rrr_edge.timing.progress import Step, silent

pytest.importorskip("modelopt")
SUPPORT = json.loads((Path(__file__).parent / "tensorrt_operators.json").read_text())
WORDS = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16", "int8": "FLOAT"}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8")


@pytest.fixture(scope="module")
def prepared(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    for precision in PRECISIONS:
        prepare(shared_bundle.model, precision, shared_bundle.calibration, folder / f"{precision}.onnx", silent)
    return {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prepared_graph_answers_like_torch_within_the_limits(
    prepared: dict[Precision, Path], shared_bundle: Bundle, precision: Precision
) -> None:
    reference = shared_bundle.reference
    expected = Outputs(reference.probabilities, reference.branch_probabilities)
    found = run_prepared(prepared[precision], reference.images)
    result = verify(expected, found, reference.labels, precision=precision, limits=Limits(max_drop=0), layers=14)
    assert result.passed, result.failures
    if precision != "fp32":
        assert result.max_abs_diff > 0  # else nothing was rounded


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nearly_all_macs_are_in_the_precision_and_none_in_a_third(
    prepared: dict[Precision, Path], shared_bundle: Bundle, precision: Precision
) -> None:
    shares = Graph.load(prepared[precision]).precision_shares()
    assert set(shares) == {precision, "fp32"}
    # All but the heads, whose MACs are their weights.
    spec, cost = shared_bundle.manifest.spec, shared_bundle.manifest.cost
    heads = spec.branches * spec.num_classes * 4 * spec.branch_widths[1] / cost.macs
    if precision != "fp32":
        assert shares["fp32"] == pytest.approx(heads, rel=0.05)  # padded groups add to the others


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_outputs_are_the_bundles_own(
    prepared: dict[Precision, Path], shared_bundle: Bundle, precision: Precision
) -> None:
    before, after = (onnx.load(path).graph for path in (shared_bundle.model, prepared[precision]))
    for own, theirs in ((before.input, after.input), (before.output, after.output)):
        assert [value.name for value in own] == [value.name for value in theirs]
        for a, b in zip(own, theirs, strict=True):
            assert a.type.tensor_type.elem_type == b.type.tensor_type.elem_type
            sides = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (a, b)]
            assert sides[0] == sides[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operator_and_type_is_in_tensorrts_list(prepared: dict[Precision, Path], precision: Precision) -> None:
    graph = Graph.load(prepared[precision])
    tensors, used = graph.tensors(), set()
    (opset,) = graph.model.opset_import
    assert (opset.domain, *SUPPORT["opsets"]) == ("", 9, 24)
    assert 9 <= opset.version <= 24
    for node in graph.nodes:
        kinds = {tensors[node.input[0]].type}
        if node.op_type in ("Cast", "Concat", "Conv", "Gemm", "Add", "Mul"):
            kinds |= {tensors[name].type for name in (*node.input, *node.output)}
        assert kinds <= set(SUPPORT["types"][node.op_type]), f"{node.op_type} {node.name} in {kinds}"
        if node.op_type == "ReduceMean":
            assert node.input[1] in graph.weights  # "axes must be an initializer"
        used |= kinds
    assert WORDS[precision] in used
    # "uint8 is only supported as network input or output tensor types"
    assert [name for name, tensor in tensors.items() if tensor.type == "UINT8"] == ["images"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_logits_and_vote_stay_fp32(prepared: dict[Precision, Path], precision: Precision) -> None:
    graph = Graph.load(prepared[precision])
    tensors = graph.tensors()
    first = next(i for i, node in enumerate(graph.nodes) if node.op_type == "Conv")
    normalised = [name for node in graph.nodes[:first] if node.op_type in ("Mul", "Add") for name in node.output]
    assert normalised
    softmax = next(node for node in graph.nodes if node.op_type == "Softmax")
    logits = graph.writer(softmax.input[0])
    heads = graph.writer(logits.input[0])
    assert heads.op_type == "Conv"
    for name in (*normalised, *heads.input, *logits.output, *softmax.output, "probabilities"):
        assert tensors[name].type == "FLOAT"


def test_all_of_int8_is_signed_with_zero_point_0_and_a_scale_for_each_row(prepared: dict[Precision, Path]) -> None:
    graph = Graph.load(prepared["int8"])
    tensors = graph.tensors()
    quantised = [node for node in graph.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantised) > 40
    for node in quantised:
        zero = graph.weights[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    layers = [node for node in graph.nodes if node.op_type == "Conv"]
    kernels = [graph.writer(node.input[1]) for node in layers]
    assert sum(kernel is None for kernel in kernels) == 1  # the heads'
    for kernel in filter(None, kernels):
        assert graph.weights[kernel.input[1]].shape == tensors[kernel.output[0]].shape[:1]
    # TensorRT's condition on groups in int8.
    for node, kernel in zip(layers, kernels, strict=True):
        groups = next(a.i for a in node.attribute if a.name == "group")
        if kernel is not None and groups > 1:
            rows, columns, *_ = tensors[kernel.output[0]].shape
            assert columns % 4 == rows // groups % 4 == 0


def test_fp8_is_e4m3_in_all_but_the_first_convolution_and_the_heads(shared_bundle: Bundle, tmp_path: Path) -> None:
    prepare(shared_bundle.model, "fp8", shared_bundle.calibration[:4], tmp_path / "fp8.onnx", silent)
    graph = Graph.load(tmp_path / "fp8.onnx")
    left = [product.name.rpartition("/")[0] for product in graph.products() if product.precision != "fp8"]
    assert left == ["stump/conv1", "heads/fc"]
    assert graph.precision_shares()["fp8"] > 0.9
    assert {graph.weights[n.input[2]].dtype.name for n in graph.nodes if n.op_type == "QuantizeLinear"} == {
        "float8_e4m3fn"
    }
    found = run_prepared(tmp_path / "fp8.onnx", shared_bundle.reference.images).probabilities
    assert (found.argmax(1) == shared_bundle.reference.probabilities.argmax(1)).mean() > 0.7  # rounded to 3 bits


def _two_products(kind: int, factor: float) -> Graph:
    """images [N, 1, 1, 1] in `kind`, twice times `factor`, and back."""
    nodes = [
        helper.make_node("Cast", ["images"], ["low"], "low", to=kind),
        helper.make_node("Conv", ["low", "kernel"], ["once"], "once"),
        helper.make_node("Conv", ["once", "kernel"], ["twice"], "twice"),
        helper.make_node("Cast", ["twice"], ["probabilities"], "back", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["twice"], ["branch_probabilities"], "again", to=TensorProto.FLOAT),
    ]
    values = [
        helper.make_tensor_value_info(name, dtype, ["batch", 1, 1, 1])
        for name, dtype in (
            ("images", TensorProto.UINT8),
            ("probabilities", TensorProto.FLOAT),
            ("branch_probabilities", TensorProto.FLOAT),
        )
    ]
    kernel = helper.make_tensor("kernel", kind, [1, 1, 1, 1], [factor])
    graph = helper.make_graph(nodes, "products", values[:1], values[1:], [kernel])
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


@pytest.mark.parametrize(
    ("kind", "numpy_type"), [(TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)]
)
def test_every_tensor_is_rounded_as_the_graph_says(kind: int, numpy_type: Any, tmp_path: Path) -> None:
    _two_products(kind, 1.37).save(tmp_path / "products.onnx")
    pixels = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
    found = run_prepared(tmp_path / "products.onnx", pixels).probabilities
    factor = numpy_type(1.37)
    expected = (pixels.astype(numpy_type) * factor).astype(numpy_type) * factor
    assert np.array_equal(found, expected.astype(np.float32))
    assert not np.array_equal(found, pixels * np.float32(factor) ** 2)


def test_a_node_of_several_outputs_is_rounded_whole(tmp_path: Path) -> None:
    """As the halves of the channels in ShuffleNetV2; numpy's float16 says what comes out."""
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], "floats", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "third"], ["thirds"], "product"),
        helper.make_node("Cast", ["thirds"], ["low"], "lower", to=half),
        helper.make_node("Split", ["low"], ["left", "right"], "halves", axis=3, num_outputs=2),
        helper.make_node("Cast", ["left"], ["probabilities"], "first", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["right"], ["branch_probabilities"], "second", to=TensorProto.FLOAT),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 2, 2, 4])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2, 2])
        for name in ("probabilities", "branch_probabilities")
    ]
    third = onnx.numpy_helper.from_array(np.float32(1 / 3), "third")
    graph = helper.make_graph(nodes, "halves", [images], outputs, [third])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opset), tmp_path / "halves.onnx")
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 2, 2, 4)
    expected = (pixels.astype(np.float32) * np.float32(1 / 3)).astype(np.float16).astype(np.float32)
    prepare(tmp_path / "halves.onnx", "fp32", pixels[:0], tmp_path / "prepared.onnx", silent)
    for model in ("halves.onnx", "prepared.onnx"):
        left, right = run_prepared(tmp_path / model, pixels)
        assert np.array_equal(np.concatenate([left, right], 3), expected)


def test_an_overflow_of_fp16_is_seen_though_onnx_runtime_alone_would_hide_it(tmp_path: Path) -> None:
    _two_products(TensorProto.FLOAT16, 300).save(tmp_path / "products.onnx")
    pixels = np.full((1, 1, 1, 1), 2, np.uint8)
    assert np.isfinite(run_model(tmp_path / "products.onnx", pixels).probabilities).all()
    assert np.isinf(run_prepared(tmp_path / "products.onnx", pixels).probabilities).all()


def test_activations_that_come_near_fp16s_largest_number_stay_fp32(shared_bundle: Bundle, tmp_path: Path) -> None:
    """The stump's last block 30,000 times as large, and what reads it as much smaller: the same answers."""
    graph = Graph.load(shared_bundle.model)
    layers = {layer.node.name.split("/")[1]: layer for node in graph.nodes if (layer := graph.convolution(node))}
    for name in ("layer2.0.conv3", "layer2.0.downsample.0"):
        for weights in layers[name].node.input[1:]:
            graph.weights[weights] = graph.weights[weights] * np.float32(3e4)
    for name in ("layer3.0.conv1", "layer3.0.downsample.0"):
        kernel = layers[name].node.input[1]
        graph.weights[kernel] = graph.weights[kernel] / np.float32(3e4)
    graph.save(tmp_path / "large.onnx")
    prepare(tmp_path / "large.onnx", "fp16", shared_bundle.calibration, tmp_path / "fp16.onnx", silent)
    found = run_prepared(tmp_path / "fp16.onnx", shared_bundle.reference.images).probabilities
    assert np.abs(found - shared_bundle.reference.probabilities).max() < 0.05
    shares = Graph.load(tmp_path / "fp16.onnx").precision_shares()
    assert 0.1 < shares["fp32"] < 0.9


def test_fp16_without_images_takes_every_layer(shared_bundle: Bundle, tmp_path: Path) -> None:
    prepare(shared_bundle.model, "fp16", shared_bundle.calibration[:0], tmp_path / "fp16.onnx", silent)
    assert Graph.load(tmp_path / "fp16.onnx").precision_shares()["fp16"] > 0.99


def test_it_says_how_far_it_is_and_is_otherwise_silent(
    shared_bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[Step] = []
    prepare(shared_bundle.model, "bf16", shared_bundle.calibration, tmp_path / "bf16.onnx", steps.append)
    assert steps == [Step("prepare", 0, 1, "bf16"), Step("prepare", 1, 1, "bf16")]
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0
    assert [file.name for file in tmp_path.iterdir()] == ["bf16.onnx"]


def test_without_modelopt_the_pip_line_is_said(
    shared_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["modelopt", *(name for name in sys.modules if name.startswith("modelopt."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibrary) as caught:
        prepare(shared_bundle.model, "int8", shared_bundle.calibration, tmp_path / "int8.onnx", silent)
    assert caught.value.exit_code == 6
    assert caught.value.advice == pip_install("prepare")
