"""A user's own network beside a compressed one: torchvision's answers, and labels that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_network import make_own, save, torchvisions_answers
from small_bundle import LABELS
from torchvision.models.resnet import ResNet
from typer.testing import CliRunner

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference_network import ReferenceNetwork, require_order
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import source_spec
from rrr_edge.cli import app
from rrr_edge.compress.own_network import _macs, open_own
from rrr_edge.errors import BadInput
from rrr_edge.networks import cost
from rrr_edge.timing.progress import silent

FIT = Preprocess(image_size=32)


@pytest.fixture(scope="module")
def own(shared_bundle: Bundle) -> ResNet:
    return make_own(shared_bundle.reference.images, shared_bundle.reference.labels, classes=3, noise=2)


@pytest.fixture(scope="module")
def file(own: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(own, tmp_path_factory.mktemp("own") / "own.pth")


def write_labels(folder: Path, *labels: str) -> str:
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    return str(folder / "labels.txt")


def test_it_answers_as_torchvision_does_whatever_the_order_of_its_outputs(
    shared_bundle: Bundle, own: ResNet, file: Path, tmp_path: Path
) -> None:
    images = shared_bundle.reference.images
    expected = torchvisions_answers(own, images)
    assert len(set(expected.tolist())) > 1
    found = open_own(file, "folder-order", LABELS, preprocess=FIT)
    np.testing.assert_array_equal(found.answer(images, silent).argmax(1), expected)
    turned = write_labels(tmp_path, LABELS[2], LABELS[0], "", LABELS[1])
    answers = open_own(file, turned, LABELS, preprocess=FIT).answer(images, silent).argmax(1)
    np.testing.assert_array_equal(answers, np.array([2, 0, 1])[expected])
    assert (found.about.name, found.about.params) == ("own.pth", sum(p.numel() for p in own.parameters()))


def test_compress_measures_it_on_the_test_photos_and_keeps_it(
    shared_bundle: Bundle, shapes: Path, tmp_path: Path
) -> None:
    """A ResNet18 of torchvision with a classifier of three classes; its trunk is fine-tuned meanwhile, in 0 epochs."""
    reference = shared_bundle.reference
    own = make_own(reference.images, reference.labels, classes=3, noise=2, depths=SOURCES["resnet18"].depths)
    file, out = save(own, tmp_path / "own.pth"), tmp_path / "x.rrr"
    words = ["compress", str(shapes), "-o", str(out), "--weights", str(file), "--labels", "folder-order", "--json"]
    words += ["--method", "finetune", "--backbone", "resnet18", "--image-size", "32", "--epochs", "0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(out)
    right = torchvisions_answers(own, bundle.reference.images) == bundle.reference.labels
    kept = ReferenceNetwork.of(bundle)
    assert kept is not None
    assert kept.accuracy.accuracy == pytest.approx(right.mean())
    assert 0 < right.mean() < 1
    assert json.loads(done.stdout)["reference"]["name"] == "own.pth"
    others = write_labels(tmp_path, "cup", *LABELS[1:])
    refused = CliRunner().invoke(app, [*words[:3], f"{out}-2", *words[4:7], others, *words[8:]])
    assert refused.exit_code == 5, refused.output
    assert "cup" in json.loads(refused.stdout)["error"]


def test_its_macs_are_those_of_the_same_network_by_our_formula() -> None:
    assert _macs(SOURCES["resnet50"], 20, 64) == cost(source_spec(20, "resnet50"), 64).macs


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("circle", "cross"), "2 labels, and .* 3 classes"),
        (("circle", "cross", "ring"), "lacks square; it has ring"),
        (("circle", "cross", "cross"), "lacks square; a label is there twice"),
    ],
)
def test_labels_of_another_number_or_other_classes_are_refused(
    file: Path, tmp_path: Path, labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        open_own(file, write_labels(tmp_path, *labels), LABELS, preprocess=FIT)


def test_a_head_of_other_classes_or_none_is_refused(own: ResNet, file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="classifier of 3 classes, and there are 4"):
        open_own(file, "folder-order", (*LABELS, "star"), preprocess=FIT)
    bare = {name: tensor for name, tensor in own.state_dict().items() if not name.startswith("fc.")}
    torch.save(bare, tmp_path / "bare.pth")
    with pytest.raises(BadInput, match="without a linear classifier"):
        open_own(tmp_path / "bare.pth", "folder-order", LABELS, preprocess=FIT)
    with pytest.raises(BadInput, match="list of labels"):
        open_own(file, str(tmp_path / "none.txt"), LABELS, preprocess=FIT)


def test_outputs_in_another_order_are_noticed(shared_bundle: Bundle, file: Path) -> None:
    reference = shared_bundle.reference
    network = open_own(file, "folder-order", LABELS, preprocess=FIT)
    right = np.eye(3, dtype=np.float32)[reference.labels]
    require_order(network.about, right, reference.labels, LABELS)
    with pytest.raises(BadInput, match=r"another order .* 0.0% of 24 photos .* 100.0% where 'circle' seems to mean"):
        require_order(network.about, right[:, [1, 2, 0]], reference.labels, LABELS)
    swapped = right[:, [0, 2, 1]]
    with pytest.raises(BadInput, match="'cross' seems to mean 'square', 'square' seems to mean 'cross'"):
        require_order(network.about, swapped, reference.labels, LABELS)
    few = np.r_[0:2, 8:10, 16:18]  # which prove nothing
    require_order(network.about, swapped[few], reference.labels[few], LABELS)
    require_order(network.about.model_copy(update={"source": "bundle"}), swapped, reference.labels, LABELS)


def test_chance_is_not_taken_for_another_order(file: Path) -> None:
    network = open_own(file, "folder-order", LABELS, preprocess=FIT)
    rng = np.random.default_rng(0)
    for _ in range(300):
        require_order(network.about, rng.dirichlet([1] * 3, 40).astype(np.float32), rng.integers(0, 3, 40), LABELS)
