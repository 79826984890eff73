"""Engines that tell the truth are kept, liars are not; real ones with OpenVINO and ONNX Runtime, liars with a fake."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import rewrite, write_bundle
from PIL import Image
from small_bundle import link_bundle, write_target

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Fit
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact, GateFailed, UsageError
from rrr_edge.images.dataset import calibration_folder, read_folder
from rrr_edge.images.fit import PADDING
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.progress import Step

THIRDS = np.full((1, 3), 1 / 3, np.float32)
TARGET = Target(name="test", backend="fake")


def shifted(by: float, times: int = 10**6) -> Callable[[np.ndarray], Outputs]:
    """Answers of `fake_bundle`'s network, in `times` of all images wrong by `by` in favour of the second class."""
    left = times

    def answer(images: np.ndarray) -> Outputs:
        nonlocal left
        rows = np.repeat(THIRDS, len(images), 0)
        wrong = min(left, len(rows))
        rows[:wrong] += np.array([-by, by, 0], np.float32)
        left -= wrong
        return Outputs(rows, rows[:, None])

    return answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    """Put a Fake into the table of backends."""

    def put(answer: Callable[[np.ndarray], Outputs] | None = None, backend: type[Fake] = Fake, **claims: Any) -> Fake:
        made = backend(answer or shifted(0), **claims)
        monkeypatch.setitem(BACKENDS, "fake", made)
        return made

    return put


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "small.rrr")


def engines(bundle: Bundle) -> list[str]:
    """All that lies in the folder of engines, hidden or not."""
    folder = bundle.path / "engines"
    return sorted(os.listdir(folder)) if folder.exists() else []


# Real engines


@pytest.mark.parametrize("name", ["openvino-fp32", "onnxruntime-fp32"])
def test_fp32_engines_answer_like_torch_on_all_test_images(compiled: Bundle, name: str) -> None:
    target, precision = name.split("-")
    engine = compiled.engine(Target.load(target).model_copy(update={"precision": precision}))
    reference = compiled.reference
    assert len(reference.images) == engine.verification.images == 24
    session = BACKENDS[engine.target.backend].open(compiled.engine_folder(name), engine.target)
    found = session.run(reference.images)
    assert np.abs(found.probabilities - reference.probabilities).max() <= 1e-4
    assert np.abs(found.branch_probabilities - reference.branch_probabilities).max() <= 1e-4
    assert engine.verification.passed
    assert engine.precision_found == {"fp32": 1.0}
    session.close()


def test_an_int8_engine_is_int8_nearly_throughout_and_a_quarter_as_large(compiled: Bundle) -> None:
    engine = compiled.engine(Target.load("openvino"))
    assert engine.precision_found["int8"] >= 0.99
    assert engine.verification.top1_agreement == 1
    fp32 = compiled.engine(Target.load("openvino").model_copy(update={"precision": "fp32"}))
    assert 0.2 < engine.bytes / fp32.bytes < 0.3
    assert engine.calibration == hashlib.sha256(compiled.calibration.tobytes()).hexdigest()
    assert fp32.calibration == ""


def test_bf16_runs_where_the_cpu_has_it(compiled: Bundle, tmp_path: Path) -> None:
    target = Target.load("openvino").model_copy(update={"precision": "bf16"})
    try:
        BACKENDS["openvino"].check(target)
    except CannotRunHere as refusal:
        pytest.skip(str(refusal))
    engine = compile_bundle(link_bundle(compiled, tmp_path), target)
    assert engine.precision_found["bf16"] >= 0.99
    assert engine.verification.log_cosine >= 0.9995


def test_plain_openvino_reads_the_engine_and_finds_the_documented_names(compiled: Bundle) -> None:
    import openvino

    for name in ("openvino-fp32", "openvino-int8"):
        graph = openvino.Core().read_model(compiled.engine_folder(name) / "model.xml")
        assert [port.get_any_name() for port in graph.inputs] == ["images"]
        assert [port.get_any_name() for port in graph.outputs] == ["probabilities", "branch_probabilities"]
        assert graph.input(0).get_element_type() == openvino.Type.u8
        assert list(graph.input(0).shape) == [1, 32, 32, 3]
        assert [list(port.shape) for port in graph.outputs] == [[1, 3], [1, 2, 3]]


def test_the_card_says_what_was_built_and_proven(compiled: Bundle) -> None:
    import openvino

    engine = compiled.engine(Target.load("openvino"))
    assert engine.target == Target.load("openvino")
    assert engine.versions == {"openvino": openvino.__version__}
    assert engine.model_sha256 == hashlib.sha256(compiled.model.read_bytes()).hexdigest()
    assert {file.name for file in engine.files} == {"model.xml", "model.bin"}
    assert engine.verification.accuracy_reference == pytest.approx(
        np.mean(compiled.reference.probabilities.argmax(1) == compiled.reference.labels)
    )


# Liars


@pytest.mark.parametrize(
    ("answer", "claims", "said"),
    [
        (shifted(2e-4), {}, r"a probability differs by 0\.0002"),
        (lambda images: Outputs(*(part * np.nan for part in shifted(0)(images))), {}, "a probability differs by inf"),
        (shifted(0), {"precision": {"fp32": 0.9, "bf16": 0.1}}, r"fp32 was asked, .* computes 10% bf16, 90% fp32"),
        (shifted(0), {"precision": {"bf16": 1.0}}, "fp32 was asked, .* computes 100% bf16"),
    ],
    ids=["wrong", "nan", "mixed precision", "other precision"],
)
def test_a_lying_engine_is_not_kept(small: Bundle, fake: Callable[..., Fake], answer, claims, said: str) -> None:
    fake(answer, **claims)
    with pytest.raises(GateFailed, match=said) as caught:
        compile_bundle(small, TARGET)
    assert caught.value.exit_code == 3
    assert "not kept" in str(caught.value)
    assert caught.value.advice
    assert engines(small) == []


def test_a_mostly_right_precision_is_enough(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake(precision={"fp32": 0.95, "bf16": 0.05})
    assert compile_bundle(small, TARGET).precision_found["fp32"] == 0.95


class BreaksHalfway(Fake):
    def compile(self, model, target, calibration, out, on_progress) -> None:
        (out / "half.bin").write_bytes(b"half")
        raise RuntimeError("the vendor's library broke")


class BreaksAtOpening(Fake):
    def open(self, folder, target):
        raise CorruptArtifact("it does not load")


class BreaksRunning(Fake):
    sessions: list[Fake] = []  # noqa: RUF012

    def open(self, folder, target):
        self.sessions.append(super().open(folder, target))
        return self.sessions[-1]

    def run(self, images):
        raise RuntimeError("the device fell off")


@pytest.mark.parametrize("backend", [BreaksHalfway, BreaksAtOpening, BreaksRunning])
def test_whatever_breaks_leaves_the_older_engine_and_no_litter(
    small: Bundle, fake: Callable[..., Fake], backend: type[Fake]
) -> None:
    fake()
    engine = compile_bundle(small, TARGET)
    folder = small.engine_folder(engine.name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    fake(backend=backend)
    with pytest.raises((RuntimeError, CorruptArtifact)):
        compile_bundle(small, TARGET)
    assert engines(small) == [engine.name]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert small.engine(TARGET) == engine


class Removed(Fake):
    """Somebody removes the bundle meanwhile, and the vendor's library says what it sees."""

    def compile(self, model, target, calibration, out, on_progress) -> None:
        shutil.rmtree(model.parent)
        raise RuntimeError(f"Can't open {out}/engine.bin")


def test_a_bundle_that_is_removed_while_it_is_compiled_is_a_sentence(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake(backend=Removed)
    with pytest.raises(CannotRunHere, match="engines was removed while test-fp32 was written into it"):
        compile_bundle(small, TARGET)
    assert not small.path.exists()
    with pytest.raises(CorruptArtifact, match="The bundle .* is gone"):
        compile_bundle(small, TARGET)
    assert not small.path.exists()


def test_a_session_is_closed_even_where_it_fails(small: Bundle, fake: Callable[..., Fake]) -> None:
    BreaksRunning.sessions.clear()
    fake(backend=BreaksRunning)
    with pytest.raises(RuntimeError, match="fell off"):
        compile_bundle(small, TARGET)
    assert [session.closed for session in BreaksRunning.sessions] == [True]


def test_a_liar_does_not_replace_an_older_engine(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake()
    engine = compile_bundle(small, TARGET)
    fake(shifted(0.3))
    with pytest.raises(GateFailed):
        compile_bundle(small, TARGET)
    assert small.engine(TARGET) == engine


def test_a_new_engine_replaces_its_own_files_and_no_others(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake()
    compile_bundle(small, TARGET)
    (small.engine_folder("test-fp32") / "older.bin").touch()
    (small.path / "mine.txt").touch()
    other = Target(name="other", backend="fake")
    compile_bundle(small, other)
    compile_bundle(small, TARGET)
    assert engines(small) == ["other-fp32", "test-fp32"]
    assert sorted(os.listdir(small.engine_folder("test-fp32"))) == ["engine.json", ENGINE_FILE]
    assert (small.path / "mine.txt").exists()


# Limits and material


@pytest.mark.parametrize(("wrong", "max_drop", "kept"), [(0, 0.0, True), (1, 0.01, False), (1, 0.17, True)])
def test_max_drop_bounds_the_accuracy_that_is_lost(
    small: Bundle, fake: Callable[..., Fake], wrong: int, max_drop: float, kept: bool
) -> None:
    """Six images labelled 0, all classes tied: a hair decides, which only the accuracy can see."""
    fake(shifted(1e-5, times=wrong))
    if not kept:
        with pytest.raises(
            GateFailed, match=r"accuracy fell from 100\.00% to 83\.33% \(limit 1\.00% absolute, 95% interval"
        ):
            compile_bundle(small, TARGET, limits=Limits(max_drop=max_drop))
        return
    verification = compile_bundle(small, TARGET, limits=Limits(max_drop=max_drop)).verification
    assert verification.accuracy_reference - verification.accuracy == pytest.approx(wrong / 6)


class Calibrated(Fake):
    """Remembers what it was calibrated with."""

    images: np.ndarray

    def compile(self, model, target, calibration, out, on_progress) -> None:
        type(self).images = calibration
        super().compile(model, target, calibration, out, on_progress)


def test_int8_is_calibrated_with_the_bundles_own_images(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake(backend=Calibrated, precision={"int8": 1.0})
    engine = compile_bundle(small, TARGET, precision="int8")
    assert np.array_equal(Calibrated.images, small.calibration)
    assert engine.calibration == hashlib.sha256(small.calibration.tobytes()).hexdigest()


def test_other_precisions_are_not_calibrated(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake(backend=Calibrated)
    assert compile_bundle(small, TARGET).calibration == ""
    assert len(Calibrated.images) == 0


@pytest.mark.parametrize(("named", "mode"), [("digits", "crop"), ("a folder", "crop"), ("a folder", "pad")])
def test_calibration_images_may_be_a_folder_or_a_packaged_set(
    small: Bundle, fake: Callable[..., Fake], tmp_path: Path, named: str, mode: Fit
) -> None:
    """They are fitted as the bundle's photos were."""
    fake(backend=Calibrated, precision={"int8": 1.0})
    for shade in range(36):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("L", (24, 12), shade).save(tmp_path / "photos" / f"{shade}.png")
    rewrite(small.path / MANIFEST, lambda manifest: manifest["preprocess"].update(fit=mode))
    small = Bundle.open(small.path)
    calib_data: str | Path = "digits" if named == "digits" else tmp_path / "photos"
    engine = compile_bundle(small, TARGET, precision="int8", calib_data=calib_data)
    expected = read_folder(calibration_folder(calib_data), Preprocess(image_size=16, fit=mode)).images
    assert (expected[:, 0] == PADDING).all() == (mode == "pad")
    assert len(expected) == (100 if named == "digits" else 36)
    assert np.array_equal(Calibrated.images, expected)
    assert engine.calibration != hashlib.sha256(small.calibration.tobytes()).hexdigest()


def test_calibrating_with_test_photos_and_files_passed_over_are_noted(
    small: Bundle, fake: Callable[..., Fake], tmp_path: Path
) -> None:
    fake(backend=Calibrated, precision={"int8": 1.0})
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "raw.cr2").touch()
    for index, image in enumerate((*small.reference.images[:2], ~small.reference.images[0])):
        Image.fromarray(image).save(photos / f"{index}.png")
    unknown, flatters = compile_bundle(small, TARGET, precision="int8", calib_data=photos).notes
    assert flatters.startswith("Among the 3 calibration images: 2 test photos, by which the engine is judged")
    assert unknown == "Files passed over for their unknown endings: 1, such as raw.cr2."
    for file in ("0.png", "1.png", "raw.cr2"):
        (photos / file).unlink()
    assert compile_bundle(small, TARGET, precision="int8", calib_data=photos).notes == ()
    fake(backend=Calibrated)
    assert compile_bundle(small, TARGET).notes == ()


def test_calibration_images_that_are_none_are_refused(small: Bundle, fake: Callable[..., Fake], tmp_path: Path) -> None:
    fake(backend=Calibrated, precision={"int8": 1.0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="There is no picture in"):
        compile_bundle(small, TARGET, precision="int8", calib_data=tmp_path / "empty")
    with pytest.raises(UsageError, match=r"no calibration images 'digts'. Did you mean 'digits'\?"):
        compile_bundle(small, TARGET, precision="int8", calib_data="digts")
    assert engines(small) == []


@pytest.mark.parametrize(("bad", "refused"), [(1, False), (2, True)])
def test_one_in_a_hundred_calibration_images_may_be_unreadable(
    small: Bundle, fake: Callable[..., Fake], tmp_path: Path, bad: int, refused: bool
) -> None:
    fake(backend=Calibrated, precision={"int8": 1.0})
    for i in range(100):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i:02}.png")
    for i in range(bad):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    if refused:
        with pytest.raises(BadInput, match=r"2 of 100 calibration images .* more than 1%: 00.png \(it is empty\), 01"):
            compile_bundle(small, TARGET, precision="int8", calib_data=tmp_path)
    else:
        compile_bundle(small, TARGET, precision="int8", calib_data=tmp_path)
        assert len(Calibrated.images) == 99


@pytest.mark.parametrize("max_drop", [-0.01, 1.01, float("nan"), float("inf")])
def test_max_drop_is_a_share(small: Bundle, max_drop: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        compile_bundle(small, TARGET, limits=Limits(max_drop=max_drop))


def test_it_says_how_far_it_is(small: Bundle, fake: Callable[..., Fake]) -> None:
    fake()
    steps: list[Step] = []
    compile_bundle(small, TARGET, on_progress=steps.append)
    assert steps[0] == Step("build", 0, 1, "test-fp32")
    assert steps[-1] == Step("verify", 6, 6)


# Refusals


def test_an_engine_for_another_cpu_may_be_compiled_here_but_not_opened(
    small: Bundle, fake: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrr_edge.bundle.target.cpu_info", lambda: ("Some Other CPU", ()))
    fake()
    target = Target(name="theirs", backend="fake", cpu="Gold 6126")
    assert compile_bundle(small, target).target.cpu == "Gold 6126"
    with pytest.raises(CannotRunHere, match="'Gold 6126' CPU; this machine is Some Other CPU") as caught:
        Classifier.open(small.path, target)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("file", ["model.onnx", "reference.npz", "calibration.npz"])
@pytest.mark.parametrize("damage", ["flipped", "missing", "truncated"])
def test_a_damaged_bundle_is_refused_before_anything_is_built(
    small: Bundle, fake: Callable[..., Fake], file: str, damage: str
) -> None:
    fake(backend=BreaksHalfway, precision={"int8": 1.0})
    path = small.path / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if damage == "flipped" else b""))
    with pytest.raises(CorruptArtifact, match=f"{file} (has|is missing)") as caught:
        compile_bundle(small, TARGET, precision="int8")
    assert "rrr-edge compress" in caught.value.advice


def test_a_full_disk_leaves_no_engine_and_a_sentence(
    compiled: Bundle, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = link_bundle(compiled, tmp_path)
    monkeypatch.setattr(Bundle, "engine_folder", lambda _, name: small_disk / name)
    for target in ("onnxruntime", Target.load("openvino").model_copy(update={"precision": "fp32"})):
        with pytest.raises(CannotRunHere, match="full|cannot write"):
            compile_bundle(bundle, target)
        assert os.listdir(small_disk) == []


def test_a_target_of_ones_own_is_a_file(compiled: Bundle, tmp_path: Path) -> None:
    bundle = link_bundle(compiled, tmp_path)
    engine = compile_bundle(bundle, Target.load(write_target(tmp_path, "porch", precision="fp32", threads=1)))
    assert engine.name == "porch-fp32"
    assert engines(bundle) == ["porch-fp32"]


@pytest.mark.parametrize("lowering", ["split", "dense"])
def test_branches_that_a_network_has_not_cannot_be_written_otherwise(
    small: Bundle, fake: Callable[..., Fake], lowering: str
) -> None:
    fake()
    with pytest.raises(UsageError, match=f"has no branches that could be {lowering}") as caught:
        compile_bundle(small, TARGET.model_copy(update={"lowering": lowering}))
    assert "--lowering grouped" in caught.value.advice
    assert small.engine_names() == []
    assert compile_bundle(small, TARGET.model_copy(update={"lowering": "auto"})).lowering == "grouped"
