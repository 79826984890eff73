"""TensorRT for RTX's engines on a machine with a GPU, by doubles that answer with ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rtx_double import KERNELS, make_tensorrt_rtx
from small_bundle import flip_a_byte, link_bundle
from tensorrt_double import Script, make_cudart

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.cache import cache_folder
from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.backends.tensorrt_rtx import TensorRTRTX
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.folder import VERIFIED, Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import CannotRunHere, CorruptArtifact, GateFailed
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.doctor import examine
from rrr_edge.runtime.verify import verify_engine
from rrr_edge.timing.progress import Step

TARGET = Target(name="tensorrt-rtx", backend="tensorrt-rtx", device="GPU", precision="fp32", max_batch=4)
NO_DRIVER = {"cudaGetDeviceCount": "cudaErrorInsufficientDriver"}
Machine = Callable[..., Script]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Makes this machine the one that the fields of Script describe; without a driver unless a GPU is given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(**fields: Any) -> Script:
        script = Script(**{"version": "1.7.1.116", **({} if "gpu" in fields else {"cuda_fails": NO_DRIVER}), **fields})
        libraries = Libraries(make_tensorrt_rtx(script), make_cudart(script), "TensorRT for RTX")
        monkeypatch.setitem(BACKENDS, "tensorrt-rtx", TensorRTRTX(lambda: libraries))
        return script

    return make


ADA, TURING, HOPPER = ("NVIDIA GeForce RTX 4090", 8, 9), ("NVIDIA GeForce RTX 2080 Ti", 7, 5), ("NVIDIA H100", 9, 0)


@pytest.fixture
def own(shared_bundle: Bundle, tmp_path: Path) -> Bundle:
    return link_bundle(shared_bundle, tmp_path)


@pytest.fixture
def built(machine: Machine, own: Bundle) -> Engine:
    """Built on a machine without a GPU, which `own` then holds."""
    machine()
    return compile_bundle(own, TARGET)


def test_an_engine_is_built_without_a_gpu_and_its_card_says_what_is_proven(own: Bundle, built: Engine) -> None:
    assert (built.verified_by, built.verification.passed) == ("graph", True)
    assert built.precision_found == {"fp32": 1.0}
    assert built.versions["tensorrt-rtx"] == "1.7.1.116"
    assert "gpu" not in built.versions
    assert {file.name for file in built.files} == {"model.engine", "products.json", "layers.txt"}


def test_the_builder_is_told_the_gpus_and_that_a_cuda_graph_will_hold_it(machine: Machine, own: Bundle) -> None:
    script = machine()
    compile_bundle(own, TARGET.model_copy(update={"compute_capabilities": ("7.5", "12.0")}))
    assert script.did("set_compute_capability") == [("SM75", 0), ("SM120", 1)]
    assert script.did("num_compute_capabilities") == [(2,)]
    assert script.did("set_flag") == [("REQUIRE_USER_ALLOCATION",)]
    assert script.did("clear_flag") == [("TF32",)]
    assert script.did("create_timing_cache") == []


def test_layers_that_the_builder_lists_in_another_type_are_refused(machine: Machine, own: Bundle) -> None:
    machine(precision="Half")
    with pytest.raises(GateFailed, match="fp32 was asked, but the engine computes 100% fp16 of its MACs"):
        compile_bundle(own, TARGET)
    assert own.engine_names() == []


def test_without_a_driver_it_is_refused_before_it_is_loaded(machine: Machine, own: Bundle, built: Engine) -> None:
    script = machine()
    with pytest.raises(CannotRunHere, match="no NVIDIA driver") as caught:
        Classifier.open(own.path, TARGET)
    assert caught.value.exit_code == 4
    assert "NVIDIA driver" in caught.value.advice
    assert script.did("deserialize_cuda_engine") == []
    finding = examine(own.path)[-1]
    assert (finding.verdict, finding.exit_code) == ("refuse", 4)


def test_it_is_verified_where_it_is_opened_for_the_first_time_and_not_again(
    machine: Machine, own: Bundle, built: Engine
) -> None:
    machine(gpu=ADA)
    steps: list[Step] = []
    images = own.reference.images
    with Classifier.open(own.path, TARGET, on_progress=steps.append) as classifier:
        answer = classifier.predict(images[0])
    np.testing.assert_allclose(answer.probabilities, own.reference.probabilities[0], atol=1e-4)
    assert [step.note for step in steps if step.stage == "load"] == ["compiling kernels for this GPU"] * 2
    assert steps[-1] == Step("verify", len(images), len(images))
    record = own.verified(built)
    assert record is not None
    assert record.verification.passed
    assert record.versions["gpu"] == ADA[0]
    assert [finding.why for finding in examine(own.path)] == ["", ""]
    steps.clear()
    Classifier.open(own.path, TARGET, on_progress=steps.append).close()
    assert steps == []
    machine(gpu=ADA, driver=13040)  # another driver compiles other kernels
    Classifier.open(own.path, TARGET, on_progress=steps.append).close()
    assert {step.stage for step in steps} == {"load", "verify"}


def test_who_does_not_want_it_verified_says_so(machine: Machine, own: Bundle, built: Engine) -> None:
    machine(gpu=ADA)
    Classifier.open(own.path, TARGET, verify=False).close()
    assert own.verified(built) is None
    finding = examine(own.path)[-1]
    assert (finding.verdict, finding.exit_code) == ("load", 0)
    assert "not been verified" in finding.why
    assert finding.repair == f"rrr-edge verify {own.path} --target tensorrt-rtx --precision fp32"


def test_kernels_are_kept_for_gpu_driver_and_engine(machine: Machine, own: Bundle, built: Engine) -> None:
    first = machine(gpu=ADA)
    Classifier.open(own.path, TARGET).close()
    assert first.did("compiled") == [()]
    again = machine(gpu=ADA)
    Classifier.open(own.path, TARGET).close()
    assert again.did("compiled") == []
    assert again.did("deserialize") == [(KERNELS + f"{ADA[0]} 13020".encode(),)]
    other = machine(gpu=TURING)
    Classifier.open(own.path, TARGET).close()
    assert other.did("compiled") == [()]
    place = cache_folder("tensorrt-rtx")
    assert place is not None
    assert len(list(place.glob("*.bin"))) == 2


def test_kernels_that_are_refused_are_compiled_anew(machine: Machine, own: Bundle, built: Engine) -> None:
    machine(gpu=ADA)
    Classifier.open(own.path, TARGET).close()
    place = cache_folder("tensorrt-rtx")
    assert place is not None
    (kept,) = place.glob("*.bin")
    kept.write_bytes(b"of a time before")
    again = machine(gpu=ADA)
    with Classifier.open(own.path, TARGET) as classifier:
        classifier.predict(own.reference.images[0])
    assert again.did("compiled") == [()]
    assert again.did("deserialize") == []  # what is not as it was kept is not loaded
    assert kept.read_bytes().startswith(KERNELS)


def test_any_number_of_images_and_one_cuda_graph_for_each(machine: Machine, own: Bundle, built: Engine) -> None:
    script = machine(gpu=ADA)
    session = BACKENDS["tensorrt-rtx"].open(own.engine_folder(built.name), TARGET)
    images = own.reference.images
    for count in (1, 3, 1, 7):
        found = session.run(np.resize(images, (count, *images.shape[1:]))).probabilities
        np.testing.assert_allclose(found[0], own.reference.probabilities[0], atol=1e-4)
    assert script.captured == 3
    session.close()
    assert script.live == {}


def test_an_engine_that_answers_otherwise_on_the_device_is_refused_and_that_is_stored(
    machine: Machine, own: Bundle, built: Engine
) -> None:
    machine(gpu=ADA)
    reference = own.reference
    object.__setattr__(reference, "probabilities", reference.probabilities[:, ::-1].copy())
    for _ in range(2):  # what failed is tried again
        with pytest.raises(GateFailed, match="does not answer like the network on this device") as caught:
            verify_engine(own, TARGET)
        assert caught.value.exit_code == 3
    record = own.verified(built)
    assert record is not None
    assert not record.verification.passed
    assert "not been verified" in examine(own.path)[-1].why


def test_a_record_that_was_changed_is_corrupt_and_one_of_an_older_engine_does_not_count(
    machine: Machine, own: Bundle, built: Engine
) -> None:
    machine(gpu=ADA)
    verify_engine(own, TARGET)
    file = own.engine_folder(built.name) / VERIFIED
    whole = file.read_text()
    file.write_text(whole.replace("RTX 4090", "RTX 4091"))
    with pytest.raises(CorruptArtifact, match="seal"):
        own.verified(built)
    file.write_text(whole)
    card = file.with_name("engine.json")
    card.write_text(card.read_text() + " ")
    assert own.verified(built) is None


def test_a_flipped_byte_is_found_before_it_is_loaded(machine: Machine, own: Bundle, built: Engine) -> None:
    script = machine(gpu=ADA)
    flip_a_byte(own.engine_folder(built.name) / "model.engine")
    with pytest.raises(CorruptArtifact, match="model.engine has changed"):
        Classifier.open(own.path, TARGET)
    assert script.did("deserialize_cuda_engine") == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"gpu": ADA, "version": "1.8.0.5"}, "built by TensorRT for RTX 1.7.1.116; this machine has 1.8.0.5"),
        ({"gpu": HOPPER}, "NVIDIA H100 (compute capability 9.0) is not supported by TensorRT for RTX"),
        ({"gpu": ADA, "invalid": 1 | 32}, "version mismatch, malformed engine"),
        ({"gpu": ADA, "load_fails": "the plan is torn."}, "cannot load .*model.engine: the plan is torn"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    machine: Machine, own: Bundle, built: Engine, fields: dict[str, Any], told: str
) -> None:
    script = machine(**fields)
    with pytest.raises(CannotRunHere, match=told.replace("(", r"\(").replace(")", r"\)")) as caught:
        Classifier.open(own.path, TARGET)
    assert caught.value.advice
    assert script.did("deserialize_cuda_engine") == ([()] if "load_fails" in fields else [])


def test_another_gpu_than_the_targets_is_refused(machine: Machine, own: Bundle) -> None:
    machine()
    target = TARGET.model_copy(update={"compute_capabilities": ("7.5",), "gpu": "RTX 2080 Ti"})
    compile_bundle(own, target)
    for gpu in (ADA, ("NVIDIA GeForce RTX 2070", 7, 5)):
        machine(gpu=gpu)
        with pytest.raises(CannotRunHere, match="is for 'RTX 2080 Ti' GPUs, not for NVIDIA GeForce RTX"):
            Classifier.open(own.path, target)
    machine(gpu=TURING)
    Classifier.open(own.path, target).close()


def test_with_the_gpu_at_hand_the_engine_itself_is_verified(machine: Machine, own: Bundle) -> None:
    machine(gpu=ADA)
    engine = compile_bundle(own, TARGET)
    assert (engine.verified_by, engine.versions["gpu"]) == ("engine", ADA[0])
    steps: list[Step] = []
    Classifier.open(own.path, TARGET, on_progress=steps.append).close()
    assert {step.stage for step in steps} <= {"load"}
    machine(gpu=TURING)  # carried there
    Classifier.open(own.path, TARGET, on_progress=steps.append).close()
    assert "verify" in {step.stage for step in steps}


def test_an_inspector_that_tells_no_types_leaves_it_to_the_builders_list(
    machine: Machine, own: Bundle, built: Engine
) -> None:
    machine(gpu=ADA, precision="Secret")
    assert verify_engine(own, TARGET).precision_found == {"fp32": 1.0}
    machine(gpu=ADA, precision="Half")
    with pytest.raises(GateFailed, match="fp32 was asked, but the engine computes 100% fp16"):
        verify_engine(own, TARGET)
