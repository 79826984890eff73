"""Build and run, driven through success and every failure by doubles that answer with ONNX Runtime."""

import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundle import link_bundle
from tensorrt_double import Script, make_cudart, make_tensorrt

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.backends.tensorrt import TensorRT
from rrr_edge.backends.tensorrt.run import Libraries, TensorRTSession
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import CannotRunHere, CorruptArtifact, GateFailed, MissingLibrary, pip_install
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.doctor import examine
from rrr_edge.timing.progress import Step

TARGET = Target(name="tensorrt", backend="tensorrt", device="GPU", precision="fp32", max_batch=4)
NONE = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Machine:
    """A machine with TensorRT and a GPU, as its script says."""

    script: Script
    backend: TensorRT

    def compile(self, bundle: Bundle, out: Path, target: Target = TARGET) -> list[Step]:
        out.mkdir(parents=True)
        steps: list[Step] = []
        self.backend.compile(bundle.model, target, NONE, out, steps.append)
        return steps

    def asked(self, what: str) -> list[tuple[Any, ...]]:
        return self.script.did(what)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Makes the machine that the fields of Script describe."""

    def make(**fields: Any) -> Machine:
        script = Script(**fields)
        backend = TensorRT(lambda: Libraries(make_tensorrt(script), make_cudart(script)))
        monkeypatch.setitem(BACKENDS, "tensorrt", backend)
        return Machine(script, backend)

    return make


@pytest.fixture
def own(shared_bundle: Bundle, tmp_path: Path) -> Bundle:
    return link_bundle(shared_bundle, tmp_path)


@pytest.fixture
def engine_folder(own: Bundle) -> Path:
    return own.engine_folder(TARGET.engine_name)


def test_a_build_asks_what_the_target_says(machine: Callable[..., Machine], own: Bundle, engine_folder: Path) -> None:
    here = machine()
    target = TARGET.model_copy(update={"batch": 2, "optimization_level": 4, "workspace_mb": 256})
    here.compile(own, engine_folder, target)
    side = own.manifest.preprocess.image_size
    assert here.asked("set_shape") == [
        ("images", (1, side, side, 3), (2, side, side, 3), (4, side, side, 3)),
    ]
    assert here.asked("clear_flag") == [("TF32",)]
    assert here.asked("set_flag") == []
    assert here.asked("set_memory_pool_limit") == [("WORKSPACE", 256 * 1024**2)]
    assert here.asked("builder_optimization_level") == [(4,)]
    assert here.asked("profiling_verbosity")[0][0].name == "DETAILED"
    assert here.asked("hardware_compatibility_level")[0][0].name == "NONE"
    assert sorted(file.name for file in engine_folder.iterdir()) == ["model.engine", "products.json"]


def test_a_build_shows_how_far_it_is(machine: Callable[..., Machine], own: Bundle, engine_folder: Path) -> None:
    done = [step.done for step in machine().compile(own, engine_folder) if step.stage == "build"]
    assert done == sorted(done)
    assert {0, 5, 25, 50, 75, 100} <= set(done)


def test_timings_are_remembered_by_gpu_and_version(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    first, again, other = machine(), machine(), machine(version="11.5.0.1")
    for number, here in enumerate((first, again, other)):
        here.compile(own, engine_folder.with_name(f"engine-{number}"))
    assert first.asked("create_timing_cache") == [(b"",)]
    assert again.asked("create_timing_cache") == [(b"timed",)]
    assert other.asked("create_timing_cache") == [(b"",)]
    names = sorted(file.name for file in (own.path / "engines" / ".timings").iterdir())
    assert names == [f"NVIDIA-GeForce-RTX-4090-8.9-tensorrt-{v}.bin" for v in ("11.4.0.106", "11.5.0.1")]
    assert own.engine_names() == []


def test_timings_that_tensorrt_refuses_are_made_anew(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    here = machine()
    here.compile(own, engine_folder)
    (cache,) = (own.path / "engines" / ".timings").iterdir()
    cache.write_bytes(b"of another machine")
    here.compile(own, engine_folder.with_name("again"))
    assert cache.read_bytes() == b"timed"


def test_all_that_the_parser_refuses_is_told_with_the_nodes_names(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    errors = (("conv4/a", "Conv", "group must divide"), ("", "Range", "dynamic output"))
    with pytest.raises(CannotRunHere, match="cannot take 2 of the nodes") as caught:
        machine(parser_errors=errors).compile(own, engine_folder)
    assert "conv4/a (Conv): group must divide; node 7 (Range): dynamic output." in str(caught.value)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Cuda failure: out of memory.", "workspace_mb"),
        ("Could not find any implementation for node conv1.", "versions"),
    ],
)
def test_a_build_that_gives_nothing_tells_the_error_and_not_the_warning(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path, said: str, advice: str
) -> None:
    with pytest.raises(CannotRunHere, match="built no engine") as caught:
        machine(build_fails=said).compile(own, engine_folder)
    assert said.rstrip(".") in str(caught.value)
    assert "warning" not in str(caught.value)
    assert advice in caught.value.advice


def test_an_interruption_stops_the_build_and_passes_around_tensorrt(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    here = machine()
    engine_folder.mkdir(parents=True)

    def impatient(step: Step) -> None:
        if step.done >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.backend.compile(own.model, TARGET, NONE, engine_folder, impatient)
    assert not (engine_folder / "model.engine").exists()


def test_ctrl_c_in_the_middle_of_tensorrt_stops_the_build(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    """Python acts on it where TensorRT calls it, and nothing that is raised there comes back."""
    steps = iter(range(100))

    def press_once() -> None:
        if next(steps) == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        machine(on_step=press_once).compile(own, engine_folder)
    assert next(steps) == 4, "the build went on"
    assert signal.getsignal(signal.SIGINT) is before
    assert not (engine_folder / "model.engine").exists()


def test_the_whole_way_to_a_proven_engine_and_back(machine: Callable[..., Machine], own: Bundle) -> None:
    pytest.importorskip("modelopt")
    here = machine(precision="Half")
    target = TARGET.model_copy(update={"precision": "fp16"})
    engine = compile_bundle(own, target)
    assert engine.verification.passed
    assert engine.precision_found["fp16"] > 0.99
    assert engine.versions["tensorrt"] == "11.4.0.106"
    assert engine.versions["gpu"] == "NVIDIA GeForce RTX 4090"
    assert {"compute capability", "cuda driver", "os"} <= set(engine.versions)
    assert (own.engine_folder(engine.name) / "prepared.onnx").is_file()
    with Classifier.open(own.path, target) as classifier:
        answer = classifier.predict(own.reference.images[0])
    np.testing.assert_allclose(answer.probabilities, own.reference.probabilities[0], atol=0.01)
    assert [finding.verdict for finding in examine(own.path)] == ["load", "load"]
    assert here.script.live == {}


def test_another_precision_than_was_asked_is_refused_and_nothing_is_kept(
    machine: Callable[..., Machine], own: Bundle
) -> None:
    machine(precision="Half")
    with pytest.raises(GateFailed, match="fp32 was asked, but the engine computes 100% fp16") as caught:
        compile_bundle(own, TARGET)
    assert caught.value.exit_code == 3
    assert own.engine_names() == []


@pytest.fixture
def open_session(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> Callable[..., tuple[Machine, TensorRTSession]]:
    """Compiles on one machine and opens on another, whose script is described."""

    def start(*, target: Target = TARGET, **fields: Any) -> tuple[Machine, TensorRTSession]:
        machine().compile(own, engine_folder, target)
        here = machine(**fields)
        return here, here.backend.open(engine_folder, target)

    return start


OpenSession = Callable[..., tuple[Machine, TensorRTSession]]


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_it_answers_any_number_of_images_as_the_graph_does(open_session: OpenSession, own: Bundle, count: int) -> None:
    here, session = open_session()
    images = np.resize(own.reference.images, (count, *own.reference.images.shape[1:]))
    expected = run_model(own.model, images)
    for ours, theirs in zip(session.run(images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    session.close()
    session.close()
    assert here.script.live == {}, "memory or a stream was not given back"


def test_there_is_one_graph_and_one_context_for_each_number_of_images(open_session: OpenSession, own: Bundle) -> None:
    here, session = open_session()
    images = own.reference.images
    for count in (1, 1, 4, 1, 3, 4):
        session.run(images[:count])
    assert here.script.captured == 3
    assert len(here.asked("create_execution_context")) == 3
    # One upload, the engine, two downloads.
    assert here.asked("cudaGraphLaunch") == [(4,)] * 6
    assert session.device_ms == 1.5


def test_an_older_answer_may_be_overwritten_but_never_mixed(open_session: OpenSession, own: Bundle) -> None:
    _, session = open_session()
    images = own.reference.images
    first = session.run(images[:1]).probabilities.copy()
    session.run(images[5:6])
    np.testing.assert_array_equal(session.run(images[:1]).probabilities, first)


def test_a_clocked_session_tells_what_each_layer_takes(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    here = machine()
    here.compile(own, engine_folder)
    session = here.backend.open_profiled(engine_folder, TARGET)
    for _ in range(3):
        session.run(own.reference.images[:1])
    layers = session.layers()
    assert here.script.captured == 0
    assert {layer.ms for layer in layers} == {0.25}
    assert sum(layer.macs for layer in layers) == own.manifest.cost.macs
    assert {layer.part for layer in layers if layer.macs} == {"stump", "conv4", "conv5", "heads"}
    assert {layer.precision for layer in layers} == {"fp32"}


def test_an_engine_that_tensorrt_does_not_load_tells_the_cause_and_the_repair(
    open_session: OpenSession, own: Bundle
) -> None:
    with pytest.raises(CannotRunHere, match="cannot load .*model.engine: the plan is of another version") as caught:
        open_session(load_fails="the plan is of another version.")
    assert caught.value.advice == f"Run: rrr-edge compile {own.path} --target tensorrt --precision fp32"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"gpu": ("NVIDIA GeForce RTX 4080", 8, 9)}, "gpu NVIDIA GeForce RTX 4090 (here NVIDIA GeForce RTX 4080)"),
        ({"gpu": ("NVIDIA GeForce RTX 4090", 9, 0)}, "compute capability 8.9 (here 9.0)"),
        ({"version": "11.5.0.1"}, "tensorrt 11.4.0.106 (here 11.5.0.1)"),
        ({"driver": 13010}, "cuda driver 13.2 (here 13.1)"),
    ],
)
def test_another_machines_engine_is_refused_before_it_is_loaded(
    machine: Callable[..., Machine], own: Bundle, fields: dict[str, Any], told: str
) -> None:
    machine()
    compile_bundle(own, TARGET)
    other = machine(**fields)
    with pytest.raises(CannotRunHere, match="was built for another machine") as caught:
        Classifier.open(own.path, TARGET)
    assert told in str(caught.value)
    assert caught.value.advice == f"Run: rrr-edge compile {own.path} --target tensorrt --precision fp32"
    assert other.asked("deserialize_cuda_engine") == []
    finding = examine(own.path)[-1]
    assert (finding.verdict, finding.exit_code) == ("rebuild", 4)
    assert told in finding.why


def test_another_systems_engine_is_refused(machine: Callable[..., Machine], own: Bundle) -> None:
    here = machine()
    engine = compile_bundle(own, TARGET)
    theirs = engine.model_copy(update={"versions": {**engine.versions, "os": "Windows AMD64"}})
    with pytest.raises(CannotRunHere, match="os Windows AMD64"):
        here.backend.require_fit(theirs, repair="")
    with pytest.raises(CannotRunHere, match="os unknown"):
        here.backend.require_fit(engine.model_copy(update={"versions": {}}), repair="")


AMPERE, ADA, TURING = ("RTX 3090", 8, 6), ("RTX 4090", 8, 9), ("RTX 2080 Ti", 7, 5)


@pytest.mark.parametrize(
    ("portability", "built", "here", "fits"),
    [
        ("same-cc", ADA, ("RTX 4080", 8, 9), True),
        ("same-cc", ADA, AMPERE, False),
        ("ampere+", AMPERE, ADA, True),
        ("ampere+", AMPERE, TURING, False),
        ("version", ADA, ADA, True),
        ("version", ADA, AMPERE, False),
    ],
)
def test_a_portable_engine_goes_as_far_as_was_asked(
    machine: Callable[..., Machine], own: Bundle, portability: str, built: Any, here: Any, fits: bool
) -> None:
    machine(gpu=built)
    target = TARGET.model_copy(update={"portability": portability})
    engine = compile_bundle(own, target)
    later = {"version": "11.9.0.1"} if portability == "version" else {}
    other = machine(gpu=here, **later).backend
    if fits:
        other.require_fit(engine, repair="")
    else:
        with pytest.raises(CannotRunHere):
            other.require_fit(engine, repair="")


@pytest.mark.parametrize(
    ("portability", "level", "flags"),
    [
        ("none", "NONE", []),
        ("same-cc", "SAME_COMPUTE_CAPABILITY", []),
        ("ampere+", "AMPERE_PLUS", []),
        ("version", "NONE", [("VERSION_COMPATIBLE",)]),
    ],
)
def test_portability_is_asked_of_the_builder_and_read_back(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path, portability: str, level: str, flags: Any
) -> None:
    target = TARGET.model_copy(update={"portability": portability})
    here = machine()
    here.compile(own, engine_folder, target)
    assert here.asked("set_flag") == flags
    here.backend.open(engine_folder, target).close()
    (code_allowed,) = here.asked("engine_host_code_allowed")
    assert code_allowed == (portability == "version",)
    for other in {"none", "same-cc", "ampere+"} - ({"none"} if level == "NONE" else {portability}):
        asked = TARGET.model_copy(update={"portability": other})
        with pytest.raises(
            CannotRunHere, match=f"hardware compatibility {level}, but portability '{re.escape(other)}'"
        ):
            here.backend.open(engine_folder, asked)


def test_a_bundle_cannot_ask_for_its_engines_code_to_run(machine: Callable[..., Machine], own: Bundle) -> None:
    here = machine()
    compile_bundle(own, TARGET.model_copy(update={"portability": "version"}))
    here.script.asked.clear()
    Classifier.open(own.path, TARGET).close()
    assert here.asked("engine_host_code_allowed") == [(False,)]


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc"])
def test_no_memory_is_said_and_what_was_taken_is_given_back(open_session: OpenSession, call: str) -> None:
    live: dict[int, Any] = {}
    with pytest.raises(CannotRunHere, match="cudaErrorMemoryAllocation") as caught:
        open_session(cuda_fails={call: "cudaErrorMemoryAllocation"}, live=live)
    assert "nvidia-smi" in caught.value.advice
    assert live == {}


def test_a_shape_outside_the_profile_is_said(open_session: OpenSession, own: Bundle) -> None:
    _, session = open_session()
    with pytest.raises(CannotRunHere, match="takes no 0 images"):
        session.run(own.reference.images[:0])
    session.close()


def test_no_room_for_the_engine_is_said(open_session: OpenSession) -> None:
    with pytest.raises(CannotRunHere, match="cannot make room to run"):
        open_session(context_fails="Requested amount of GPU memory could not be allocated.")


def test_what_is_no_engine_of_a_bundle_is_corrupt(
    machine: Callable[..., Machine], own: Bundle, engine_folder: Path
) -> None:
    import onnx

    here = machine()
    here.compile(own, engine_folder)
    plan = engine_folder / "model.engine"
    head, _, body = plan.read_bytes().partition(b"\n")
    graph = onnx.load_from_string(body)
    del graph.graph.output[1]
    plan.write_bytes(head + b"\n" + graph.SerializeToString())
    with pytest.raises(CorruptArtifact, match="no graph of a bundle: it takes images and gives probabilities"):
        here.backend.open(engine_folder, TARGET)


@pytest.mark.parametrize(
    ("fields", "update", "told"),
    [
        ({"version": "10.16.1"}, {}, "needs TensorRT 11 or newer; this is 10.16.1"),
        ({}, {"device": "CPU"}, "runs on device 'GPU'"),
        ({}, {"gpu": "RTX 2080 Ti"}, "is a 'RTX 2080 Ti' GPU; this machine has NVIDIA GeForce RTX 4090"),
        ({"gpu": ("NVIDIA GeForce RTX 2080 Ti", 7, 5)}, {"precision": "bf16"}, "needs compute capability 8.0 for bf16"),
        ({"cuda_fails": {"cudaGetDeviceCount": "cudaErrorNoDevice"}}, {}, "cudaErrorNoDevice"),
    ],
)
def test_what_cannot_run_here_is_said_before_anything_is_made(
    machine: Callable[..., Machine], fields: dict[str, Any], update: dict[str, Any], told: str
) -> None:
    with pytest.raises(CannotRunHere) as caught:
        machine(**fields).backend.check(TARGET.model_copy(update=update))
    assert told in str(caught.value)


def test_bindings_that_cannot_load_their_libraries_are_missing_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("import ctypes; ctypes.CDLL('libnvinfer.so.none')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingLibrary, match="needs TensorRT"):
        TensorRT().check(TARGET)


def test_what_is_missing_is_one_line_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingLibrary) as caught:
        TensorRT().check(TARGET)
    assert str(caught.value) == "The tensorrt backend needs TensorRT, which is not installed."
    assert caught.value.advice == pip_install("tensorrt")
    assert caught.value.exit_code == 6


def test_cudas_own_bindings_say_that_there_is_no_driver() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    status, _ = runtime.cudaGetDeviceCount()
    if not status.value:
        pytest.skip("there is a GPU")
    with pytest.raises(CannotRunHere, match=f"CUDA failed: {status.name}") as caught:
        TensorRT(lambda: Libraries(make_tensorrt(Script()), runtime)).check(TARGET)
    assert caught.value.advice
