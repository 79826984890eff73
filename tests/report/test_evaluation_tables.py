"""Tables and figures of an evaluation, and the reference network's place among those of a profile."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from drawing import marks, parsed, scale, texts, with_class
from made_up import RESNET152, make_bundle, profile
from PIL import Image
from sklearn.metrics import roc_auc_score

from rrr_edge.bundle.calibration import Calibration, Promise
from rrr_edge.bundle.evaluation import (
    Evaluation,
    Mistake,
    PairedDifference,
    ReferenceComparison,
    confusion_of,
    judge,
    top_k_of,
)
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import TRAINING_LOG, Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Outputs
from rrr_edge.images.labelled import LabelledPhotos
from rrr_edge.profile.doubt import ForeignPictures, judge_doubt
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.confusion import draw_confusion, draw_learning
from rrr_edge.report.contact_sheet import draw_contact_sheet
from rrr_edge.report.doubt import doubt_tables
from rrr_edge.report.doubt_figures import draw_reliability, draw_risk
from rrr_edge.report.evaluation import evaluation_tables
from rrr_edge.report.tables import engines, networks
from rrr_edge.report.verdict import verdict

MACS_OF_RESNET152 = 3_758_923_776


def reference(*, params: int = RESNET152, wrong: int = 12) -> ReferenceComparison:
    """Right on all but `wrong` of 400 photos, beside an engine that errs on the first 24."""
    own = np.arange(400) >= 24
    right = np.arange(400) < 400 - wrong
    return ReferenceComparison(
        name="own.pth",
        network="ResNet152",
        sha256="0" * 64,
        params=params,
        macs=MACS_OF_RESNET152,
        accuracy=float(right.mean()),
        interval=(0.9, 0.99),
        paired=PairedDifference.of(own, right),
    )


def evaluation(classes: int, *, photos: int = 200, **changes: object) -> Evaluation:
    rng = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(classes))
    probabilities = rng.dirichlet([0.3] * classes, photos).astype(np.float32)
    labels = np.where(rng.random(photos) < 0.7, probabilities.argmax(1), np.arange(photos) % classes)
    fields: dict[str, object] = {
        "bundle": "mugs",
        "manifest_sha256": "",
        "what": "openvino-int8",
        "what_sha256": "",
        "photos": "photos",
        "photos_sha256": "",
        "labels": names,
        "accuracy": judge(probabilities, labels, names),
        "top_k": top_k_of(probabilities, labels),
        "confusion": confusion_of(probabilities.argmax(1), labels, classes),
        "mistakes": (Mistake(photo="a.jpg", label=names[0], answer=names[1], probability=0.9, of_label=0.05),),
        "versions": {},
        "machine": "",
        "created": "",
    }
    return Evaluation.model_validate(fields | changes)


def test_the_tables_say_what_was_counted() -> None:
    found = evaluation(4, reference=reference())
    whole, by_class, matrix, mistakes = evaluation_tables(found)
    cells = {row[0]: row[1:] for row in whole.rows}
    assert cells["right"][0] == f"{found.accuracy.accuracy:.1%}"
    assert cells["reference: own.pth (ResNet152)"][0] == "97.0%"
    assert cells["difference, paired, in points"][0] == "-3.0"
    assert (cells["right where the reference is wrong"][0], cells["wrong where the reference is right"][0]) == (
        "12",
        "24",
    )
    assert [row[1] for row in by_class.rows] == [str(sum(row)) for row in found.confusion]
    assert [tuple(map(int, row[1:])) for row in matrix.rows] == list(found.confusion)
    assert mistakes.rows[0][1:5] == ("a.jpg", "class 0", "class 1", "90.0%")


def test_beyond_20_classes_the_matrix_is_a_picture() -> None:
    found = evaluation(24)
    tables = list(evaluation_tables(found))
    assert "most frequent confusions" in tables[2].caption
    counts = [int(row[2]) for row in tables[2].rows]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == max(n for i, row in enumerate(found.confusion) for j, n in enumerate(row) if i != j)
    root = parsed(draw_confusion(found).alone())
    cells = with_class(root, "segment", "rect")
    assert len(cells) == sum(count > 0 for row in found.confusion for count in row)
    assert len(with_class(root, "own", "rect")) == sum(
        count > 0 for i, row in enumerate(found.confusion) for j, count in enumerate(row) if i != j
    )
    first = cells[0]
    assert float(first.get("fill-opacity", "")) == pytest.approx(
        0.1 + 0.9 * found.confusion[0][0] / sum(found.confusion[0]), abs=0.006
    )
    assert "class 23" in texts(root)


def test_a_record_whose_counts_do_not_add_up_is_refused() -> None:
    whole = evaluation(3)
    wrong = json.loads(whole.to_json()) | {"confusion": [[1, 0, 0]] * 3}
    with pytest.raises(ValueError, match="does not count 200 photos"):
        Evaluation.model_validate(wrong)


@pytest.fixture
def logged(tmp_path: Path) -> Bundle:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    rows = "".join(f"{e},1,{1 - 0.5 / e},1,1,{0.9 if e % 2 == 0 else ''}\n" for e in range(1, 7))
    (bundle.path / TRAINING_LOG).write_text(
        f"epoch,loss,train_accuracy,seconds,images_per_second,validation_accuracy\n{rows}"
    )
    files = (*bundle.manifest.files, describe_file(bundle.path / TRAINING_LOG))
    (bundle.path / "manifest.json").write_text(bundle.manifest.model_copy(update={"files": files}).to_json())
    return Bundle.open(bundle.path)


def test_the_learning_curve_is_that_of_the_log(logged: Bundle, tmp_path: Path) -> None:
    picture = draw_learning(logged)
    assert picture is not None
    assert "training photos, augmented, a branch: 50.0% to 8.3%" in picture.told
    root = parsed(picture.alone())
    x, y = scale(root, "x"), scale(root, "y")
    found = {tip: place for tip, *place in marks(root) if "epoch" in tip}
    assert found == {
        f"validation photos, all branches, epoch {e}: 10.0%": pytest.approx([x(e), y(10)], abs=0.02) for e in (2, 4, 6)
    }
    assert draw_learning(make_bundle(tmp_path / "bare.rrr")) is None


@pytest.fixture
def doubted() -> Evaluation:
    """The photos of `evaluation` with two branches that agree, a promise, and foreign pictures."""
    rows, labels = drawn()
    photos = LabelledPhotos(np.zeros((200, 1, 1, 3), np.uint8), labels, ("",) * 200, "photos", Preprocess(image_size=1))
    even = np.full((50, 4), 0.25, np.float32)
    foreign = ForeignPictures(np.zeros((50, 1, 1, 3), np.uint8), "clutter"), Outputs(even, even[:, None])
    found = evaluation(4)
    calibration = Calibration.model_construct(
        measure="max_probability",
        temperature=2.0,
        promise=Promise(max_error=0.2, confidence=0.9, threshold=0.4, photos=9, answered=9, wrong=0, bound=0.2),
        sets=None,
        photos_sha256="",
    )
    outputs = Outputs(rows, np.stack([rows, rows], 1))
    doubt = judge_doubt(outputs, photos, found.labels, calibration=calibration, foreign=foreign)
    return found.model_copy(update={"doubt": doubt})


@pytest.mark.parametrize("calibrated", [True, False])
def test_only_a_calibration_chooses_a_measure(calibrated: bool) -> None:
    rows, labels = drawn()
    photos = LabelledPhotos(np.zeros((200, 1, 1, 3), np.uint8), labels, ("",) * 200, "photos", Preprocess(image_size=1))
    calibration = Calibration.model_construct(
        measure="max_probability", temperature=1.0, promise=None, sets=None, photos_sha256=""
    )
    found = evaluation(4)
    doubt = judge_doubt(
        Outputs(rows, rows[:, None]),
        photos,
        found.labels,
        calibration=calibration if calibrated else None,
        foreign=None,
    )
    first, ranked = doubt_tables(found.model_copy(update={"doubt": doubt}))
    assert ("maximum probability" in first.caption, "not calibrated" in first.caption) == (calibrated, not calibrated)
    assert [row[0] for row in ranked.rows if row[-1] == "chosen"] == ["maximum probability"] * calibrated
    older = doubt.model_copy(update={"calibrated": False, "temperature": 2.0})
    assert older.chosen == "max_probability"


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of 200 photos of four classes."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet([0.3] * 4, 200).astype(np.float32)
    return rows, np.where(rng.random(200) < 0.7, rows.argmax(1), np.arange(200) % 4)


def test_doubt_is_counted_as_by_hand(doubted: Evaluation) -> None:
    rows, labels = drawn()
    wrong, doubts, doubt = rows.argmax(1) != labels, 1 - rows.max(1).astype(float), doubted.doubt
    assert (doubt.answered, doubt.wrong) == ((doubts <= 0.4).sum(), (wrong & (doubts <= 0.4)).sum())
    areas = {each.measure: each.area for each in doubt.rankings}
    assert areas["max_probability"] == pytest.approx(roc_auc_score(wrong, doubts))
    assert areas["disagreement"] == 0.5
    assert doubt.foreign.answered == 0
    told = {each.measure: each.area for each in doubt.foreign.rankings}
    both = np.append(doubts, np.full(50, 0.75))
    assert told["max_probability"] == pytest.approx(roc_auc_score(np.arange(250) >= 200, both))
    for coverage, risk in zip(doubt.curves[0].coverage, doubt.curves[0].risk, strict=True):
        assert risk == pytest.approx(wrong[np.argsort(doubts)[: round(200 * coverage)]].mean())
    assert sum(each.photos for each in doubt.plain) == sum(each.photos for each in doubt.tempered) == 200
    error = sum(each.photos * abs(each.confidence - each.right) for each in doubt.tempered) / 200
    assert doubt.error_after == pytest.approx(error, abs=1e-6)
    cells = {row[0]: row[1] for row in next(doubt_tables(doubted)).rows}
    assert cells["answered"] == f"{(doubts <= 0.4).mean():.1%}"
    assert cells["promised of them, with 90% confidence"] == "20.0% at most"
    assert cells["foreign pictures answered"] == "0.0%"
    assert list(doubt_tables(evaluation(4))) == []


def test_figures_of_doubt_have_the_numbers_at_their_places(doubted: Evaluation) -> None:
    doubt = doubted.doubt
    root = parsed(draw_risk(doubted).alone())
    x, y = scale(root, "x"), scale(root, "y")
    (place,) = [place for tip, *place in marks(root) if "answers wrong" in tip]
    assert place == pytest.approx([x(100 * doubt.answered / 200), y(100 * doubt.wrong / doubt.answered)], abs=0.02)
    assert f"Promised are at most 20%; {doubt.words}." in draw_risk(doubted).told
    root = parsed(draw_reliability(doubted).alone())
    x, y = scale(root, "x"), scale(root, "y")
    found = [place for tip, *place in marks(root) if tip.startswith("with the temperature 2:")]
    expected = [(x(100 * each.confidence), y(100 * each.right)) for each in doubt.tempered]
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert draw_reliability(evaluation(4)) is draw_risk(evaluation(4)) is None


def test_the_contact_sheet_shows_the_photos_in_order() -> None:
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
    found = evaluation(3).mistakes[0]
    with Image.open(io.BytesIO(draw_contact_sheet(np.ascontiguousarray(images), (found,) * 3))) as sheet:
        pixels = np.asarray(sheet).astype(int)
    step = (sheet.width - 10) // 3
    for place, colour in enumerate(colours):
        assert np.abs(pixels[90, 10 + place * step + 80] - colour).max() < 12


def test_the_reference_stands_where_its_network_was_timed_in_the_same_type(logged: Bundle) -> None:
    own = networks(profile(logged))
    assert own.header == ("", "MB", "params", "MACs", "accuracy")
    found = networks(profile(logged, reference=reference(), baselines={"ResNet152, PyTorch": 90.0}))
    assert found.header[:5] == own.header
    cells = {row[0]: row[4:] for row in found.rows}
    assert cells["ResNet152, PyTorch"] == ("97.0%", reference().paired.short)
    assert cells["engine, openvino int8"] == ("94.0%", "")
    assert len(found.rows) == 2


def test_a_reference_that_nothing_beside_it_is_has_a_row_of_its_own(logged: Bundle) -> None:
    found = profile(logged, reference=reference(params=11_000_000), baselines={"ResNet152, PyTorch": 90.0})
    *_, row = networks(found).rows
    assert row == ("own.pth, ResNet152", "", "11.00 M", "3,759 M", "97.0%", reference().paired.short)
    own = Candidate(logged, found)
    assert f"{reference().paired.words} beside the 97.0% of own.pth" in verdict([own])
    table = engines([own, Candidate(logged, found.model_copy(update={"reference": None}))])
    assert [len(row) for row in table.rows] == [len(table.header)] * 2
