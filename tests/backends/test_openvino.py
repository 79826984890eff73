import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_bundle import write_target

import rrr_edge.backends.openvino as backend_module
from rrr_edge.backends import BACKENDS, Session
from rrr_edge.backends.cache import cache_folder
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.backends.openvino import OpenVINO
from rrr_edge.backends.openvino.library import load_nncf, load_openvino
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, MissingLibrary, pip_install
from rrr_edge.timing.progress import Step, silent

TARGET = Target(name="openvino", backend="openvino", threads=1)


@pytest.fixture
def session(compiled: Bundle) -> Iterator[Session]:
    session = OpenVINO().open(compiled.engine_folder("openvino-fp32"), TARGET)
    yield session
    session.close()


def by_onnx_runtime(bundle: Bundle, images: np.ndarray) -> Outputs:
    return run_model(bundle.model, images)


def assert_same(found: Outputs, expected: Outputs) -> None:
    """Within what is promised of any two FP32 engines."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_is_answered_as_onnx_runtime_does(session: Session, compiled: Bundle, count: int) -> None:
    images = compiled.reference.images[:count]
    assert_same(session.run(images), by_onnx_runtime(compiled, images))


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_an_engine_of_four_answers_more_and_fewer(compiled: Bundle, tmp_path: Path, count: int) -> None:
    target = Target.load(write_target(tmp_path, batch=4, threads=1))
    backend = OpenVINO()
    backend.compile(compiled.model, target, compiled.calibration[:0], tmp_path, silent)
    session = backend.open(tmp_path, target)
    images = compiled.reference.images[:count]
    assert_same(session.run(images), by_onnx_runtime(compiled, images))
    session.close()


def test_a_view_of_a_larger_frame_gives_the_same_bits(session: Session) -> None:
    """Its copy in one piece must live until the inference is over."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        view = rng.integers(0, 256, (1, 32, 60, 3), dtype=np.uint8)[:, :, 14:46]
        expected = [part.copy() for part in session.run(np.ascontiguousarray(view))]
        assert all(np.array_equal(a, b) for a, b in zip(session.run(view), expected, strict=True))


def kind_of(layer: Any) -> str:
    return str(layer.get_rt_info()["layerType"].astype(str))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_pass_over_the_pixels_moves_the_channels(compiled: Bundle, precision: str) -> None:
    target = TARGET.model_copy(update={"precision": precision})
    session = OpenVINO().open_profiled(compiled.engine_folder(target.engine_name), target)
    session.run(compiled.reference.images[:1])
    executed = {i.node_name for i in session._open.request.get_profiling_info() if i.status == i.EXECUTED}
    layer = next(
        op for op in session._open.compiled.get_runtime_model().get_ordered_ops() if kind_of(op) == "Convolution"
    )
    kinds = []
    while kind_of(layer) != "Input":
        layer = layer.input_value(0).get_node()
        kinds += [kind_of(layer)] if layer.get_friendly_name() in executed else []
    session.close()
    assert "Subgraph" in kinds, "the arithmetic"
    assert not {"Transpose", "Reorder"} & set(kinds)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_picks_pixels_before_its_strided_skips(compiled: Bundle, precision: str) -> None:
    """At 32x32 all three have rows of few pixels, and conv5_x has a single one, of which no mean is left."""
    folder = compiled.engine_folder(TARGET.model_copy(update={"precision": precision}).engine_name)
    layers = load_openvino().Core().read_model(folder / "model.xml").get_ops()
    picking = [layer.get_friendly_name() for layer in layers if layer.get_friendly_name().endswith("/pick")]
    assert sorted(name.partition("/")[0] for name in picking) == ["conv4", "conv5", "stump"]
    assert not [layer for layer in layers if layer.get_type_name() == "ReduceMean" and len(layer.shape) == 4]


def test_int8_covers_the_grouped_kernels_of_the_branches(compiled: Bundle) -> None:
    """NNCF gives kernels that are still a Reshape a scale per column, and OpenVINO computes those in fp32."""
    assert compiled.manifest.spec.branches > 1
    session = OpenVINO().open(compiled.engine_folder("openvino-int8"), TARGET.model_copy(update={"precision": "int8"}))
    found = session.precision_found()
    session.close()
    assert sum(found.values()) == pytest.approx(1)
    assert found["int8"] >= 0.99


def test_a_read_only_frame_is_answered(session: Session, compiled: Bundle) -> None:
    frame = compiled.reference.images[:1].copy()
    expected = session.run(frame).probabilities.copy()
    frame.flags.writeable = False
    np.testing.assert_array_equal(session.run(frame).probabilities, expected)


def test_int8_leaves_the_vote_in_full_precision(compiled: Bundle) -> None:
    """In 8 bits the sure answers would all be 255/256."""
    target = Target.load("openvino")
    session = OpenVINO().open(compiled.engine_folder(target.engine_name), target)
    probabilities, branch_probabilities = session.run(compiled.reference.images)
    np.testing.assert_allclose(probabilities, branch_probabilities.mean(1), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    session.close()


def test_calibration_reports_its_images(compiled: Bundle, tmp_path: Path) -> None:
    steps: list[Step] = []
    target = TARGET.model_copy(update={"precision": "int8"})
    OpenVINO().compile(compiled.model, target, compiled.calibration[:3], tmp_path, steps.append)
    assert {step.stage for step in steps} == {"calibrate"}
    assert steps[-1].done == steps[-1].total == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_stream_and_precision_are_set_and_never_left_to_openvino(
    compiled: Bundle, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 2)
    target = TARGET.model_copy(update={"threads": threads if threads == 1 else 0})
    session = OpenVINO().open(compiled.engine_folder("openvino-fp32"), target)
    compiled_model = session._open.compiled
    assert compiled_model.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled_model.get_property("NUM_STREAMS") == 1
    # Pinned, two sessions of one thread each would share a core, and a thread waits for what else runs on its own.
    assert not compiled_model.get_property("ENABLE_CPU_PINNING")
    assert compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    session.close()


class OldCPU:
    """OpenVINO's Core on a machine without bf16 and without a GPU."""

    available_devices = ("CPU",)

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8", "BIN"]


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "load_openvino", lambda: SimpleNamespace(Core=OldCPU))


@pytest.mark.usefixtures("old_cpu")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_cpu_without_the_arithmetic_is_refused_with_what_it_has(precision: str) -> None:
    with pytest.raises(CannotRunHere, match=f"no {precision} arithmetic") as caught:
        OpenVINO().check(TARGET.model_copy(update={"precision": precision}))
    assert caught.value.exit_code == 4
    assert "fp32, int8" in caught.value.advice
    OpenVINO().check(TARGET)


@pytest.mark.usefixtures("old_cpu")
def test_an_absent_device_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(CannotRunHere, match="no device 'GPU' here; it sees CPU"):
        OpenVINO().check(TARGET.model_copy(update={"device": "GPU"}))


def test_the_same_capability_list_comes_from_the_real_core() -> None:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert {"FP32", "INT8"} <= set(able)
    check = BACKENDS["openvino"].check
    if "BF16" in able:
        check(TARGET.model_copy(update={"precision": "bf16"}))
    else:
        with pytest.raises(CannotRunHere):
            check(TARGET.model_copy(update={"precision": "bf16"}))


def test_a_graph_that_is_none_is_a_corrupt_artifact(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(CorruptArtifact, match=r"OpenVINO .* cannot load .*model\.xml"):
        OpenVINO().open(tmp_path, TARGET)


def test_the_cache_is_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("openvino") == tmp_path / "rrr-edge" / "openvino"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("openvino") == tmp_path / "home" / ".cache" / "rrr-edge" / "openvino"


def test_the_compiled_model_is_cached_there(compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    OpenVINO().open(compiled.engine_folder("openvino-int8"), TARGET.model_copy(update={"precision": "int8"})).close()
    assert {file.suffix for file in (tmp_path / "rrr-edge" / "openvino").glob("*/*")} == {".blob", ".sha256"}


def test_other_weights_under_the_same_name_never_answer_from_the_cache(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's own cache looks at the path, the size and the time of model.xml alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled.engine_folder("openvino-fp32")
    shutil.copy2(folder / "model.xml", tmp_path)
    weights = np.fromfile(folder / "model.bin", np.float32)

    def answer() -> np.ndarray:
        session = OpenVINO().open(tmp_path, TARGET)
        found = session.run(compiled.reference.images[:1]).probabilities.copy()
        session.close()
        return found

    weights.tofile(tmp_path / "model.bin")
    first = answer()
    assert np.array_equal(answer(), first)
    # Shapes are stored there too; as floats they are next to nothing.
    np.where(np.abs(weights) > 1e-6, weights / 2, weights).tofile(tmp_path / "model.bin")
    cache = tmp_path / "rrr-edge" / "openvino"
    assert not np.array_equal(answer(), first)
    assert len(list(cache.glob("*/*.blob"))) == 2


def test_the_cache_forgets_its_oldest(compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("rrr_edge.backends.cache._KEPT", 2)
    cache = tmp_path / "rrr-edge" / "openvino"
    for age in (2, 3, 1):
        blob = cache / str(age) / "x.blob"
        blob.parent.mkdir(parents=True)
        blob.touch()
        os.utime(blob, (1000 - age, 1000 - age))
    OpenVINO().open(compiled.engine_folder("openvino-fp32"), TARGET).close()
    assert len(list(cache.iterdir())) == 2
    assert (cache / "1" / "x.blob").exists()


def test_an_engine_runs_without_a_cache_where_none_can_be_written(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder("openvino") is None
    session = OpenVINO().open(compiled.engine_folder("openvino-fp32"), TARGET)
    assert session.run(compiled.reference.images[:1]).probabilities.shape == (1, 3)
    session.close()


def test_intels_telemetry_is_never_loaded(compiled: Bundle) -> None:
    """The package is installed here, and would be found by whoever imports OpenVINO or NNCF before us."""
    code = (
        "import sys, importlib.util; assert importlib.util.find_spec('openvino_telemetry')\n"
        "from pathlib import Path; from rrr_edge.backends import BACKENDS; from rrr_edge.bundle.target import Target\n"
        "assert 'openvino' not in sys.modules\n"
        "session = BACKENDS['openvino'].open(Path(sys.argv[1]), Target(name='t', backend='openvino'))\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "import nncf; from nncf.telemetry import telemetry; from unittest.mock import MagicMock\n"
        "assert isinstance(telemetry, MagicMock), type(telemetry)\n"
        "loaded = [n for n in sys.modules if n.split('.')[0] == 'openvino_telemetry']\n"
        "assert loaded == ['openvino_telemetry'], loaded\n"
    )
    folder = compiled.engine_folder("openvino-fp32")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_nncf_int8_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingLibrary, match="INT8 for OpenVINO needs nncf") as caught:
        load_nncf()
    assert caught.value.advice == pip_install("quantize")


def test_nncf_brings_no_warning_of_a_cuda_that_is_not_there(tmp_path: Path) -> None:
    """torch warns when NNCF loads it on a machine with CUDA's compiler, but without its runtime."""
    code = "from rrr_edge.backends.openvino.library import load_nncf; load_nncf(); import nncf.torch"
    env = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_a_sentence(compiled: Bundle, small_disk: Path) -> None:
    with pytest.raises(CannotRunHere, match=r"cannot write .*model\.xml") as caught:
        OpenVINO().compile(compiled.model, TARGET, compiled.calibration[:0], small_disk, silent)
    assert "room" in caught.value.advice
