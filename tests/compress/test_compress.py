"""From photos to a bundle: what is kept when a run is stopped, repeated, resumed or refused."""

import csv
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from command import Command
from PIL import Image
from safetensors.torch import load_file
from small_bundle import LABELS, write_shapes

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, BasisScaling, LinearProbe, NetTailor, Recipe, Training
from rrr_edge.bundle.structure import in_stump
from rrr_edge.compress import METHODS, Run, compress, plan
from rrr_edge.compress.method import CompressedNetwork, Inputs
from rrr_edge.compress.validation import MayBeGuessing
from rrr_edge.errors import BadInput, CannotRunHere, MissingLibrary, UsageError, pip_install
from rrr_edge.images.dataset import Dataset, scan
from rrr_edge.images.fit import PADDING, fit
from rrr_edge.timing.progress import Step
from rrr_edge.training import Examples
from rrr_edge.training import Run as TrainingRun

UNTRAINED = RRR(weights="random", image_size=32, branches=1, training=Training(epochs=0, validation_share=0))
SMALL = ("--weights", "random", "--image-size", "32", "--branches", "2", "--json")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def untrained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compress(shapes, tmp_path_factory.mktemp("untrained") / "x.rrr", recipe=UNTRAINED)


@pytest.fixture
def out(untrained: Bundle, tmp_path: Path) -> Path:
    """A finished bundle of UNTRAINED."""
    shutil.copytree(untrained.path, tmp_path / "x.rrr")
    return tmp_path / "x.rrr"


def interrupt(out: Path, recipe: Recipe, data_sha256: str) -> Path:
    """What a run leaves that was stopped before its first checkpoint; returns its folder."""
    work = out.with_name(f".{out.name}.work")
    work.mkdir()
    (work / "task.json").write_text(json.dumps({"recipe": recipe.model_dump(), "data_sha256": data_sha256}))
    return work


def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: object, **__: object) -> None:
        raise AssertionError("the photos were read")

    monkeypatch.setattr("rrr_edge.compress.scan", scan)


# Stopped from outside


def test_a_run_killed_again_and_again_ends_with_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    """kill -9 in the scan, in the training, while the bundle is written, and somewhere: old or new, never half."""
    command = ("compress", shapes, *SMALL, "--epochs", "3")
    alone = tmp_path / "alone.rrr"
    assert Command(tmp_path, *command, "-o", alone).end() == 0

    out, work = tmp_path / "killed.rrr", tmp_path / ".killed.rrr.work"
    checkpoint = work / "training" / "checkpoint.safetensors"
    wait_ms = np.random.default_rng(0).uniform(0, 60, 4)
    conditions = (work.exists, checkpoint.exists, (work / "bundle").exists, (work / "bundle" / "model.onnx").exists)
    for condition, pause_ms in zip(conditions, wait_ms, strict=True):
        running = Command(tmp_path, *command, "-o", out, "--resume")
        running.wait_for(condition)
        time.sleep(pause_ms / 1000)
        running.send(signal.SIGKILL)
        if running.end() == 0:
            break  # it was quicker than the pause
        assert not out.exists()
    last = Command(tmp_path, *command, "-o", out, "--resume")
    assert last.end() == 0, last.stderr
    assert not work.exists()
    killed, whole = Bundle.open(out), Bundle.open(alone)
    killed.check()
    assert sha256(killed.weights) == sha256(whole.weights)
    assert killed.manifest.verification.passed
    assert killed.manifest.accuracy == whole.manifest.accuracy
    assert last.document == json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_training_that_can_be_resumed(
    shapes: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "x.rrr"
    running = Command(tmp_path, "compress", shapes, *SMALL, "--epochs", "1000", "-o", out)
    running.wait_for((tmp_path / ".x.rrr.work" / "training" / "checkpoint.safetensors").exists)
    running.send(number)
    assert running.end() == code
    document = running.document
    assert document["exit_code"] == code
    assert "The training was stopped in epoch" in document["error"]
    assert "--resume" in document["advice"]
    assert f"error: {document['error']}" in running.stderr
    assert "Traceback" not in running.stderr
    assert not out.exists()


# Something is there already


@pytest.mark.parametrize("verb", [compress, plan])
def test_what_exists_is_not_overwritten(
    shapes: Path, out: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[..., object]
) -> None:
    nothing_is_read(monkeypatch)
    before = tree(out)
    with pytest.raises(UsageError, match=r"x\.rrr exists") as caught:
        verb(shapes, out, recipe=UNTRAINED)
    assert "--force" in caught.value.advice
    assert tree(out) == before


def test_force_replaces_a_bundle_as_a_whole(shapes: Path, out: Path) -> None:
    (out / "engines" / "old").mkdir(parents=True)
    again = compress(shapes, out, recipe=UNTRAINED.model_copy(update={"seed": 1}), run=Run(force=True))
    assert again.manifest.recipe.seed == 1
    assert not (out / "engines").exists()
    assert os.listdir(out.parent) == ["x.rrr"]


@pytest.mark.parametrize("what", ["the photos", "a folder", "a file"])
def test_force_replaces_nothing_but_bundles(shapes: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    else:
        shutil.copytree(shapes, out)
    data = out if what == "the photos" else shapes
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="exists and is no bundle"):
        compress(data, out, recipe=UNTRAINED, run=Run(force=True))
    assert tree(tmp_path) == before


def test_resuming_what_is_finished_returns_it(shapes: Path, out: Path) -> None:
    before = tree(out)
    work = interrupt(out, UNTRAINED, Bundle.open(out).manifest.provenance.data_sha256)
    assert compress(shapes, out, recipe=UNTRAINED, run=Run(resume=True)) == Bundle.open(out)
    assert tree(out) == before
    assert not work.exists()


@pytest.mark.parametrize("verb", [compress, plan])
def test_resuming_something_else_over_a_finished_bundle_is_refused(
    shapes: Path, out: Path, verb: Callable[..., object]
) -> None:
    with pytest.raises(UsageError, match="exists"):
        verb(shapes, out, recipe=UNTRAINED.model_copy(update={"seed": 1}), run=Run(resume=True))


@pytest.mark.parametrize("verb", [compress, plan])
def test_an_interrupted_run_is_not_lost_by_accident(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[..., object]
) -> None:
    nothing_is_read(monkeypatch)
    work = interrupt(tmp_path / "x.rrr", UNTRAINED, "0" * 64)
    with pytest.raises(UsageError, match="An interrupted run for .* is kept in") as caught:
        verb(shapes, tmp_path / "x.rrr", recipe=UNTRAINED)
    assert caught.value.advice == "Go on with --resume, or start anew with --force."
    assert work.exists()


@pytest.mark.parametrize("verb", [compress, plan])
@pytest.mark.parametrize("other", ["photos", "settings"])
def test_an_interrupted_run_is_only_resumed_as_the_same(
    shapes: Path, untrained: Bundle, tmp_path: Path, other: str, verb: Callable[..., object]
) -> None:
    digest = untrained.manifest.provenance.data_sha256
    changed = UNTRAINED.model_copy(update={"seed": 1})
    interrupt(tmp_path / "x.rrr", *((UNTRAINED, "0" * 64) if other == "photos" else (changed, digest)))
    with pytest.raises(UsageError, match=f"had other {other}") as caught:
        verb(shapes, tmp_path / "x.rrr", recipe=UNTRAINED, run=Run(resume=True))
    assert "--force" in caught.value.advice


def test_force_starts_an_interrupted_run_anew(shapes: Path, tmp_path: Path) -> None:
    interrupt(tmp_path / "x.rrr", UNTRAINED, "0" * 64)
    assert compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED, run=Run(force=True))
    assert os.listdir(tmp_path) == ["x.rrr"]


def test_force_over_a_bundle_goes_on_with_no_other_task(shapes: Path, out: Path) -> None:
    interrupt(out, UNTRAINED, "0" * 64)
    with pytest.raises(UsageError, match="had other photos"):
        compress(shapes, out, recipe=UNTRAINED, run=Run(resume=True, force=True))


# Refused


@pytest.mark.parametrize("verb", [compress, plan])
@pytest.mark.parametrize(
    "recipe",
    [
        UNTRAINED.model_copy(update={"training": Training(feature_views=2)}),
        LinearProbe(weights="random", image_size=32, training=Training(feature_views=2)),
    ],
)
def test_settings_that_cannot_be_trained_leave_nothing_behind(
    shapes: Path, tmp_path: Path, recipe: Recipe, verb: Callable[..., object]
) -> None:
    with pytest.raises(UsageError, match="features of a stump that is still trained"):
        verb(shapes, tmp_path / "x.rrr", recipe=recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxsim", "onnxruntime"])
def test_a_library_for_the_end_is_missed_at_the_beginning(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    nothing_is_read(monkeypatch)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=f"needs {library}, which is not installed") as caught:
        compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED)
    assert caught.value.advice == pip_install("compress")


def test_a_gpu_that_is_not_there_is_said_before_the_photos_are_read(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_read(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CannotRunHere, match="no CUDA GPU"):
        compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED, run=Run(device="cuda"))


def test_a_share_of_bad_photos_is_a_share(shapes: Path, tmp_path: Path) -> None:
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            plan(shapes, tmp_path / "x.rrr", recipe=UNTRAINED, run=Run(max_bad=share))


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ("imagnet", UsageError, r"no weights 'imagnet' of ResNet152. Did you mean 'imagenet'\?"),
        ("photo.pth", BadInput, "photo.pth"),
        ("imagenet", BadInput, "resnet152-394f9c45.pth is damaged or another file"),
        ("shallow.pth", BadInput, "shallow.pth has 3,2,1,1 blocks .* and 3,3,1,1 are needed"),
    ],
)
@pytest.mark.parametrize("verb", [compress, plan])
def test_unusable_weights_leave_nothing_behind(
    shapes: Path,
    tmp_path: Path,
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: Callable[..., object],
    weights: str,
    error: type[Exception],
    said: str,
) -> None:
    """They are read before the photos, also by a dry run."""
    nothing_is_read(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "photo.pth").write_bytes(b"not weights")
    (tmp_path / "shallow.pth").symlink_to(original)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet152-394f9c45.pth").write_bytes(b"not weights")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=said):
        verb(shapes, "x.rrr", recipe=UNTRAINED.model_copy(update={"weights": weights, "depths": (3, 3, 1, 1)}))
    assert sorted(tmp_path.rglob("*")) == before


def test_unusable_photos_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cup").mkdir(parents=True)
    with pytest.raises(BadInput):
        compress(tmp_path / "photos", tmp_path / "x.rrr", recipe=UNTRAINED)
    assert os.listdir(tmp_path) == ["photos"]


def test_a_place_that_cannot_be_written_is_said_before_the_training(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotRunHere, match="cannot be written") as caught:
        compress(shapes, tmp_path / "file" / "x.rrr", recipe=RRR(weights="random"))
    assert caught.value.exit_code == 4
    assert caught.value.advice == "Choose another folder."


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_full_disk_is_said_when_the_bundle_and_when_a_checkpoint_is_written(
    shapes: Path, small_disk: Path, epochs: int
) -> None:
    recipe = UNTRAINED.model_copy(update={"training": Training(epochs=epochs, batch_size=16)})
    with pytest.raises(CannotRunHere, match=r"The disk that holds .* is full") as caught:
        compress(shapes, small_disk / "x.rrr", recipe=recipe)
    assert caught.value.exit_code == 4
    assert not (small_disk / "x.rrr").exists()


# Several processes


def in_two_processes(folder: Path, *arguments: str | Path) -> tuple[Command, Command]:
    """As torchrun starts them, without its slow start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    commands = []
    for rank in ("0", "1"):
        (folder / rank).mkdir(parents=True)
        env = {**common, "RANK": rank, "LOCAL_RANK": rank}
        commands.append(Command(folder / rank, "compress", *arguments, env=env))
    return commands[0], commands[1]


@pytest.mark.usefixtures("one_thread")
def test_two_processes_make_the_bundle_of_one(shapes: Path, original: Path, tmp_path: Path) -> None:
    asked = RRR(
        weights=str(original),
        image_size=32,
        branches=2,
        training=Training(epochs=2, batch_size=12, learning_rate=1e-6, validation_share=0),
    )
    (tmp_path / "recipe.toml").write_text("[training]\nbatch_size = 12\nlearning_rate = 1e-6\nvalidation_share = 0\n")
    out, settings = tmp_path / "x.rrr", ("--recipe", tmp_path / "recipe.toml", "--weights", original, "--epochs", "2")
    arguments = (shapes, "-o", out, *settings, "--image-size", "32", "--branches", "2", "--device", "cpu", "--json")
    first, second = in_two_processes(tmp_path / "made", *arguments)
    assert [first.end(), second.end()] == [0, 0], first.stderr + second.stderr
    assert first.document["recipe"] == asked.model_dump(mode="json")
    assert second.stdout == second.stderr == ""
    dataset = scan(shapes, Preprocess(image_size=32))
    examples = Examples(dataset.train.images, dataset.train.labels)
    alone = METHODS[RRR].make(asked, Inputs(dataset, examples, Preprocess(image_size=32), TrainingRun(device="cpu")))
    expected, found = alone.network.state_dict(), load_file(Bundle.open(out).weights)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max()
        if in_stump(name) or not tensor.dim():
            assert difference == 0, name
        elif "running" in name:
            # These start at 0 and 1; an untrained branch, or another, would be about as far away as they have come.
            assert difference < (tensor - float(name.endswith("var"))).abs().max() / 100, name
        else:
            # AdamW's step is at most 1.02 of the learning rate, by Cauchy's inequality for its two means in the first 6
            # steps: roundings can part two trainings by 2 * 6 * 1.02e-6. That they part less is seen in test_share.
            assert difference < 1.3e-5, name

    first, second = in_two_processes(tmp_path / "refused", *arguments)
    assert [first.end(), second.end()] == [2, 4]
    assert first.document["error"] == f"{out} exists."
    assert second.stdout == ""
    assert "The first process stopped" in second.stderr


# Made


def test_the_plan_names_what_would_be_made_and_writes_nothing(shapes: Path, untrained: Bundle, tmp_path: Path) -> None:
    planned = plan(shapes, tmp_path / "x.rrr", recipe=UNTRAINED)
    assert not list(tmp_path.iterdir())
    manifest = untrained.manifest
    assert planned.photos_per_class == {"train": dict.fromkeys(LABELS, 12), "test": dict.fromkeys(LABELS, 8)}
    assert planned.photos == manifest.provenance.images
    assert planned.network == manifest.spec
    assert planned.cost == manifest.cost
    assert planned.recipe == manifest.recipe
    assert planned.document()["bundle"] == str(tmp_path / "x.rrr")


def test_a_network_that_guesses_and_a_small_test_set_are_noted(untrained: Bundle) -> None:
    assert untrained.manifest.accuracy
    assert untrained.manifest.accuracy.interval[0] <= 1 / len(LABELS)
    notes = " ".join(untrained.manifest.provenance.notes)
    assert "no better than guessing" in notes
    assert "mean little with 24 test photos, of which a single one is 4.2%" in notes


def test_libraries_under_other_names_have_a_version_too(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in ("onnxruntime", "pillow"):
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr("rrr_edge.compress.write.version", version)
    versions = compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED).manifest.provenance.versions
    assert versions["onnxruntime"] == onnxruntime.__version__
    assert versions["pillow"] == "unknown"


def test_what_the_scan_found_is_told_before_the_training(shapes: Path, tmp_path: Path) -> None:
    found: list[Dataset] = []

    def stop(dataset: Dataset) -> None:
        found.append(dataset)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED, run=Run(after_scan=stop))
    assert found[0].counts == {"train": dict.fromkeys(LABELS, 12), "test": dict.fromkeys(LABELS, 8)}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            BasisScaling(backbone="resnet18"),
            "6 photos beside the test photos cannot tell a loss of 1.00%, .* --max-drop",
        ),
        (
            NetTailor(backbone="resnet18"),
            "6 photos .* cannot tell a loss of 0.50%, for one of them is 16.7%: .* --within",
        ),
        (BasisScaling(backbone="resnet18", max_drop=0.2), ""),
        (BasisScaling(backbone="resnet18", sparsity=0.5), ""),
    ],
)
def test_that_so_few_photos_cannot_decide_is_told_before_the_training(
    shapes: Path, tmp_path: Path, recipe: Recipe, said: str
) -> None:
    told: list[str] = []
    small = recipe.model_copy(update={"weights": "random", "image_size": 32})
    plan(shapes, tmp_path / "x.rrr", recipe=small, run=Run(warn=told.append))
    assert len(told) == bool(said)
    assert all(re.match(said, sentence) for sentence in told)


def test_what_may_only_guess_is_not_kept(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What helps is another task, which could not go on with it."""

    def make(recipe: RRR, inputs: Inputs) -> CompressedNetwork:
        assert inputs.run.checkpoints
        (inputs.run.checkpoints / "transfer").mkdir(parents=True)
        raise MayBeGuessing("It guesses.")

    monkeypatch.setitem(METHODS, RRR, METHODS[RRR]._replace(make=make))
    with pytest.raises(MayBeGuessing):
        compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED)
    assert not list(tmp_path.iterdir())


def test_validation_photos_are_judged_and_decide_nothing(shapes: Path, tmp_path: Path) -> None:
    recipe = UNTRAINED.model_copy(update={"training": Training(epochs=2, batch_size=12, validation_share=0)})
    shutil.copytree(shapes, tmp_path / "photos")
    shutil.copytree(shapes / "test", tmp_path / "photos" / "val")
    steps: list[Step] = []
    judged = compress(tmp_path / "photos", tmp_path / "judged.rrr", recipe=recipe, on_progress=steps.append)
    rows = list(csv.DictReader((judged.path / "training.csv").open()))
    accuracy = judged.manifest.accuracy
    assert accuracy is not None
    assert rows[0]["validation_accuracy"] == ""
    assert float(rows[1]["validation_accuracy"]) == pytest.approx(accuracy.accuracy)
    last = [step for step in steps if step.stage == "train"][-1]
    assert last.note.endswith(f"validation right {accuracy.accuracy:.1%} after epoch 2")
    assert sha256(judged.weights) == sha256(compress(shapes, tmp_path / "x.rrr", recipe=recipe).weights)


def test_a_share_of_the_training_photos_is_held_out_by_default_and_said(shapes: Path, tmp_path: Path) -> None:
    """Of 12 photos a class a tenth is one. Its classifier guesses: all are alike on all photos."""
    recipe = UNTRAINED.model_copy(update={"training": Training(epochs=1, batch_size=12, keep="best")})
    bundle = compress(shapes, tmp_path / "x.rrr", recipe=recipe)
    manifest = bundle.manifest
    assert manifest.provenance.images == {"train": 33, "val": 3, "test": 24}
    assert manifest.recipe.training.validation_share == 0.1
    assert len(bundle.calibration) == 33
    (row,) = csv.DictReader((bundle.path / "training.csv").open())
    notes = manifest.provenance.notes
    assert "3 photos of 36 were held out of the training to validate it; --validation-share 0 trains on all." in notes
    said = f"after epoch 1 {float(row['train_accuracy']):.1%} of the augmented training photos were right"
    assert any(said in note and "of 3 validation photos" in note for note in notes)
    digest = manifest.provenance.data_sha256
    assert digest == scan(shapes, manifest.preprocess, seed=0).digest


def test_photos_that_decide_must_be_there(shapes: Path, tmp_path: Path) -> None:
    def refused(photos: Path, training: Training, error: type[Exception], said: str, **more: object) -> None:
        recipe = UNTRAINED.model_copy(update={"training": training, **more})
        with pytest.raises(error, match=said):
            plan(photos, tmp_path / "x.rrr", recipe=recipe)

    refused(shapes, Training(keep="best", validation_share=0), UsageError, "no validation photos to tell the best")
    refused(shapes, Training(validation_share=0), BadInput, "nothing can decide", depths="auto")
    shutil.copytree(shapes, tmp_path / "photos")
    shutil.copytree(shapes / "test", tmp_path / "photos" / "val")
    refused(tmp_path / "photos", Training(validation_share=0.2), UsageError, "has val/, so no training photos")
    given = plan(tmp_path / "photos", tmp_path / "x.rrr", recipe=UNTRAINED)
    assert (given.photos["train"], given.recipe.training.validation_share) == (36, 0)
    auto = UNTRAINED.model_copy(update={"training": Training(), "depths": "auto"})
    assert plan(shapes, tmp_path / "x.rrr", recipe=auto).photos == {"train": 30, "val": 6, "test": 24}


def test_the_same_photos_recipe_and_seed_give_the_same_bytes(shapes: Path, untrained: Bundle, tmp_path: Path) -> None:
    again = compress(shapes, tmp_path / "x.rrr", recipe=UNTRAINED)
    assert sha256(again.weights) == sha256(untrained.weights)
    assert np.array_equal(again.reference.images, untrained.reference.images)


def test_photos_are_never_changed_but_fitted_and_skipped_or_double_ones_are_noted(tmp_path: Path) -> None:
    """Also where names of files and of the folder are not UTF-8: then records have them escaped."""
    photos = write_shapes(tmp_path / os.fsdecode(b"photos\xff"), train=4, test=2)
    half, same = (os.fsdecode(name) for name in (b"half\xff.png", b"same\xff.png"))
    (photos / "train" / "circle" / half).write_bytes((photos / "train" / "circle" / "0.png").read_bytes()[:99])
    shutil.copy(photos / "train" / "cross" / "0.png", photos / "test" / "cross" / same)
    Image.new("RGB", (64, 32)).save(photos / "train" / "square" / "wide.png")
    before = tree(photos)
    recipe = UNTRAINED.model_copy(update={"fit": "pad"})
    bundle = compress(photos, tmp_path / "x.rrr", recipe=recipe, run=Run(max_bad=0.1))
    assert bundle.manifest.preprocess == Preprocess(image_size=32, fit="pad", decoding="reduced")
    (padded,) = (image for image in bundle.calibration if (image[0] == PADDING).all())
    assert (padded == fit(np.zeros((32, 64, 3), np.uint8), 32, "pad")).all()
    assert tree(photos) == before
    skipped, double = (next(n for n in bundle.manifest.provenance.notes if word in n) for word in ("skipped", "also"))
    assert "1 unreadable" in skipped
    assert r"train/circle/half\udcff.png" in skipped
    assert r"test/cross/same\udcff.png = train/cross/0.png" in double
    assert bundle.manifest.provenance.data == r"photos\udcff"
    assert bundle.manifest.provenance.images == {"train": 13, "test": 7}
