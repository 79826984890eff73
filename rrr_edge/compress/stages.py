"""The trainings of one compression, one after the other, each kept once it is finished."""

from dataclasses import dataclass, replace
from pathlib import Path

from rrr_edge.bundle.evaluation import judge
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.recipe import Training
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.compress.method import Inputs
from rrr_edge.networks import Network
from rrr_edge.training import Examples, Trained, minimise, predict
from rrr_edge.training.checkpoint import CHECKPOINT, EpochRow
from rrr_edge.training.objective import Objective
from rrr_edge.training.stage_weights import keep, recall, state_of

_STAGE, _WEIGHTS = "stage.json", "weights.safetensors"


class Stage(Record):
    """What is kept of a finished training; `judged` on the photos that decide, if there are any.

    The weights of a `forgotten` one are no longer wanted.
    """

    history: tuple[EpochRow, ...]
    precision: str
    device: str
    judged: Accuracy | None
    forgotten: bool = False

    @property
    def accuracy(self) -> float:
        """0 where nothing was to be decided."""
        return self.judged.accuracy if self.judged else 0.0

    @property
    def trained(self) -> Trained:
        return Trained(self.history, self.precision, self.device)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.history)


@dataclass(frozen=True)
class Stages:
    """Runs trainings, or recalls them where an interrupted compression had finished them.

    `inputs.examples` are what is learned from, and `judged_by` what decides, if anything is to be decided.
    """

    inputs: Inputs
    seed: int
    judged_by: Examples | None

    def run(self, name: str, objective: Objective, training: Training, *, seed: int | None = None) -> Stage:
        """Train the objective's network in place; that of a forgotten stage stays as it is.

        `seed` replaces the seed of all.

        Raises what `minimise` raises, and CorruptArtifact (the weights of a finished one are gone or damaged).
        """
        network, folder, run = objective.network, self._folder(name), self.inputs.run
        if folder and run.resume and (folder / _STAGE).is_file():
            stage = Stage.from_json_file(folder / _STAGE)
            if not stage.forgotten:
                network.load_state_dict(recall(folder / _WEIGHTS))
            return stage
        own = replace(run, checkpoints=folder, on_progress=lambda step: run.on_progress(step._replace(stage=name)))
        trained = minimise(
            objective,
            self.inputs.examples,
            # Not the recipe's own class, which a checkpoint would not tell.
            training=Training(**training.model_dump()),
            preprocess=self.inputs.preprocess,
            seed=self.seed if seed is None else seed,
            run=own,
        )
        stage = Stage(
            history=trained.history,
            precision=trained.precision,
            device=trained.device,
            judged=self.judge(network),
        )
        if folder:
            keep(folder / _WEIGHTS, state_of(network))
            write_file(folder / _STAGE, stage.to_json())
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return stage

    def finished(self, name: str) -> Stage:
        """The record of a training that an interrupted compression had finished. Raises BadInput."""
        folder = self._folder(name)
        assert folder
        return Stage.from_json_file(folder / _STAGE)

    def forget(self, name: str) -> None:
        """Free the disk of weights that are no longer wanted; the stage itself is not run again."""
        if folder := self._folder(name):
            stage = Stage.from_json_file(folder / _STAGE)
            write_file(folder / _STAGE, stage.model_copy(update={"forgotten": True}).to_json())
            (folder / _WEIGHTS).unlink(missing_ok=True)

    def judge(self, network: Network) -> Accuracy | None:
        """The accuracy on the photos that decide."""
        if self.judged_by is None:
            return None
        answers = predict(network, self.judged_by.images, preprocess=self.inputs.preprocess)
        return judge(answers.probabilities, self.judged_by.labels, self.inputs.dataset.labels)

    def _folder(self, name: str) -> Path | None:
        checkpoints = self.inputs.run.checkpoints
        return checkpoints / name if checkpoints else None
