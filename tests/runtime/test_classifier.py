import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import rewrite
from PIL import Image
from small_bundle import LABELS, flip_a_byte, link_bundle, write_target

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import Fit
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact, GateFailed, UsageError
from rrr_edge.images.fit import Region, fit
from rrr_edge.runtime.classifier import Classifier, Prediction

FP32_LIMIT = 1e-4  # what is promised of any two FP32 engines


@pytest.fixture
def classifier(compiled: Bundle) -> Iterator[Classifier]:
    with Classifier.open(compiled.path, "openvino", precision="fp32", threads=1) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def photos(shapes: Path) -> list[Path]:
    return sorted((shapes / "test").glob("*/*.png"))


def alike(a: Prediction, b: Prediction, tolerance: float = 0.0) -> bool:
    return (a.label, a.index) == (b.label, b.index) and all(
        np.allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)
        for name in ("probability", "uncertainty", "probabilities", "branch_probabilities")
    )


def test_photos_of_the_test_set_are_right_as_often_as_the_manifest_says(
    classifier: Classifier, compiled: Bundle, photos: list[Path]
) -> None:
    assert len(photos) == 24
    right = [classifier.predict(photo).label == photo.parent.name for photo in photos]
    assert compiled.manifest.accuracy
    assert sum(right) == compiled.manifest.accuracy.correct


def test_every_way_to_hand_in_a_photo_gives_the_same(classifier: Classifier, photos: list[Path]) -> None:
    photo = photos[0]
    with Image.open(photo) as image:
        pixels = np.asarray(image)
        answers = [classifier.predict(source) for source in (photo, str(photo), photo.read_bytes(), image, pixels)]
    assert len(answers) == 5
    assert all(alike(answer, answers[0]) for answer in answers)


def test_a_prediction_is_consistent(classifier: Classifier, photos: list[Path]) -> None:
    for photo in photos[::5]:
        answer = classifier.predict(photo)
        assert answer.probabilities.shape == (3,)
        assert answer.branch_probabilities.shape == (2, 3)
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert np.allclose(answer.branch_probabilities.mean(0), answer.probabilities, atol=1e-6)
        assert answer.label == LABELS[answer.index]
        assert answer.probability == answer.probabilities.max() == answer.probabilities[answer.index]
        entropy = -sum(p * math.log(p) for p in answer.probabilities.tolist())
        assert answer.uncertainty == pytest.approx(entropy / math.log(3), abs=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "uncertainty"),
    [
        ((1 / 3, 1 / 3, 1 / 3), 1),
        ((0, 1, 0), 0),
        ((0.5, 0.5, 0), math.log(2) / math.log(3)),
    ],
)
def test_uncertainty_is_the_entropy_over_its_largest_value(
    compiled: Bundle, probabilities: tuple[float, ...], uncertainty: float
) -> None:
    classifier = Classifier(Fake.always(probabilities), compiled.manifest)
    found = classifier.predict(np.zeros((32, 32, 3), np.uint8)).uncertainty
    assert found == pytest.approx(uncertainty, abs=1e-6)
    assert 0 <= found <= 1


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_no_prediction(compiled: Bundle, broken: float) -> None:
    classifier = Classifier(Fake.always([0.2, broken, 0.8]), compiled.manifest)
    with pytest.raises(GateFailed, match="no probability"):
        classifier.predict(np.zeros((8, 8, 3), np.uint8))


def test_predictions_outlive_the_next_call(classifier: Classifier, photos: list[Path]) -> None:
    first = classifier.predict(photos[0])
    kept = first.probabilities.copy(), first.branch_probabilities.copy()
    classifier.predict(photos[-1])
    assert np.array_equal(first.probabilities, kept[0])
    assert np.array_equal(first.branch_probabilities, kept[1])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_batches_answer_as_single_photos_do(compiled: Bundle, photos: list[Path], tmp_path: Path, backend: str) -> None:
    """Ten photos through an engine of four: the last batch has two and is padded."""
    bundle = link_bundle(compiled, tmp_path)
    target = Target.load(write_target(tmp_path, backend=backend, batch=4, threads=1))
    compile_bundle(bundle, target)
    with Classifier.open(bundle.path, target) as classifier:
        assert classifier.batch == 4
        together = list(classifier.predict_many(iter(photos[::2][:10])))
        assert len(together) == 10
        assert all(alike(classifier.predict(p), a, FP32_LIMIT) for p, a in zip(photos[::2], together, strict=False))
        assert list(classifier.predict_many([])) == []


def test_predict_many_takes_frames_only_as_they_are_asked_for(compiled: Bundle) -> None:
    session = Fake.always([0.2, 0.3, 0.5])
    frames = (np.zeros((40, 50, 3), np.uint8) for _ in iter(int, 1))  # without end
    answers = Classifier(session, compiled.manifest, batch=4).predict_many(frames)
    assert [next(answers).index for _ in range(5)] == [2] * 5
    assert session.seen == 8


def test_the_context_manager_closes_the_session(compiled: Bundle) -> None:
    session = Fake.always([0.2, 0.3, 0.5])
    with pytest.raises(ZeroDivisionError), Classifier(session, compiled.manifest):
        raise ZeroDivisionError
    assert session.closed


def test_a_closed_classifier_says_so(compiled: Bundle) -> None:
    with Classifier.open(compiled.path, "onnxruntime") as classifier:
        pass
    with pytest.raises(UsageError, match="This classifier is closed"):
        classifier.predict(compiled.reference.images[0])


@pytest.mark.parametrize(("target", "precision"), [("openvino", "int8"), ("onnxruntime", "fp32")])
def test_closing_twice_is_closing(compiled: Bundle, target: str, precision: str) -> None:
    with Classifier.open(compiled.path, target, precision=precision) as classifier:
        classifier.close()


def test_what_is_no_picture_is_bad_input(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n")
    for source in (tmp_path / "half.png", tmp_path / "absent.png", b"", np.zeros((32, 32)), 7):
        with pytest.raises(BadInput):
            classifier.predict(source)


def test_frames_of_any_size_and_layout_are_answered(classifier: Classifier) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (32, 60, 3), dtype=np.uint8)
    middle = classifier.predict(np.ascontiguousarray(frame[:, 14:46]))
    assert alike(classifier.predict(frame), middle)
    assert alike(classifier.predict(frame[:, 14:46]), middle)
    assert alike(classifier.predict(np.asfortranarray(frame)), middle)


def test_the_targets_precision_is_the_default(compiled: Bundle) -> None:
    with Classifier.open(compiled.path) as classifier:
        assert classifier.session.precision_found()["int8"] > 0.9
    with Classifier.open(str(compiled.path), Target.load("openvino"), precision="fp32") as classifier:
        assert classifier.session.precision_found() == {"fp32": 1.0}


@pytest.mark.parametrize(("given", "target_has", "expected"), [(3, 0, 3), (3, 2, 3), (0, 2, 2), (0, 0, 0)])
def test_threads_are_passed_on(
    compiled: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: int,
    target_has: int,
    expected: int,
) -> None:
    bundle = link_bundle(compiled, tmp_path)
    opened: list[Target] = []

    class Spy(Fake):
        def open(self, folder: Path, target: Target) -> Fake:
            opened.append(target)
            return super().open(folder, target)

    monkeypatch.setitem(BACKENDS, "fake", Spy(lambda images: torch_answers(compiled, images)))
    target = Target(name="t", backend="fake", threads=target_has)
    compile_bundle(bundle, target)
    Classifier.open(bundle.path, target, threads=given)
    assert [t.threads for t in opened] == [target_has, expected]


def test_what_was_not_compiled_says_how_to(compiled: Bundle) -> None:
    with pytest.raises(UsageError, match=r"has no onnxruntime-int8 engine \(it has: onnxruntime-fp32, openvino-fp32"):
        Classifier.open(compiled.path, "onnxruntime", precision="int8")
    with pytest.raises(UsageError, match="Did you mean 'openvino'"):
        Classifier.open(compiled.path, "openvno")


@pytest.mark.parametrize("file", ["model.xml", "model.bin"])
def test_a_flipped_byte_in_the_engine_is_refused_before_it_is_loaded(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    flip_a_byte(bundle.engine_folder("openvino-int8") / file)
    monkeypatch.setattr(type(BACKENDS["openvino"]), "open", lambda *_: pytest.fail("the engine was loaded"))
    with pytest.raises(CorruptArtifact, match=f"{file} has changed") as caught:
        Classifier.open(bundle.path)
    assert caught.value.advice == f"Run: rrr-edge compile {bundle.path} --target openvino --precision int8"


def test_another_machines_engine_is_refused_before_it_is_loaded(bundle: Bundle) -> None:
    folder = bundle.engine_folder("openvino-int8")
    other = bundle.engine_folder("xeon-gold-6126-int8")
    folder.rename(other)
    rewrite(other / "engine.json", lambda card: card.update(target=Target.load("xeon-gold-6126").model_dump()))
    with pytest.raises(CannotRunHere, match="'Gold 6126' CPU; this machine is"):
        Classifier.open(bundle.path, "xeon-gold-6126")


def test_it_needs_nothing_of_the_workshop(compiled: Bundle, photos: list[Path], tmp_path: Path) -> None:
    """With numpy, pillow, pydantic and one engine library alone, and without torch's or NNCF's."""
    absent = ("torch", "torchvision", "onnx", "nncf", "safetensors", "lightning_fabric", "sklearn", "matplotlib")
    absent += ("typer", "rich", "scipy", "timm", "onnxruntime")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from rrr_edge import Classifier\n"
        "with Classifier.open(sys.argv[1], 'openvino', precision='int8') as c: print(c.predict(sys.argv[2]).label)\n"
    )
    arguments = [sys.executable, "-c", code, str(compiled.path), str(photos[0])]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in LABELS
    assert list((tmp_path / "rrr-edge" / "openvino").iterdir())


def test_an_image_file_in_memory_may_be_of_any_format(classifier: Classifier, photos: list[Path]) -> None:
    with Image.open(photos[0]) as image:
        stream = io.BytesIO()
        image.save(stream, "BMP")
    assert alike(classifier.predict(stream.getvalue()), classifier.predict(photos[0]))


def torch_answers(bundle: Bundle, images: np.ndarray) -> Outputs:
    """What torch answered at compress time, for reference images in their order."""
    reference = bundle.reference
    first = next(i for i, image in enumerate(reference.images) if np.array_equal(image, images[0]))
    rows = slice(first, first + len(images))
    return Outputs(reference.probabilities[rows], reference.branch_probabilities[rows])


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("roi", [None, (0.1, 0.2, 0.5, 0.5)])
def test_the_manifest_says_how_frames_are_fitted_and_roi_which_part(
    compiled: Bundle, mode: Fit, roi: tuple[float, float, float, float] | None
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
    seen: list[np.ndarray] = []
    session = Fake.always([0.2, 0.3, 0.5])
    answer = session.answer
    session.answer = lambda images: seen.append(images.copy()) or answer(images)
    preprocess = compiled.manifest.preprocess.model_copy(update={"fit": mode})
    manifest = compiled.manifest.model_copy(update={"preprocess": preprocess})
    Classifier(session, manifest, roi=Region(*roi) if roi else None).predict(frame)
    np.testing.assert_array_equal(seen, [[fit(frame[10:35, 10:60] if roi else frame, 32, mode)]])


def test_a_region_of_interest_is_given_at_opening(compiled: Bundle, photos: list[Path]) -> None:
    pixels = np.asarray(Image.open(photos[0]))
    frame = np.zeros((2 * len(pixels), 2 * pixels.shape[1], 3), np.uint8)
    frame[len(pixels) :, pixels.shape[1] :] = pixels
    with (
        Classifier.open(compiled.path) as whole,
        Classifier.open(compiled.path, roi=(0.5, 0.5, 0.5, 0.5)) as corner,
    ):
        assert alike(corner.predict(frame), whole.predict(pixels))
    with pytest.raises(UsageError, match=r"The region 0\.5, 0\.5, 1, 1 is not inside the frame"):
        Classifier.open(compiled.path, roi=(0.5, 0.5, 1, 1))


def test_opencvs_frames_are_bgr(compiled: Bundle, photos: list[Path]) -> None:
    bgr = np.asarray(Image.open(photos[0]))[..., ::-1]
    with Classifier.open(compiled.path) as rgb, Classifier.open(compiled.path, channels="bgr") as opencv:
        expected = rgb.predict(photos[0])
        assert alike(opencv.predict(bgr), expected)
        assert alike(opencv.predict(photos[0]), expected)
        assert alike(rgb.predict(bgr, channels="bgr"), expected)
        assert alike(next(rgb.predict_many([bgr], channels="bgr")), expected)
        assert not alike(rgb.predict(bgr), expected)
    with pytest.raises(UsageError, match="There is no order of channels 'bgra'. Did you mean 'bgr'"):
        Classifier.open(compiled.path, channels="bgra")


def test_predict_many_refuses_a_single_picture(compiled: Bundle, photos: list[Path]) -> None:
    classifier = Classifier(Fake.always([0.2, 0.3, 0.5]), compiled.manifest)
    frame = np.zeros((40, 50, 3), np.uint8)
    for single in (photos[0], str(photos[0]), b"data", frame, frame[..., 0], Image.new("RGB", (8, 8)), io.BytesIO()):
        with pytest.raises(UsageError, match="predict_many takes several pictures, not one") as caught:
            classifier.predict_many(single)
        assert caught.value.advice == "Put it into a list, or call predict."
    assert len(list(classifier.predict_many(np.stack([frame, frame])))) == 2
