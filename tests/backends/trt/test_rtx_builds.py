"""Engines that TensorRT for RTX, NVIDIA's own compiler, really builds: what it takes, and which types compute."""

from pathlib import Path

import numpy as np
import pytest
from small_bundle import link_bundle

from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.backends.tensorrt.build import build
from rrr_edge.backends.tensorrt.layers import precision_shares, read_list, share_out
from rrr_edge.backends.tensorrt.prepare import prepare, run_prepared
from rrr_edge.backends.tensorrt.turing import suit_turing
from rrr_edge.backends.tensorrt_rtx import TensorRTRTX, find_libraries
from rrr_edge.backends.tensorrt_rtx.gpus import SUPPORTED, find_gpu
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.target import LOWERINGS, Precision, Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import CannotRunHere, UsageError
from rrr_edge.timing.progress import Step, silent

pytest.importorskip("tensorrt_rtx")

NONE = np.empty((0, 0, 0, 3), np.uint8)
ALL = Target.load("tensorrt-rtx").model_copy(update={"precision": "fp32"})


def target_for(*capabilities: str, precision: Precision = "fp32", max_batch: int = 1) -> Target:
    update = {"compute_capabilities": capabilities, "precision": precision, "max_batch": max_batch}
    return ALL.model_copy(update=update)


def shares(model: Path, target: Target, out: Path) -> dict[str, float]:
    """Build the engine, and say in which types its MACs are computed."""
    out.mkdir()
    TensorRTRTX().compile(model, target, NONE, out, silent)
    assert (out / "model.engine").read_bytes()[:4] == b"vtrt"
    return TensorRTRTX().precision_built(out)


def test_the_capabilities_are_those_of_the_compiler() -> None:
    trt = find_libraries().trt
    theirs = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert {f"SM{capability.replace('.', '')}" for capability in SUPPORTED} == theirs
    assert tuple(SUPPORTED) == ALL.compute_capabilities


def test_the_parser_takes_the_bundles_own_graph(shared_bundle: Bundle, tmp_path: Path) -> None:
    """Bytes are turned into floats by its first node; TensorRT has no other use for them."""
    graph = Graph.load(shared_bundle.model)
    pixels = graph.model.graph.input[0].name
    assert [node.op_type for node in graph.nodes if pixels in node.input] == ["Cast"]
    built = build(find_libraries(), shared_bundle.model, ALL, lambda config: None, silent)
    assert precision_shares(share_out(graph.products(), read_list(built.layers))) == {"fp32": 1.0}


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_lowering_is_built_for_all_gpus(shared_bundle: Bundle, tmp_path: Path, lowering: str) -> None:
    model = tmp_path / "lowered.onnx"
    lower(shared_bundle.model, lowering, model)  # type: ignore[arg-type]
    assert shares(model, ALL, tmp_path / "all") == {"fp32": 1.0}


def test_many_narrow_branches_are_built(tmp_path: Path) -> None:
    from rrr_edge.networks import ResNetSpec
    from rrr_edge.networks import build as build_network
    from rrr_edge.networks.export import export_onnx

    spec = ResNetSpec(depths=(1, 1, 1, 1), branches=32, branch_widths=(8, 8), num_classes=3)
    export_onnx(build_network(spec).eval(), Preprocess(image_size=32), tmp_path / "model.onnx")
    assert shares(tmp_path / "model.onnx", target_for("7.5"), tmp_path / "engine") == {"fp32": 1.0}


@pytest.fixture(scope="module")
def quantised(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As for GPUs that have INT8 convolutions."""
    pytest.importorskip("modelopt")
    out = tmp_path_factory.mktemp("quantised") / "int8.onnx"
    prepare(shared_bundle.model, "int8", shared_bundle.calibration[:8], out, silent)
    return out


def of_prepared(graph: Path, target: Target) -> dict[str, float]:
    built = build(find_libraries(), graph, target, _only(target), silent)
    return precision_shares(share_out(Graph.load(graph).products(), read_list(built.layers)))


def _only(target: Target):
    from rrr_edge.backends.tensorrt_rtx import _for_gpus

    return _for_gpus(find_libraries().trt, target)


def test_from_ampere_on_int8_convolutions_compute_in_int8(quantised: Path) -> None:
    assert of_prepared(quantised, target_for("8.0", "8.6", "8.9", "12.0"))["int8"] > 0.99


def test_turing_would_compute_them_in_fp32_without_a_word(quantised: Path) -> None:
    """Should this fail, the compiler has learnt it, and the rewriting for Turing can go."""
    assert of_prepared(quantised, target_for("7.5", "8.6")) == {"fp32": 1.0}


def test_rewritten_for_turing_they_compute_in_int8_and_answer_alike(
    quantised: Path, shared_bundle: Bundle, tmp_path: Path
) -> None:
    graph = Graph.load(quantised)
    before = graph.precision_shares()
    suit_turing(graph)
    graph.save(tmp_path / "turing.onnx")
    assert Graph.load(tmp_path / "turing.onnx").precision_shares() == pytest.approx(before)
    images = shared_bundle.reference.images
    ours, theirs = run_prepared(tmp_path / "turing.onnx", images), run_model(quantised, images)
    # Sums of whole numbers, rounded to fp16's 11 bits: an activation may fall on the next of its 256 steps.
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=0.1)
    assert np.median(np.abs(ours.probabilities - theirs.probabilities)) < 1e-3
    assert of_prepared(tmp_path / "turing.onnx", target_for(*SUPPORTED, max_batch=2))["int8"] > 0.99


def test_a_strided_grouped_padded_convolution_is_the_same_sum(tmp_path: Path) -> None:
    """In whole numbers and powers of two nothing is rounded, so that the sums are equal to the last bit."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.5),
        "zero": np.int8(0),
        "kernel": random.integers(-3, 4, (6, 2, 3, 3)).astype(np.float32),
        "scales": np.ones(6, np.float32),
        "zeros": np.zeros(6, np.int8),
        "bias": np.arange(6, dtype=np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["data", "scale", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "d"),
        helper.make_node("QuantizeLinear", ["kernel", "scales", "zeros"], ["kq"], "kq", axis=0),
        helper.make_node("DequantizeLinear", ["kq", "scales", "zeros"], ["kd"], "kd", axis=0),
        helper.make_node("Conv", ["d", "kd", "bias"], ["answer"], "conv", group=2, strides=[2, 1], pads=[1, 0, 2, 1]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "convolution",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 4, 7, 6])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 6, 4, 5])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    import onnxruntime

    def run(graph: Graph) -> np.ndarray:
        graph.save(tmp_path / "graph.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
        return session.run(None, {"data": data})[0]

    data = random.integers(-20, 21, (3, 4, 7, 6)).astype(np.float32)
    before = Graph(onnx.load_from_string(model.SerializeToString()))
    expected = run(before)
    suit_turing(before)
    assert "Conv" not in {node.op_type for node in before.nodes}
    np.testing.assert_array_equal(run(before), expected)


def test_a_gemm_becomes_a_convolution_for_turing_has_no_fp32_gemms(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights, bias = random.normal(size=(5, 8)).astype(np.float32), random.normal(size=5).astype(np.float32)
    node = helper.make_node("Gemm", ["data", "weights", "bias"], ["answer"], "fc", transB=1)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "gemm",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 8])],
            [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 5])],
            [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "gemm.onnx")
    with pytest.raises(CannotRunHere, match="FP32 GEMM is not supported"):
        build(find_libraries(), tmp_path / "gemm.onnx", target_for("7.5"), _only(target_for("7.5")), silent)
    graph = Graph.load(tmp_path / "gemm.onnx")
    suit_turing(graph)
    graph.save(tmp_path / "pixel.onnx")
    import onnxruntime

    data = random.normal(size=(2, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "pixel.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"data": data})[0], data @ weights.T + bias, atol=1e-5)
    assert of_prepared(tmp_path / "pixel.onnx", target_for("7.5")) == {"fp32": 1.0}


def test_an_int8_engine_for_the_2080_ti_is_built_sealed_and_said_not_to_have_run(
    shared_bundle: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip("modelopt")
    bundle = link_bundle(shared_bundle, tmp_path)
    steps: list[Step] = []
    engine = compile_bundle(
        bundle, "rtx-2080ti", precision="int8", limits=Limits(max_drop=0.05), on_progress=steps.append
    )
    assert engine.verified_by == "graph"
    assert engine.verification.passed
    assert engine.precision_found["int8"] > 0.99
    assert engine.versions["tensorrt-rtx"] == find_libraries().trt.__version__
    assert engine == bundle.engine(engine.target)
    assert 100 in {step.done for step in steps if step.stage == "build"}
    assert engine.bytes < bundle.model.stat().st_size / 2


@pytest.mark.parametrize(
    ("capabilities", "precision", "said"),
    [
        (("7.5",), "bf16", "bf16 needs a GPU of compute capability 8.0 or higher; .* GPUs without it: 7.5"),
        (("8.6", "8.9"), "fp8", "fp8 needs a GPU of compute capability 8.9 or higher; .* GPUs without it: 8.6"),
        (("9.0",), "fp16", "Compute capability 9.0.* is not supported by TensorRT for RTX"),
    ],
)
def test_what_a_gpu_of_the_target_lacks_is_refused_before_anything_is_made(
    shared_bundle: Bundle, tmp_path: Path, capabilities: tuple[str, ...], precision: Precision, said: str
) -> None:
    bundle = link_bundle(shared_bundle, tmp_path)
    steps: list[Step] = []
    with pytest.raises(CannotRunHere, match=said) as caught:
        compile_bundle(bundle, target_for(*capabilities, precision=precision), on_progress=steps.append)
    assert caught.value.exit_code == 4
    assert caught.value.advice
    assert steps == []
    assert bundle.engine_folders() == []


def test_what_the_compiler_refuses_is_said_without_the_missing_drivers_noise(tmp_path: Path) -> None:
    """Bytes that go into a Reshape, as those of bundles did until 0.1.0."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["rows"], "input/reshape"),
        helper.make_node("Cast", ["rows"], ["answer"], "cast", to=TensorProto.FLOAT),
    ]
    values = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 2, 2, 3]),
        helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 12]),
    ]
    shape = numpy_helper.from_array(np.array([0, 12], np.int64), "shape")
    graph = helper.make_graph(nodes, "bytes", values[:1], values[1:], [shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(CannotRunHere, match="cannot take 1 of the nodes") as caught:
        build(find_libraries(), tmp_path / "m.onnx", ALL, lambda config: None, silent)
    assert "input/reshape (Reshape)" in str(caught.value)
    assert "UInt8" in str(caught.value)
    assert "cudaError" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "capability"),
    [
        ("RTX 2080 Ti", "7.5"),
        ("NVIDIA GeForce RTX 3090", "8.6"),
        ("NVIDIA RTX A4000", "8.6"),
        ("RTX 4000 Ada Generation", "8.9"),
        ("geforce rtx 5090 laptop gpu", "12.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("Tesla T4", "7.5"),
        ("NVIDIA GB10", "12.1"),
        ("NVIDIA H200", "9.0"),
        ("Tesla V100-SXM2", "7.0"),
        ("8.7", "8.7"),
    ],
)
def test_gpus_are_known_by_their_names(words: str, capability: str) -> None:
    assert find_gpu(words).compute_capability == capability


def test_an_unknown_gpu_is_a_usage_error_that_says_how_to_name_it() -> None:
    with pytest.raises(UsageError, match="There is no GPU 'Radeon'") as caught:
        find_gpu("Radeon")
    assert "compute_cap" in caught.value.advice
