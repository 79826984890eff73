"""`evaluate`, and a user's own network beside an engine in every place that has an accuracy."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from own_network import make_own, save, torchvisions_answers
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix
from small_bundle import LABELS, copy_bundle
from test_cli import Result, run

from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.evaluation import Evaluation
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference_network import ReferenceNetwork
from rrr_edge.errors import CorruptArtifact, GateFailed
from rrr_edge.images.labelled import read_labelled
from rrr_edge.profile.evaluate import Evaluated, evaluate_bundle
from rrr_edge.profile.reference import answers_here, ask_beside, bundle_beside
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.progress import silent

FAST = ("--target", "openvino", "--precision", "fp32")


@pytest.fixture(scope="module")
def weights(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The file, and which of the bundle's test photos torchvision has right with it: some, not all."""
    reference = shared_bundle.reference
    own = make_own(reference.images, reference.labels, classes=3, noise=2)
    right = torchvisions_answers(own, reference.images) == reference.labels
    assert 0 < right.sum() < len(right)
    return save(own, tmp_path_factory.mktemp("own") / "own.pth"), right


@pytest.fixture(scope="module")
def beside(
    compiled: Bundle, weights: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Result]:
    """A bundle whose fp32 engine was evaluated beside the user's own network, and what was printed."""
    bundle = copy_bundle(compiled, tmp_path_factory.mktemp("beside") / "shapes.rrr")
    told = run("evaluate", bundle.path, *FAST, "--reference", weights[0], "--labels", "folder-order", "--json")
    assert told.code == 0, told.stderr
    return bundle, told


def engine_right(bundle: Bundle) -> np.ndarray:
    with Classifier.open(bundle.path, precision="fp32") as classifier:
        answers = [answer.index for answer in classifier.predict_many(bundle.reference.images)]
    return np.array(answers) == bundle.reference.labels


def require_paired(document: dict, right: np.ndarray, own_right: np.ndarray) -> None:
    """Torchvision's own evaluation, and the exact test of it beside the engine's."""
    assert document["accuracy"] == right.mean()
    only = int((own_right & ~right).sum()), int((right & ~own_right).sum())
    paired = document["paired"]
    assert (paired["only_own"], paired["only_reference"]) == only
    assert paired["p_value"] == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    assert paired["difference"] == pytest.approx(own_right.mean() - right.mean())


def test_evaluate_profile_report_and_gate_have_torchvisions_accuracy_and_the_paired_difference(
    beside: tuple[Bundle, Result], weights: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    (bundle, told), (_, right) = beside, weights
    own_right = engine_right(bundle)
    require_paired(told.document["reference"], right, own_right)
    assert f"at 32 pixels) is right on {right.mean():.1%} of the 24 test photos" in told.stderr
    profiled = run("profile", bundle.path, *FAST, "--against", "none", "--runs", "20", "--no-anatomy", "--json")
    require_paired(profiled.document["reference"], right, own_right)
    page = tmp_path / "report.html"
    assert run("report", bundle.path, "-o", page, "--json").code == 0
    html = page.read_text()
    short = told.document["reference"]["paired"]
    assert html.count(f'<td class="figure">{right.mean():.1%}</td>') >= 2  # what was run, what it gets wrong
    assert f"{100 * short['difference']:+.1f} points" in html
    assert "data:image/jpeg" in html or not told.document["mistakes"]
    side = f"{bundle.path}:fp32"
    gate = run("gate", "--baseline", side, "--candidate", side, "--target", "openvino", "--budget-s", "0", "--json")
    require_paired(gate.document["drop"]["reference"], right, own_right)
    assert gate.document["drop"]["paired"]["p_value"] == 1


def test_what_is_kept_is_read_back_and_guarded(beside: tuple[Bundle, Result], tmp_path: Path) -> None:
    bundle, told = beside
    found = Evaluation.read(bundle, "openvino-fp32")
    assert found.document() == told.document
    copy = copy_bundle(bundle, tmp_path / "copy.rrr")
    text = copy.reference_network.read_text()
    copy.reference_network.write_text(text.replace('"name": "own.pth"', '"name": "our.pth"'))
    with pytest.raises(CorruptArtifact, match="seal differs"):
        ReferenceNetwork.of(copy)


def test_photos_in_a_folder_are_judged_by_their_folders_names(compiled: Bundle, shapes: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(compiled, tmp_path / "shapes.rrr")
    photos = tmp_path / "photos"
    for label, image in (("circle", "circle"), ("cross", "square"), ("square", "square")):
        shutil.copytree(shapes / "test" / image, photos / label)
    told = run("evaluate", bundle.path, photos, *FAST, "--csv", tmp_path / "answers.csv", "--json")
    assert told.code == 0, told.stderr
    document = told.document
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [row["photo"].split("/")[0] for row in rows]
    assert document["accuracy"]["correct"] == sum(row["right"] == "1" for row in rows) < len(rows) == 24
    expected = confusion_matrix([r["label"] for r in rows], [r["answer"] for r in rows], labels=LABELS)
    np.testing.assert_array_equal(document["confusion"], expected)
    wrong = {row["photo"]: float(row["probability"]) for row in rows if row["right"] == "0"}
    assert wrong[document["mistakes"][0]["photo"]] == max(wrong.values())
    folder = bundle.evaluation_folder("openvino-fp32")
    pictures = {"confusion.svg", "learning.svg", "reliability.svg", "risk.svg", "mistakes.jpg", "unsure.jpg"}
    assert {"evaluation.json", *pictures} == {f.name for f in folder.iterdir()}
    with Image.open(folder / "mistakes.jpg") as sheet:
        assert sheet.width > sheet.height
    printed = run("evaluate", bundle.path, photos, *FAST)
    assert "Confusion matrix" in printed.stdout
    assert "cross/0.png" in printed.stdout


def test_graph_and_network_answer_alike_and_need_no_engine(shared_bundle: Bundle, tmp_path: Path) -> None:
    bundle = copy_bundle(shared_bundle, tmp_path / "shapes.rrr")
    graph = run("evaluate", bundle.path, "--json")
    assert "no engine" in graph.stderr
    network = run("evaluate", bundle.path, "--model", "network", "--json")
    for key in ("accuracy", "confusion", "top_k"):
        if key != "accuracy":
            assert graph.document[key] == network.document[key]
    assert graph.document["accuracy"]["correct"] == network.document["accuracy"]["correct"]
    assert network.document["accuracy"]["correct"] == bundle.manifest.accuracy.correct
    assert bundle.evaluation_names() == ["network", "onnx"]


def test_a_reference_that_is_kept_gives_way_only_to_force(
    beside: tuple[Bundle, Result], shared_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = copy_bundle(beside[0], tmp_path / "shapes.rrr")
    other = ("--reference", shared_bundle.path, "--json")
    told = run("evaluate", bundle.path, *FAST, *other)
    assert told.document["reference"]["name"] == "shapes.rrr"
    assert "own.pth stays the one that profile, report and gate compare with; --force" in told.stderr
    assert ReferenceNetwork.of(bundle).network.name == "own.pth"
    forced = run("evaluate", bundle.path, *FAST, *other, "--force")
    assert forced.code == 0, forced.stderr
    assert "stays" not in forced.stderr
    assert ReferenceNetwork.of(bundle).network.name == "shapes.rrr"


def test_the_photos_of_a_reference_are_answered_once_and_nothing_is_kept_where_the_engine_fails(
    compiled: Bundle, shared_bundle: Bundle, shapes: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(compiled, tmp_path / "shapes.rrr")
    asked: list[int] = []
    network = bundle_beside(bundle, shared_bundle.path)
    counting = network._replace(answer=lambda images, step: asked.append(len(images)) or network.answer(images, step))
    photos = read_labelled(shapes, bundle)
    found = ask_beside(counting, bundle, photos, silent)
    assert (asked, len(found.answers)) == ([24], 24)
    assert found.stored.accuracy.correct == (found.answers == photos.labels).sum()
    nan = Fake.always([np.nan] * 3)
    with pytest.raises(GateFailed, match="24 of 24 answers are no numbers"):
        evaluate_bundle(bundle, Evaluated("onnx", nan, {}), photos, beside=found)
    with pytest.raises(GateFailed, match="24 of 24 answers are no numbers"):
        answers_here(bundle, nan, silent)
    broken = network._replace(answer=lambda images, _: nan.run(images).probabilities)
    with pytest.raises(GateFailed, match="no numbers"):
        ask_beside(broken, bundle, photos, silent)
    assert (bundle.evaluation_names(), bundle.reference_network.exists()) == ([], False)


def test_another_bundle_is_compared_with(compiled: Bundle, shared_bundle: Bundle, tmp_path: Path) -> None:
    bundle = copy_bundle(compiled, tmp_path / "shapes.rrr")
    told = run("evaluate", bundle.path, *FAST, "--reference", shared_bundle.path, "--json")
    assert told.code == 0, told.stderr
    reference = told.document["reference"]
    assert (reference["name"], reference["paired"]["difference"]) == ("shapes.rrr", 0)
    assert reference["params"] == bundle.manifest.cost.params
    assert "flatters" not in told.stderr


def test_training_photos_are_noticed(compiled: Bundle, shapes: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(compiled, tmp_path / "shapes.rrr")
    told = run("evaluate", bundle.path, shapes / "train", *FAST, "--json")
    assert "At least 36 of these photos were trained on" in told.stderr
    assert "flatters" in told.document["notes"][0]
    clean = run("evaluate", bundle.path, shapes, *FAST, "--json")
    assert clean.document["notes"] == []
    assert clean.document["accuracy"]["images"] == 24


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--labels", "folder-order"), 2, "--labels is about a file of weights"),
        (("--own-size", "64"), 2, "--own-size is about a file of weights"),
        (("--reference", "WEIGHTS"), 2, "mean?"),
        (("--reference", "nowhere.pth", "--labels", "folder-order"), 2, "There is no file"),
        (("--reference", "WEIGHTS", "--labels", "folder-order", "--own-size", "64"), 2, "at 32 pixels only"),
        (("--force",), 2, "--force is about the reference"),
        (("--model", "netwrok"), 2, "Did you mean 'network'"),
        (("--model", "onnx", "--precision", "fp32"), 2, "about engines"),
        (("LOOSE",), 5, "no folder of a class"),
        (("nowhere",), 5, "Names are looked for from"),
        (("OTHERS",), 5, "classes that the network does not know: ring"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    compiled: Bundle, weights: tuple[Path, np.ndarray], shapes: Path, tmp_path: Path, *, options, code: int, said: str
) -> None:
    shutil.copytree(shapes / "test" / "circle", tmp_path / "loose")
    shutil.copytree(tmp_path / "loose", tmp_path / "others" / "ring")
    places = {"WEIGHTS": weights[0], "LOOSE": tmp_path / "loose", "OTHERS": tmp_path / "others"}
    told = run("evaluate", compiled.path, *(places.get(word, word) for word in options))
    assert (told.code, said in told.stderr) == (code, True), told.stderr


def test_predict_sums_up_where_the_folders_are_the_classes(compiled: Bundle, shapes: Path) -> None:
    told = run("predict", compiled.path, shapes / "test", "--json")
    rows = told.document["predictions"]
    right = sum(Path(row["image"]).parent.name == row["label"] for row in rows)
    summary = told.document["summary"]
    assert (summary["images"], summary["correct"]) == (24, right)
    assert list(summary["per_class"]) == list(LABELS)
    said = run("predict", compiled.path, shapes / "test").stdout
    assert f"{right} of 24 photos are what their folder is named" in said
    assert said.rstrip().endswith(f"rrr-edge evaluate {compiled.path} {shapes / 'test'}")
    assert "summary" not in json.loads(
        run("predict", compiled.path, shapes / "test" / "cross" / "0.png", "--json").stdout
    )
