import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rrr_edge.backends.onnxruntime import ONNXRuntime, run_model
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, MissingLibrary, pip_install
from rrr_edge.timing.progress import silent

TARGET = Target(name="onnxruntime", backend="onnxruntime", threads=1)
FP32_LIMIT = 1e-4  # what is promised of any two FP32 engines


def test_it_answers_like_torch_on_all_reference_images(compiled: Bundle) -> None:
    reference = compiled.reference
    found = run_model(compiled.model, reference.images)
    assert np.abs(found.probabilities - reference.probabilities).max() < FP32_LIMIT
    assert np.abs(found.branch_probabilities - reference.branch_probabilities).max() < FP32_LIMIT


@pytest.mark.parametrize("count", [1, 3, 33])
def test_any_number_of_images_is_answered(compiled: Bundle, count: int) -> None:
    images = np.tile(compiled.reference.images, (2, 1, 1, 1))[:count]
    one_by_one = [run_model(compiled.model, image[None]).probabilities[0] for image in images]
    assert np.allclose(run_model(compiled.model, images).probabilities, one_by_one, rtol=0, atol=FP32_LIMIT)


def test_the_engine_is_the_graph_itself(compiled: Bundle, tmp_path: Path) -> None:
    ONNXRuntime().compile(compiled.model, TARGET, compiled.calibration[:0], tmp_path, silent)
    assert (tmp_path / "model.onnx").read_bytes() == compiled.model.read_bytes()


@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16")])
def test_the_precision_is_read_from_the_graph(tmp_path: Path, kind: int, precision: str) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 2])
    names = ("probabilities", "branch_probabilities")
    answers = [helper.make_tensor_value_info(name, kind, [1, 2]) for name in names]
    nodes = [helper.make_node("Cast", ["images"], [name], to=kind) for name in names]
    graph = helper.make_graph(nodes, "g", [images], answers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    assert ONNXRuntime().open(tmp_path, TARGET).precision_found() == {precision: 1.0}


@pytest.mark.parametrize(("threads", "expected"), [(3, 3), (0, 5)])
def test_threads_are_passed_and_zero_is_all_usable_cores(
    compiled: Bundle, monkeypatch: pytest.MonkeyPatch, threads: int, expected: int
) -> None:
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 5)
    session = ONNXRuntime().open(
        compiled.engine_folder("onnxruntime-fp32"), TARGET.model_copy(update={"threads": threads})
    )
    options = session._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (expected, 1)


@pytest.mark.parametrize(("change", "said"), [({"precision": "int8"}, "runs fp32; int8"), ({"device": "GPU"}, "'GPU'")])
def test_what_it_cannot_do_it_refuses(change: dict[str, str], said: str) -> None:
    with pytest.raises(CannotRunHere, match=said):
        ONNXRuntime().check(TARGET.model_copy(update=change))
    ONNXRuntime().check(TARGET)


def test_a_file_that_is_no_graph_is_a_corrupt_artifact(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(CorruptArtifact, match="cannot load"):
        ONNXRuntime().open(tmp_path, TARGET)


def test_where_it_is_missing_the_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibrary, match="needs onnxruntime, which is not installed") as caught:
        ONNXRuntime().check(TARGET)
    assert caught.value.exit_code == 6
    assert caught.value.advice == pip_install("onnxruntime")
