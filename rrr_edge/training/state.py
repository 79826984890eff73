"""The state of a training between two steps: network, optimiser, averaged weights, progress."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import GateFailed
from rrr_edge.networks import Network
from rrr_edge.training.batches import Batch
from rrr_edge.training.checkpoint import Judged, TrainingProgress, copy_into, read_checkpoint, write_checkpoint
from rrr_edge.training.objective import Computation, Objective
from rrr_edge.training.optimizer import Learner
from rrr_edge.training.schedule import learning_rate
from rrr_edge.training.share import Share

Tensors = tuple[Tensor, ...] | list[Tensor]


class State:
    """All that the next step depends on, and so all that a checkpoint holds.

    The exponential moving average covers the last epochs (Sun et al. 2023, Appendix C). It starts from the weights
    before its first step and follows the trainable ones; batch statistics are the network's own.
    """

    def __init__(
        self, objective: Objective, share: Share, at: Computation, *, training: Training, progress: TrainingProgress
    ) -> None:
        self.branches: int = objective.network.spec.branches
        self.network = network = share.take()
        self.objective = objective.of(network)
        self.share = share
        self.at = at
        self.training = training
        self.progress = progress
        self._learner = Learner(self.objective.groups(training), training)
        epochs = 0 if training.keep == "last" else ema_epochs(training)
        self._ema_start = (training.epochs - epochs) * progress.steps_per_epoch
        self._average = AveragedModel(network, multi_avg_fn=_ema_update(epochs)) if epochs else None
        self._best: dict[str, Tensor] | None = None

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.training.epochs * self.progress.steps_per_epoch

    def learn(self, batch: Batch, *, since: float) -> None:
        """Take one step and count it, with the seconds since time.perf_counter() was `since`.

        Raises GateFailed, before anything has changed, where the loss is not finite.
        """
        found = self.objective.loss(batch, self.at)
        loss, right_share = self.share.mean(found.mean, found.right)
        if not math.isfinite(loss):
            raise GateFailed(
                f"The training diverged in epoch {self.progress.epochs_done + 1}: the loss is {loss}.",
                advice="Train with a smaller --learning-rate, or in full precision.",
            )
        if self._average is not None and self.progress.step == self._ema_start:
            self._average.update_parameters(self.network)
        self._learner.begin(learning_rate(self.training, self.progress.step, self.total))
        self.at.fabric.backward(found.minimised)
        self.share.add_up_gradients(self._learner.parameters.items())
        self._learner.step()
        if self._average is not None and self.progress.step >= self._ema_start:
            self._average.update_parameters(self.network)
        self.progress = self.progress.after_step(len(batch.labels), loss, right_share, time.perf_counter() - since)

    def judged(self) -> Network:
        """The network to evaluate: averaged weights as soon as there are any, with the trained batch statistics."""
        return self.share.give(self._judged)

    def end_epoch(self, judged: Judged | None) -> None:
        """Log the epoch, and remember the network as it was judged where that is the best so far."""
        self.progress = self.progress.after_epoch(judged)
        if judged and self.training.keep == "best" and self.progress.best_epoch == self.progress.epochs_done:
            self._best = {name: tensor.detach().clone() for name, tensor in self._judged.state_dict().items()}

    def finish(self) -> None:
        """Give the network the weights to be kept."""
        with torch.no_grad():
            if self._best is not None:
                self.network.load_state_dict(self._best)
                self.share.give(self.network)
                return
            for mine, averaged in zip(self.network.parameters(), self._judged.parameters(), strict=True):
                mine.copy_(averaged)
        self.share.give(self.network)

    def keep(self, folder: Path) -> None:
        """Write what this number of processes, or any other, can go on from."""
        whole = {f"{kind}.{name}": self.share.gather(name, tensor) for kind, name, tensor in self._tensors()}
        if self.share.is_first:
            write_checkpoint(folder, self.progress, whole)

    def restore(self, folder: Path) -> None:
        """Become what was kept in `folder`, if anything was. Raises CorruptArtifact and BadInput."""
        kept = read_checkpoint(folder, self.progress.identity)
        if kept is None:
            return
        self.progress, tensors = kept
        self._learner.allocate(self.progress.step)
        if self.training.keep == "best" and self.progress.best_epoch is not None:
            self._best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        if self._average is not None and self._averaging:
            self._average.n_averaged.fill_(self.progress.step - self._ema_start + 1)
        mine = {key: self.share.rows(key.partition(".")[2], tensor) for key, tensor in tensors.items()}
        for kind, name, tensor in self._tensors():
            copy_into(tensor, mine, f"{kind}.{name}")

    @property
    def _averaging(self) -> bool:
        return self.progress.step > self._ema_start

    @property
    def _judged(self) -> Network:
        return cast(Network, self._average.module) if self._average and self._averaging else self.network

    def _tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """All that a checkpoint holds: what it is, of which parameter or buffer, and it."""
        for name, tensor in self.network.state_dict().items():
            yield "network", name, tensor
        yield from self._learner.tensors()
        if self._judged is not self.network:
            for name, parameter in self._judged.named_parameters():
                if name in self._learner.parameters:
                    yield "average", name, parameter
        for name, tensor in (self._best or {}).items():
            yield "best", name, tensor


def ema_epochs(training: Training) -> int:
    """The number of last epochs whose weights are averaged."""
    return round(training.epochs * training.ema_fraction)


def ema_decay(update: int, epochs: int) -> float:
    """The decay of update 1, 2, ... of an average over `epochs` epochs: torch_ema's warm-up, then (n - 1) / n."""
    return min((epochs - 1) / epochs, (1 + update) / (10 + update))


def _ema_update(epochs: int) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(ema_decay(int(updates), epochs))(averaged, current, updates)  # type: ignore[no-untyped-call]

    return update
