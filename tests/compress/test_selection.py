"""Algorithm 1: its order and rule by hand, its trainings by what they start from, and that nothing is done twice."""

import csv
import io
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rrr_edge.bundle import files
from rrr_edge.bundle.folder import SELECTION, SELECTION_PLOT
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, Selection, Training
from rrr_edge.bundle.reference import Outputs
from rrr_edge.compress import Run, compress
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.rrr import selection
from rrr_edge.compress.rrr.selection import additions, relative_gain, select_depths
from rrr_edge.errors import CorruptArtifact
from rrr_edge.images.dataset import Dataset, Split
from rrr_edge.networks import Network
from rrr_edge.timing.progress import Step
from rrr_edge.training import Examples, Trained
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training.stage_weights import state_of

CLASSES = 3
pytestmark = pytest.mark.usefixtures("one_thread")


def split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % CLASSES)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images[..., 0] = 255 * labels[:, None, None] // (CLASSES - 1)
    return Split(images, labels, tuple(f"{seed}-{i}.png" for i in range(count)))


def dataset(train: int = 24, val: int = 6) -> Dataset:
    none: tuple[()] = ()
    return Dataset(
        Path("photos"), "splits", ("a", "b", "c"), split(train, 0), split(val, 1), split(9, 2), *(
            none, none, "digest"
        )
    )  # fmt: skip


def inputs(data: Dataset, run: TrainingRun = TrainingRun()) -> Inputs:  # noqa: B008  (frozen)
    examples = Examples(data.train.images, data.train.labels)
    return Inputs(data, examples, Preprocess(image_size=32), run)


def recipe(original: Path, epochs: int = 1, **settings: object) -> RRR:
    return RRR(
        weights=str(original),
        image_size=32,
        branches=2,
        depths="auto",
        selection=Selection(**settings),
        training=Training(epochs=epochs, batch_size=12, validation_share=0.2),
    )


def rows_of(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table)))


# The order


def test_the_order_is_that_of_the_authors_runs() -> None:
    visited = [addition.depths for addition in additions("algorithm")]
    assert len(visited) == 46
    assert visited[:3] == [(2, 1, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1)]
    assert visited[8:10] == [(3, 8, 1, 1), (3, 8, 2, 1)]
    assert visited[43:] == [(3, 8, 36, 1), (3, 8, 36, 2), (3, 8, 36, 3)]


def test_cyclic_gives_each_unfinished_phase_a_block_in_turn() -> None:
    assert [addition.depths for addition in additions("algorithm", "resnet50")][-1] == (3, 4, 6, 3)
    found = list(additions("cyclic"))
    names = [addition.block for addition in found]
    assert names[:10] == [*(f"conv{p}_{i}" for i in (2, 3) for p in (2, 3, 4, 5)), "conv3_4", "conv4_4"]
    assert names[-2:] == ["conv4_35", "conv4_36"]
    assert found[-1].depths == (3, 8, 36, 3)
    assert set(names) == {addition.block for addition in additions("algorithm")}


@pytest.mark.parametrize("order", ["algorithm", "cyclic"])
def test_every_addition_is_one_block_of_the_phase_it_names(order: str) -> None:
    before = np.array((1, 1, 1, 1))
    for block, depths in additions(order):
        phase, number = map(int, block.removeprefix("conv").split("_"))
        difference = np.array(depths) - before
        assert difference.tolist() == [int(phase == p) for p in (2, 3, 4, 5)]
        assert depths[phase - 2] == number
        before = np.array(depths)


# The rule, with scripted accuracies and no training


class Script:
    """Instead of training, add 1 to every parameter; instead of judging, answer with the next accuracy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
        self.started: list[dict[str, Tensor]] = []
        self.ended: list[dict[str, Tensor]] = []
        self.recipes: list[RRR] = []
        self.materials: list[Inputs] = []
        self._accuracies = iter(accuracies)
        monkeypatch.setattr(selection, "learn", self.learn)
        monkeypatch.setattr(selection, "predict", self.predict)

    def learn(self, network: Network, recipe: RRR, inputs: Inputs) -> Trained:
        self.started.append(state_of(network))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
        self.ended.append(state_of(network))
        self.recipes.append(recipe)
        self.materials.append(inputs)
        return Trained((), "32-true", "cpu")

    def predict(self, network: Network, images: np.ndarray, *, preprocess: Preprocess) -> Outputs:
        """The photos to judge by are 20, sorted by class, of which the first answers are right."""
        labels = np.sort(np.arange(len(images)) % CLASSES)
        right = round(next(self._accuracies) * len(images))
        answers = np.where(np.arange(len(images)) < right, labels, (labels + 1) % CLASSES)
        return Outputs(np.eye(CLASSES, dtype=np.float32)[answers], np.zeros((0, 0, 0), np.float32))


# 0.6 after 0.5 is a gain of 1/6, 0.65 one of 1/13, and 0.8 would be one of 3/16 over 0.65 but comes too late.
ACCURACIES = [0.5, 0.6, 0.65, 0.8]


@pytest.mark.parametrize(
    ("settings", "decisions", "depths"),
    [
        ({"epsilon": 0.1}, "start append stop", (2, 1, 1, 1)),
        ({"epsilon": 0.17}, "start stop", (1, 1, 1, 1)),
        ({"epsilon": 0.07}, "start append append append", (3, 2, 1, 1)),
        ({"epsilon": 0.1, "stop": False}, "start append stop look", (2, 1, 1, 1)),
        ({"epsilon": 0.1, "order": "cyclic"}, "start append stop", (2, 1, 1, 1)),
        # Five of the 20 photos: no gain here is as much.
        ({}, "start stop", (1, 1, 1, 1)),
        ({"max_additions": 0}, "start", (1, 1, 1, 1)),
    ],
)
def test_the_first_block_that_gains_too_little_ends_the_procedure(
    monkeypatch: pytest.MonkeyPatch, original: Path, settings: dict[str, object], decisions: str, depths: tuple[int]
) -> None:
    script = Script(monkeypatch, ACCURACIES)
    asked = recipe(original, **({"max_additions": 3} | settings))
    if settings.get("order") == "cyclic":
        asked = asked.model_copy(update={"weights": "random"})
    selected = select_depths(asked, inputs(dataset(val=20)))
    rows = rows_of(selected.files[SELECTION])
    assert " ".join(row["decision"] for row in rows) == decisions
    assert selected.depths == depths
    assert len(script.started) == len(rows)
    assert [float(row["accuracy"]) for row in rows] == ACCURACIES[: len(rows)]
    assert float(rows[0]["epsilon"]) == settings.get("epsilon", 5 / 20)
    assert any("never stopped" in note for note in selected.notes) == ("stop" not in decisions)
    assert "20 validation photos" in selected.notes[0]
    assert "_".join(map(str, depths)) in selected.notes[0]


@pytest.mark.parametrize(("control", "told"), [(0.62, True), (0.6, True), (0.58, False), (None, False)])
def test_a_control_that_does_as_well_is_told(control: float | None, told: bool) -> None:
    rows = [
        selection.Row(0, "", "1_1_1_1", 0.5, None, 0.1, "start", 3, 1.0, 0.5 if control else None),
        selection.Row(1, "conv2_2", "2_1_1_1", 0.6, 1 / 6, 0.1, "append", 6, 1.0, control),
    ]
    notes = selection._notes(rows, (2, 1, 1, 1), "20 validation photos", True)
    assert any("the epochs helped, not the blocks" in note for note in notes) == told
    assert len(selection._notes(rows, (1, 1, 1, 1), "20 validation photos", True)) == 1


def test_gains_are_relative_to_the_new_accuracy() -> None:
    assert relative_gain(0.8, 0.6) == pytest.approx(0.25)
    assert relative_gain(0.6, 0.8) == pytest.approx(-1 / 3)
    assert relative_gain(0.0, 0.0) == 0
    assert relative_gain(0.0, 0.2) == float("-inf")


def test_each_step_goes_on_from_the_last_with_the_new_block_as_published(
    monkeypatch: pytest.MonkeyPatch, original: Path
) -> None:
    from safetensors.torch import load_file

    published = load_file(original)
    script = Script(monkeypatch, [0.5] * 4)
    asked = recipe(original, epochs=7, stop=False, max_additions=3)
    select_depths(asked, inputs(data := dataset()))
    new = ["", "layer1.1.", "layer1.2.", "layer2.1."]
    for step, (block, started) in enumerate(zip(new, script.started, strict=True)):
        for name, tensor in started.items():
            if step == 0 or name.startswith(block):
                assert name.startswith("fc.") or torch.equal(tensor, published[name]), name
            else:
                assert torch.equal(tensor, script.ended[step - 1][name]), name
        ours = script.recipes[step]
        assert ours.seed == sum((4, 5, 6, 7)[step : step + 1])
        assert (ours.training.epochs, ours.training.ema_fraction, ours.training.learning_rate) == (7, 0, 1e-3)
        assert len(script.materials[step].examples) == 24
        seen = {image.tobytes() for image in script.materials[step].examples.images}
        assert seen == {image.tobytes() for image in data.train.images}
    assert any(name.startswith("layer2.1.") for name in script.started[3])


# With true trainings


def replayed(rows: list[dict[str, str]]) -> str:
    """Algorithm 1 by hand on the figures in the table."""
    chosen, old = rows[0]["depths"], float(rows[0]["accuracy"])
    for row in rows[1:]:
        accuracy = float(row["accuracy"])
        if accuracy == 0 or (accuracy - old) / accuracy < float(row["epsilon"]):
            return chosen
        chosen, old = row["depths"], accuracy
    return chosen


class Crash(Exception):
    pass


def test_a_selection_ends_in_a_bundle_whose_table_replays(shapes: Path, original: Path, tmp_path: Path) -> None:
    asked = recipe(original, epochs=1, epsilon=0.01, stop=False, max_additions=2, control=True, epochs_per_step=2)
    out = tmp_path / "shapes.rrr"

    def crash(step: Step) -> None:
        if step.stage.startswith("select 01"):
            raise Crash

    with pytest.raises(Crash):
        compress(shapes, out, recipe=asked, on_progress=crash)
    stages: set[str] = set()
    bundle = compress(shapes, out, recipe=asked, run=Run(resume=True), on_progress=lambda step: stages.add(step.stage))
    assert "select 01-2_1_1_1" in stages
    assert "select 00-1_1_1_1" not in stages
    assert not list(tmp_path.glob(".*"))

    bundle.check()
    manifest = bundle.manifest
    rows = rows_of((bundle.path / SELECTION).read_text())
    assert [row["depths"] for row in rows] == ["1_1_1_1", "2_1_1_1", "3_1_1_1"]
    assert [row["block"] for row in rows] == ["", "conv2_2", "conv2_3"]
    assert [row["epochs"] for row in rows] == ["2", "4", "6"]
    assert "_".join(map(str, manifest.spec.depths)) == replayed(rows)
    assert manifest.spec.branches == 2
    assert manifest.recipe == asked
    # The control begins as the first step does, and is not disturbed by looking at it.
    assert rows[0]["control"] == rows[0]["accuracy"]
    # 6 photos, 2 of each class, were held out.
    assert all((float(row[what]) * 6) % 1 == pytest.approx(0) for row in rows for what in ("accuracy", "control"))
    assert {SELECTION, SELECTION_PLOT} <= {file.name for file in manifest.files}
    drawn = "".join(ET.parse(bundle.path / SELECTION_PLOT).getroot().itertext())
    assert all(words in drawn for words in ("validation error, %", "control: 1_1_1_1", "bottleneck blocks"))
    assert any("block selection: 3 trainings, 6 epochs in all" in note for note in manifest.provenance.notes)
    assert manifest.provenance.duration_s >= sum(float(row["seconds"]) for row in rows) - 0.1


def without_times(table: str) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in rows_of(table)]


def test_crashes_anywhere_repeat_no_finished_step_and_change_nothing(
    monkeypatch: pytest.MonkeyPatch, original: Path, tmp_path: Path
) -> None:
    data = dataset()
    asked = recipe(original, epochs=1, stop=False, max_additions=1, control=True)
    expected = select_depths(asked, inputs(data))
    dice = random.Random(1)
    countdown = 0

    def tick() -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise Crash

    rename = files.os.replace

    def replace(partial: Path, path: Path) -> None:
        tick()
        rename(partial, path)

    seen: list[Step] = []

    def report(step: Step) -> None:
        seen.append(step)
        tick()

    monkeypatch.setattr(files.os, "replace", replace)
    run = TrainingRun(checkpoints=tmp_path, resume=True, on_progress=report)
    crashes = 0
    while True:
        # A step of the selection has 2 of training and writes 3 files.
        countdown = dice.randrange(4, 7)
        finished = {path.parent.name for path in tmp_path.rglob("trial.json")}
        seen.clear()
        try:
            selected = select_depths(asked, inputs(data, run))
            break
        except Crash:
            crashes += 1
        assert not {step.stage.removeprefix("select ") for step in seen} & finished
    assert crashes >= 3
    assert selected.depths == expected.depths
    assert without_times(selected.files[SELECTION]) == without_times(expected.files[SELECTION])
    weights = sorted(path.parent.name for path in tmp_path.rglob("weights.safetensors"))
    assert weights == ["01-2_1_1_1"], "only the last network is kept"


def test_a_step_that_lost_its_weights_is_refused(original: Path, tmp_path: Path) -> None:
    run = TrainingRun(checkpoints=tmp_path, resume=True)
    asked = recipe(original, max_additions=0)
    select_depths(asked, inputs(dataset(), run))
    (tmp_path / "selection" / "00-1_1_1_1" / "weights.safetensors").write_bytes(b"no weights")
    longer = asked.model_copy(update={"selection": Selection(max_additions=1)})
    with pytest.raises(CorruptArtifact, match="weights.safetensors"):
        select_depths(longer, inputs(dataset(), run))


def test_the_picture_shows_every_step() -> None:
    rows = [
        selection.Row(0, "", "1_1_1_1", 0.5, None, 0.1, "start", 3, 1.0),
        selection.Row(1, "conv2_2", "2_1_1_1", 0.8, 0.375, 0.1, "append", 6, 1.0),
    ]
    picture = selection.draw_selection(rows, chosen="2_1_1_1")
    tips = [title.text for title in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}title")]
    first, second = "blocks appended, 1_1_1_1: 50.0%", "blocks appended, 2_1_1_1: 20.0%"
    assert {first, second, "chosen: 2_1_1_1, 20.0%"} <= set(tips)
    assert "control" not in picture
    both = selection.draw_selection([row._replace(control=0.4) for row in rows], chosen="2_1_1_1")
    assert "control: 1_1_1_1, as many epochs, 2_1_1_1: 60.0%" in both
