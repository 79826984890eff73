"""`calibrate`, and what follows of it in a Classifier, `predict` and `watch`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import write_bundle, write_engine
from PIL import Image
from small_bundle import copy_bundle, flip_a_byte, with_held_out, write_shapes
from test_cli import run

from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.calibration import CALIBRATED, Calibration
from rrr_edge.bundle.doubt import MEASURES, Doubt
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput, CorruptArtifact, GateFailed, UsageError
from rrr_edge.images.labelled import LabelledPhotos, read_labelled, without_copies
from rrr_edge.profile.calibration import Asked, calibrate_engine
from rrr_edge.profile.calibration.selective import Wanted, divide
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.binomial import upper_bound

FAST = ("--target", "openvino", "--precision", "fp32")
TARGET = Target(name="test", backend="fake", precision="int8")


@pytest.fixture
def fake(tmp_path: Path) -> tuple[Bundle, Engine]:
    bundle = write_bundle(tmp_path / "fakes.rrr")
    return bundle, write_engine(bundle, TARGET, ("engine.bin", b"x"))


def doubting() -> Fake:
    """Two branches: both give the first class a picture's brightness; the second takes a half off below 200."""

    def answer(images: np.ndarray) -> Outputs:
        bright = images[:, 0, 0, 0].astype(np.float32) / 255
        first = np.stack([bright, 1 - bright, 0 * bright], -1)
        second = np.where((bright < 200 / 255)[:, None], first / 2 + np.float32([0, 0.25, 0.25]), first)
        branches = np.stack([first, second.astype(np.float32)], 1)
        return Outputs(branches.mean(1), branches)

    return Fake(answer)


def photos_of(bundle: Bundle, brightness: np.ndarray, labels: np.ndarray) -> LabelledPhotos:
    images = np.zeros((len(labels), 16, 16, 3), np.uint8) + brightness.astype(np.uint8)[:, None, None, None]
    names = tuple(f"{index}.png" for index in range(len(labels)))
    return LabelledPhotos(images, labels.astype(np.int64), names, "drawn", bundle.manifest.preprocess)


def some_photos(bundle: Bundle, count: int) -> LabelledPhotos:
    """Brighter ones are rather of the first class, and of the second else."""
    rng = np.random.default_rng(0)
    brightness = rng.integers(140, 256, count)
    return photos_of(bundle, brightness, rng.random(count) < 0.6 * ((255 - brightness) / 115) ** 2)


def test_what_is_promised_is_bounded_by_photos_that_did_not_plan_it(fake: tuple[Bundle, Engine]) -> None:
    bundle, engine = fake
    photos, session = some_photos(bundle, 600), doubting()
    found = calibrate_engine(bundle, engine, session, photos, asked=Asked(Wanted(0.1), 0.9))
    assert Calibration.of(bundle, engine) == found
    probabilities, branches = session.run(photos.images)
    wrong = probabilities.argmax(1) != photos.labels
    doubt = MEASURES[found.measure](probabilities, branches)
    testing = divide(600)[1]
    given = doubt[testing] <= found.promise.threshold
    assert (found.promise.answered, found.promise.wrong) == (given.sum(), wrong[testing][given].sum())
    assert found.promise.bound == upper_bound(found.promise.wrong, found.promise.answered, 0.95) <= 0.1
    assert 0 < given.sum() < len(testing)
    best = max(found.rankings, key=lambda ranking: ranking.area)
    assert best.measure == found.measure
    assert best.interval[0] < best.area < best.interval[1]
    assert sum(one.photos for one in found.by_class) == len(testing)
    assert sum(one.answered for one in found.by_class) == given.sum()
    assert found.sets.own == (True, True, False)
    assert not any("tell little" in note for note in found.notes)
    held = probabilities[np.arange(600), photos.labels] >= np.array(found.sets.levels)[photos.labels]
    assert held.mean() >= 0.9


def test_the_calibration_of_another_engine_or_a_changed_one_is_refused(fake: tuple[Bundle, Engine]) -> None:
    bundle, engine = fake
    assert Calibration.of(bundle, engine) is None
    calibrate_engine(bundle, engine, doubting(), some_photos(bundle, 60), asked=Asked())
    folder = bundle.engine_folder(engine.name)
    kept = (folder / CALIBRATED).read_bytes()
    (folder / CALIBRATED).write_bytes(kept.replace(b'"temperature": ', b'"temperature": 1'))
    with pytest.raises(CorruptArtifact, match="seal differs"):
        Calibration.of(bundle, engine)
    shutil.rmtree(folder)
    later = write_engine(bundle, TARGET.model_copy(update={"threads": 3}), ("engine.bin", b"x"))
    (folder / CALIBRATED).write_bytes(kept)
    with pytest.raises(CorruptArtifact, match="calibration of another engine") as refusal:
        Calibration.of(bundle, later)
    assert "rrr-edge calibrate" in refusal.value.advice


def test_what_cannot_be_promised_is_refused_with_the_number_of_photos_and_nothing_is_kept(
    fake: tuple[Bundle, Engine],
) -> None:
    bundle, engine = fake
    bright = np.full(10, 255)
    right = photos_of(bundle, bright, np.zeros(10))
    with pytest.raises(GateFailed, match=r"of 10 photos it is wrong on 0; that takes 224 photos where all are right"):
        calibrate_engine(bundle, engine, doubting(), right, asked=Asked(Wanted(0.02)))
    half = photos_of(bundle, np.full(400, 255), np.arange(400) % 2)
    with pytest.raises(GateFailed, match="too many of the surest answers are wrong to tell"):
        calibrate_engine(bundle, engine, doubting(), half, asked=Asked(Wanted(0.02)))
    with pytest.raises(BadInput, match="Not one of 10 photos is what its folder is named"):
        calibrate_engine(bundle, engine, doubting(), photos_of(bundle, bright, np.ones(10)), asked=Asked())
    nan = Fake.always([np.nan] * 3)
    with pytest.raises(GateFailed, match="no numbers"):
        calibrate_engine(bundle, engine, nan, right, asked=Asked())
    assert Calibration.of(bundle, engine) is None
    with pytest.raises(GateFailed, match="10 photos are too few for sets"):
        calibrate_engine(bundle, engine, doubting(), right, asked=Asked(None, 0.95))
    found = calibrate_engine(bundle, engine, doubting(), right, asked=Asked())
    assert (found.temperature, found.rankings, found.measure) == (1, (), "max_probability")
    assert "All answers are right" in found.notes[0]
    assert found.notes[1].startswith("10 photos tell little: that 72% or 100% of the answers are right")
    sure = calibrate_engine(
        bundle, engine, doubting(), photos_of(bundle, np.full(230, 255), np.zeros(230)), asked=Asked(Wanted(0.02))
    )
    assert (sure.promise.threshold, sure.promise.wrong, sure.promise.answered) == (1, 0, 153)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(Wanted(0)), "--max-error is a share"),
        (Asked(Wanted(0.1, 1)), "--confidence lies between"),
        (Asked(None, 1.5), "--sets is a probability"),
    ],
)
def test_shares_that_are_none_are_refused(asked: Asked, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked.require_shares()


def test_a_prediction_says_all_of_its_doubt(tmp_path: Path) -> None:
    """By hand, from two branches of three classes."""
    branches = np.array([[0.8, 0.2, 0.0], [0.4, 0.5, 0.1]], np.float32)
    session = Fake(lambda images: Outputs(branches.mean(0)[None], branches[None]))
    doubt = Doubt(measure="variation_ratio", threshold=0.4, temperature=2.0, levels=(0.7, 0.3, 0.0))
    manifest = write_bundle(tmp_path / "fakes.rrr").manifest
    found = Classifier(session, manifest, doubt=doubt).predict(np.zeros((16, 16, 3), np.uint8))
    assert not found.answered
    assert found.measures == pytest.approx(
        {name: float(of(branches.mean(0), branches)) for name, of in MEASURES.items()}
    )
    assert found.measures["variation_ratio"] == 0.5
    roots = np.sqrt([0.6, 0.35, 0.05])
    assert found.confidence == pytest.approx(roots[0] / roots.sum(), abs=1e-6)
    assert found.candidates == (0, 1, 2)
    record = found.record()
    assert (record["answered"], record["candidates"]) == (False, [0, 1, 2])
    assert set(record["doubt"]) == set(MEASURES)
    plain = Classifier(session, manifest).predict(np.zeros((16, 16, 3), np.uint8))
    assert (plain.answered, plain.candidates) == (True, None)
    assert plain.confidence == pytest.approx(plain.probability)


@pytest.fixture(scope="module")
def calibrated(compiled: Bundle, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """An engine that promises something of 90 photos in val/, which are new, and their folder."""
    bundle = copy_bundle(compiled, tmp_path_factory.mktemp("calibrated") / "shapes.rrr")
    photos = shapes.parent / "with-val"
    shutil.copytree(shapes, photos)
    write_shapes(photos / "new", train=40, test=0, seed=7)
    (photos / "new" / "train").rename(photos / "val")
    shutil.rmtree(photos / "new")
    options = ("--max-error", "0.3", "--confidence", "0.8", "--sets", "0.9", "--json")
    told = run("calibrate", bundle.path, photos, *FAST, *options)
    assert told.code == 0, told.stderr
    assert told.document["photos"] == "the validation photos of with-val"
    assert (told.document["images"], told.document["promise"]["max_error"]) == (120, 0.3)
    return bundle, photos


def set_threshold(bundle: Bundle, threshold: float) -> None:
    """Let the engine keep silent as if it had been calibrated so."""
    engine = bundle.engine(Target.resolve("openvino", "fp32"))
    record = Calibration.of(bundle, engine)
    promise = record.promise.model_copy(update={"threshold": threshold})
    text = record.model_copy(update={"promise": promise}).to_json()
    (bundle.engine_folder(engine.name) / CALIBRATED).write_text(text)


def test_predict_watch_and_the_classifier_keep_silent_where_doubt_is_too_large(
    calibrated: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle, photos = copy_bundle(calibrated[0], tmp_path / "shapes.rrr"), calibrated[1] / "test"
    with Classifier.open(bundle.path, precision="fp32") as classifier:
        measure = classifier.doubt.measure
        doubts = sorted(classifier.predict(file).measures[measure] for file in photos.glob("*/*.png"))
    middle = (doubts[11] + doubts[12]) / 2
    set_threshold(bundle, middle)
    rows = run("predict", bundle.path, photos, *FAST, "--json").document["predictions"]
    assert [row["answered"] for row in rows] == [row["doubt"][measure] <= middle for row in rows]
    assert sum(row["answered"] for row in rows) == 12
    assert all(row["label"] and row["candidates"] and 0 < row["confidence"] <= 1 for row in rows)
    shown = run("predict", bundle.path, photos, *FAST).stdout
    assert shown.count("unsure") == 12
    watched = run("watch", bundle.path, photos / "cross", *FAST, "--json").stdout.splitlines()
    mine = [row["answered"] for row in rows if "/cross/" in row["image"]]
    assert sorted(json.loads(line)["answered"] for line in watched) == sorted(mine)
    said = run("watch", bundle.path, photos / "cross", *FAST).stdout
    assert said.count(" unsure ") == mine.count(False)
    with Classifier.open(bundle.path, precision="fp32", unsure=False) as classifier:
        found = [classifier.predict(row["image"]) for row in rows]
    assert all(one.answered for one in found)
    assert all(one.confidence == pytest.approx(one.probability) for one in found)


def test_a_damaged_calibration_is_refused_and_replaced(calibrated: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle = copy_bundle(calibrated[0], tmp_path / "shapes.rrr")
    flip_a_byte(bundle.engine_folder("openvino-fp32") / CALIBRATED)
    told = run("predict", bundle.path, calibrated[1] / "test", *FAST)
    assert told.code == 5
    assert f"Run: rrr-edge calibrate {bundle.path} PHOTOS --target openvino --precision fp32" in told.stderr
    (finding,) = (row for row in run("doctor", bundle.path, "--json").document if row["what"] == "openvino-fp32")
    assert (finding["verdict"], finding["repair"].split()[:2]) == ("rebuild", ["rrr-edge", "calibrate"])
    assert run("calibrate", bundle.path, "--test-photos", *FAST).code == 0
    assert run("predict", bundle.path, calibrated[1] / "test", *FAST).code == 0


def test_evaluate_says_what_was_promised_and_tells_foreign_pictures_apart(
    calibrated: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle, photos = copy_bundle(calibrated[0], tmp_path / "shapes.rrr"), calibrated[1]
    rng = np.random.default_rng(0)
    for number in range(9):
        (tmp_path / "clutter" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "clutter" / f"{number % 2}" / f"{number}.png")
    told = run("evaluate", bundle.path, *FAST, "--foreign", tmp_path / "clutter", "--json")
    assert told.code == 0, told.stderr
    doubt = told.document["doubt"]
    assert (doubt["photos"], doubt["foreign"]["pictures"], doubt["same_photos"]) == (24, 9, False)
    assert doubt["promise"]["max_error"] == 0.3
    assert {each["measure"] for each in doubt["foreign"]["rankings"]} == set(MEASURES)
    same = run("evaluate", bundle.path, photos / "val", *FAST)
    assert "of 120 photos are answered" in same.stdout
    assert "by a calibration with these very photos" in same.stdout
    for folder, said in ((photos, "named as classes"), (tmp_path / "empty", "no picture in")):
        folder.mkdir(exist_ok=True)
        refused = run("evaluate", bundle.path, *FAST, "--foreign", folder)
        assert (refused.code, said in refused.stderr) == (5, True), refused.stderr


def test_an_engine_that_is_compiled_anew_is_not_calibrated_any_more(
    calibrated: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle = copy_bundle(calibrated[0], tmp_path / "shapes.rrr")
    told = run("compile", bundle.path, *FAST)
    assert "the old engine's calibration is gone with it: rrr-edge calibrate" in told.stderr
    assert Calibration.of(bundle, bundle.engine(Target.resolve("openvino", "fp32"))) is None
    assert "calibration" not in run("compile", bundle.path, *FAST).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Which photos?"),
        (("VAL", "--test-photos"), 2, "Which photos?"),
        (("VAL", "--confidence", "0.9"), 2, "means nothing without --max-error"),
        (("VAL", "--max-error", "2"), 2, "--max-error is a share"),
        (("SHAPES",), 5, "has no val/"),
        (("SHAPES/train",), 5, "were trained on"),
        (("SHAPES/test",), 5, "24 photos of test are test photos of the bundle"),
        (("OTHERS",), 5, "classes that the network does not know: ring"),
        (("VAL", "--max-error", "0.001"), 3, "cannot promise that at most 0.1% of its answers are wrong"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    calibrated: tuple[Bundle, Path], shapes: Path, tmp_path: Path, *, arguments: tuple[str, ...], code: int, said: str
) -> None:
    bundle, photos = calibrated
    shutil.copytree(shapes / "test" / "circle", tmp_path / "others" / "ring")
    places = {"VAL": photos, "SHAPES": shapes, "OTHERS": tmp_path / "others", "SHAPES/train": shapes / "train"}
    places["SHAPES/test"] = shapes / "test"
    told = run("calibrate", bundle.path, *(places.get(word, word) for word in arguments), *FAST)
    assert (told.code, said in told.stderr) == (code, True), told.stderr


def test_of_the_photos_that_it_learned_from_those_are_taken_that_were_held_out(
    compiled: Bundle, shapes: Path, tmp_path: Path
) -> None:
    bundle, dataset = with_held_out(copy_bundle(compiled, tmp_path / "x.rrr"), shapes, 0.25)
    told = run("calibrate", bundle.path, shapes, *FAST, "--json")
    assert told.code == 0, told.stderr
    assert dataset.val
    assert told.document["images"] == len(dataset.val.files) == 9
    assert told.document["photos"] == "the photos of shapes that were held out to validate"
    assert "9 photos of shapes that were held out of the training" in told.document["notes"][0]


def test_copies_count_once(fake: tuple[Bundle, Engine]) -> None:
    photos = without_copies(photos_of(fake[0], np.array([5, 7, 5, 9, 7, 5]), np.arange(6)))
    assert (photos.labels.tolist(), photos.names) == ([0, 1, 3], ("0.png", "1.png", "3.png"))
    assert photos.notes == ("3 photos that are copies of others count for nothing.",)
    assert without_copies(photos) is photos


def test_test_photos_are_taken_only_where_it_is_said(calibrated: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle = copy_bundle(calibrated[0], tmp_path / "shapes.rrr")
    told = run("calibrate", bundle.path, "--test-photos", *FAST)
    assert told.code == 0, told.stderr
    assert "have no photos left that took no part" in told.stderr
    assert "this replaces what was promised before: at most 0.3" in told.stderr
    record = Calibration.of(bundle, bundle.engine(Target.resolve("openvino", "fp32")))
    assert "have no photos left that took no part" in record.notes[0]
    assert "always answers" in told.stdout
    assert "By class, of the 24 photos" in told.stdout
    assert read_labelled(calibrated[1], bundle).source == "the test photos of with-val"
