"""Four strategies that make branches differ (Sun et al. 2023, Appendix C).

"naive" and "bagging" train all branches side by side. "snapshot" (Huang et al. 2017) and "fge" (Garipov et al. 2018)
train a single branch, whose states at the lowest learning rates become the branches: so a training costs the time of
one branch, and all of them begin as the leading slice of the original that branch 1 is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rrr_edge.bundle.recipe import RRR, Ensemble, Schedule, Shape, Training
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.structure import in_stump
from rrr_edge.compress.method import CompressedNetwork, Inputs, learn
from rrr_edge.compress.weights import WeightsInfo
from rrr_edge.networks import ResNet, build
from rrr_edge.training.batches import rng
from rrr_edge.training.schedule import lowest
from rrr_edge.training.stage_weights import keep, recall, state_of

# The network of a spec with the original's weights, ready to learn.
Start = Callable[[ResNetSpec], tuple[ResNet, WeightsInfo]]


def train_ensemble(recipe: RRR, spec: ResNetSpec, inputs: Inputs, *, start: Start) -> CompressedNetwork:
    """The trained network of `spec`, its branches made different as the recipe's `ensemble` says.

    Raises what `train` raises, UsageError where the training has too few steps for the snapshots, and CorruptArtifact
    where one of a training that is resumed is lost.
    """
    return _STRATEGIES[recipe.ensemble](recipe, spec, inputs, start)


def _naive(recipe: RRR, spec: ResNetSpec, inputs: Inputs, start: Start) -> CompressedNetwork:
    """Each branch with its own shuffling and augmentation of all images."""
    network, info = start(spec)
    return CompressedNetwork(network, info, learn(network, recipe, inputs))


def _bagging(recipe: RRR, spec: ResNetSpec, inputs: Inputs, start: Start) -> CompressedNetwork:
    """Each branch with its own bootstrap sample, as large as the training set and drawn once."""
    network, info = start(spec)
    samples = bootstraps(len(inputs.examples), spec.branches, seed=recipe.seed)
    own = replace(inputs, examples=replace(inputs.examples, samples=samples))
    return CompressedNetwork(network, info, learn(network, recipe, own))


def _from_one_branch(recipe: RRR, spec: ResNetSpec, inputs: Inputs, start: Start) -> CompressedNetwork:
    """The states of a single branch where its learning rate is lowest.

    "snapshot": the ends of as many cosine cycles as there are branches; "fge": the middles of as many triangular ones,
    in the last fifth of the training.
    """
    training = training_of(recipe)
    branch, info = start(spec.model_copy(update={"branches": 1}))
    snapshots = _Snapshots(branch, training.schedule, inputs.run.checkpoints)
    watched = replace(inputs, run=replace(inputs.run, after_step=snapshots.after_step))
    trained = learn(branch, recipe.model_copy(update={"training": training}), watched)
    network = build(spec)
    network.load_state_dict(fuse(snapshots.all()))
    network.freeze_stump()
    return CompressedNetwork(network, info, trained)


_STRATEGIES: dict[Ensemble, Callable[[RRR, ResNetSpec, Inputs, Start], CompressedNetwork]] = {
    "naive": _naive,
    "bagging": _bagging,
    "snapshot": _from_one_branch,
    "fge": _from_one_branch,
}
_SHAPES: dict[Ensemble, Shape] = {"snapshot": "cosine", "fge": "triangular"}


def training_of(recipe: RRR) -> Training:
    """The recipe's training, with the schedule of its ensemble, and then no average: a snapshot is of its moment."""
    if recipe.ensemble not in _SHAPES:
        return recipe.training
    schedule = Schedule(shape=_SHAPES[recipe.ensemble], cycles=recipe.branches)
    return recipe.training.model_copy(update={"schedule": schedule, "ema_fraction": 0.0})


def bootstraps(images: int, branches: int, *, seed: int) -> NDArray[np.int64]:
    """For each branch as many indices as there are images, drawn with replacement: [branches, images]."""
    return np.stack([rng(seed, "bootstrap", branch).integers(images, size=images) for branch in range(branches)])


def fuse(singles: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of a network whose branches are those of single-branch networks that share their stump.

    Branch i owns rows i*C .. (i+1)*C of everything; scalars and the stump are the first one's.
    """
    return {
        name: tensor if in_stump(name) or not tensor.ndim else torch.cat([single[name] for single in singles])
        for name, tensor in singles[0].items()
    }


class _Snapshots:
    """The network's states at the lowest learning rates of `schedule`: in `folder`, or in memory without one.

    A snapshot is written before the checkpoint that follows it. So whatever checkpoint a training goes on from, the
    snapshots before it are there, and those after it are written again, with the same bits.
    """

    def __init__(self, network: ResNet, schedule: Schedule, folder: Path | None) -> None:
        self._network = network
        self._schedule = schedule
        self._folder = folder
        self._in_memory: dict[int, dict[str, Tensor]] = {}

    def after_step(self, done: int, total: int) -> None:
        moments = lowest(self._schedule, total)
        if done not in moments:
            return
        index, state = moments.index(done), state_of(self._network)
        if self._folder is None:
            self._in_memory[index] = state
        else:
            keep(self._folder / _NAME.format(index + 1), state)

    def all(self) -> list[dict[str, Tensor]]:
        indices = range(self._schedule.cycles)
        if self._folder is None:
            return [self._in_memory[index] for index in indices]
        return [recall(self._folder / _NAME.format(index + 1)) for index in indices]


_NAME = "snapshot-{}.safetensors"
