"""Forward block selection (Sun et al. 2023, Algorithm 1)."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.folder import SELECTION, SELECTION_PLOT
from rrr_edge.bundle.recipe import RRR, Order, Selection
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.selection import Decision, Row
from rrr_edge.bundle.sources import BACKBONE, SOURCES, Backbone
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, Depths, ResNetSpec
from rrr_edge.compress.method import Inputs, learn
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.compress.validation import validation_photos
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import counted
from rrr_edge.networks import ResNet, build
from rrr_edge.report.selection import draw_selection
from rrr_edge.training import Examples, Run, Trained, predict
from rrr_edge.training.checkpoint import CHECKPOINT
from rrr_edge.training.stage_weights import keep, recall, state_of

# As many answers that all turned right cannot be luck: 2^-5 < 5%.
LEAST_RIGHT = 5


@dataclass(frozen=True)
class Selected:
    """The chosen `depths`, the bundle's `files` that show how, what to tell the user, and the seconds it took."""

    depths: Depths
    files: dict[str, str]
    notes: tuple[str, ...]
    seconds: float


def select_depths(recipe: RRR, inputs: Inputs) -> Selected:
    """Run Algorithm 1, and its control where it is asked for; the finished steps of an interrupted run are recalled.

    Raises BadInput (too few photos to hold any out), CorruptArtifact, and what `train` raises.
    """
    selection = recipe.selection or Selection()
    judged_by = validation_photos(inputs.dataset)
    whose = "training photos held out" if inputs.dataset.held_out else "validation photos"
    epsilon = selection.epsilon or LEAST_RIGHT / len(judged_by)
    path = path_of(recipe)
    trials = _Trials(recipe, inputs, judged_by, deepest=path[-1].depths)

    rows: list[Row] = []
    chosen, old = SMALLEST_DEPTHS, 0.0
    stopped = False
    for step, (block, depths) in enumerate(path):
        trial = trials.run(step, depths)
        gain = relative_gain(trial.accuracy, old) if step else None
        decision: Decision = "start" if gain is None else "look" if stopped else "append" if gain >= epsilon else "stop"
        rows.append(
            Row(step, block, _name(depths), trial.accuracy, gain, epsilon, decision, trial.epochs, trial.seconds)
        )
        if decision in ("start", "append"):
            chosen, old = depths, trial.accuracy
        stopped = stopped or decision == "stop"
        if stopped and selection.stop:
            break
    seconds = sum(row.seconds for row in rows)
    if selection.control:
        accuracies, control_s = trials.control(len(rows))
        rows = [row._replace(control=accuracy) for row, accuracy in zip(rows, accuracies, strict=True)]
        seconds += control_s
    files = {SELECTION: _table(rows), SELECTION_PLOT: draw_selection(rows, chosen=_name(chosen))}
    return Selected(chosen, files, _notes(rows, chosen, f"{len(judged_by)} {whose}", stopped), seconds)


class Addition(NamedTuple):
    """A block, such as conv4_2, and the depths with it."""

    block: str
    depths: Depths


def path_of(recipe: RRR) -> list[Addition]:
    """The networks that a selection may visit, the smallest first."""
    selection = recipe.selection or Selection()
    every = additions(selection.order, recipe.backbone)
    return [Addition("", SMALLEST_DEPTHS), *islice(every, selection.max_additions)]


def additions(order: Order, backbone: Backbone = BACKBONE) -> Iterator[Addition]:
    """The blocks in the order of Algorithm 1, phase after phase, or one for each unfinished phase in turn."""
    places = [(i, phase) for phase, most in enumerate(SOURCES[backbone].depths) for i in range(2, most + 1)]
    depths = list(SMALLEST_DEPTHS)
    for i, phase in sorted(places) if order == "cyclic" else places:
        depths[phase] = i
        x1, x2, x3, x4 = depths
        yield Addition(f"conv{phase + 2}_{i}", (x1, x2, x3, x4))


def relative_gain(accuracy: float, old: float) -> float:
    """(Acc - Old) / Acc of Algorithm 1; where nothing is right any more, minus infinity, or 0 if nothing ever was."""
    if accuracy == 0:
        return float("-inf") if old else 0.0
    return (accuracy - old) / accuracy


class _Trial(Record):
    """What is kept of a finished step; `epochs` are those of all steps so far, `seconds` its own."""

    accuracy: float
    epochs: int
    seconds: float


_TRIAL, _WEIGHTS = "trial.json", "weights.safetensors"


class _Trials:
    """The steps' trainings, each in a folder of its own where checkpoints are kept.

    A step is finished once its trial is written. Then its checkpoint and the weights of the step before it are dropped,
    so that few networks lie on the disk, however many steps there are.
    """

    def __init__(self, recipe: RRR, inputs: Inputs, judged_by: Examples, *, deepest: Depths) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._judged_by = judged_by
        self._epochs = (recipe.selection or Selection()).epochs_per_step or recipe.training.epochs
        self._published, _ = load_weights(
            recipe.weights,
            backbone=recipe.backbone,
            depths=deepest,
            seed=recipe.seed,
            on_progress=inputs.run.on_progress,
        )
        self._weights_before: Path | None = None
        self._network_before: ResNet | None = None

    def run(self, step: int, depths: Depths) -> _Trial:
        """Train step 0, 1, ... on from the one before, or recall it."""
        folder = self._folder(f"{step:02}-{_name(depths)}")
        if folder and self._inputs.run.resume and (folder / _TRIAL).is_file():
            self._weights_before, self._network_before = folder / _WEIGHTS, None
            return _Trial.from_json_file(folder / _TRIAL)
        network = self._begin(depths)
        network.load_state_dict({**network.state_dict(), **self._learned()})
        trained = self._learn(network, folder, epochs=self._epochs)
        trial = _Trial(
            accuracy=self._accuracy(network),
            epochs=(step + 1) * self._epochs,
            seconds=round(sum(row.seconds for row in trained.history), 3),
        )
        if folder:
            keep(folder / _WEIGHTS, state_of(network))
            write_file(folder / _TRIAL, trial.to_json())
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if self._weights_before:
                self._weights_before.unlink(missing_ok=True)
            self._weights_before = folder / _WEIGHTS
        self._network_before = network
        return trial

    def control(self, steps: int) -> tuple[list[float], float]:
        """The smallest network's accuracies after the epochs of each of `steps` steps, without any interruption."""
        network = self._begin(SMALLEST_DEPTHS)
        watch = replace(self._inputs.run, validation=self._judged_by, validate_every=self._epochs)
        trained = self._learn(network, self._folder("control"), epochs=steps * self._epochs, run=watch)
        judged = [row.validation_accuracy for row in trained.history[self._epochs - 1 :: self._epochs]]
        return [accuracy for accuracy in judged if accuracy is not None], sum(row.seconds for row in trained.history)

    def _begin(self, depths: Depths) -> ResNet:
        spec = ResNetSpec(depths=depths, num_classes=len(self._inputs.dataset.labels))
        network = build(spec)
        network.load_state_dict(reuse(self._published, spec, seed=self._recipe.seed))
        return network

    def _learned(self) -> Mapping[str, Tensor]:
        if self._network_before is not None:
            return self._network_before.state_dict()
        return recall(self._weights_before) if self._weights_before else {}

    def _learn(self, network: ResNet, folder: Path | None, *, epochs: int, run: Run | None = None) -> Trained:
        assert isinstance(network.spec, ResNetSpec)
        depths = network.spec.depths
        plain = {"ema_fraction": 0.0, "feature_views": 0, "keep": "last", "patience_epochs": None}
        own = self._recipe.training.model_copy(update={"epochs": epochs, **plain})
        recipe = self._recipe.model_copy(update={"training": own, "seed": self._recipe.seed + sum(depths)})
        run = run or self._inputs.run
        on_progress, stage = run.on_progress, f"select {folder.name if folder else _name(depths)}"
        own_run = replace(run, checkpoints=folder, on_progress=lambda step: on_progress(step._replace(stage=stage)))
        return learn(network, recipe, replace(self._inputs, run=own_run))

    def _accuracy(self, network: ResNet) -> float:
        answers = predict(network, self._judged_by.images, preprocess=self._inputs.preprocess)
        return float(np.mean(answers.probabilities.argmax(1) == self._judged_by.labels))

    def _folder(self, name: str) -> Path | None:
        checkpoints = self._inputs.run.checkpoints
        return checkpoints / "selection" / name if checkpoints else None


def _table(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    return text.getvalue()


def _notes(rows: Sequence[Row], chosen: Depths, judged_by: str, stopped: bool) -> tuple[str, ...]:
    first, taken = rows[0], next(row for row in rows if row.depths == _name(chosen))
    notes = [
        f"Depths {taken.depths} were chosen by forward block selection: {counted(len(rows), 'training')}, "
        f"{counted(rows[-1].epochs, 'epoch')} in all, judged by {judged_by}, with an epsilon of {first.epsilon:.3g}."
    ]
    if not stopped:
        notes.append("The selection never stopped by its rule: further blocks may still have paid.")
    if taken is not first and taken.control is not None and taken.control >= taken.accuracy:
        notes.append(
            f"The control, {first.depths} trained for as many epochs as {taken.depths}, did as well "
            f"({taken.control:.1%} against {taken.accuracy:.1%}): the epochs helped, not the blocks."
        )
    return tuple(notes)


def _name(depths: Depths) -> str:
    return "_".join(map(str, depths))
