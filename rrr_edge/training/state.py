"""A training in the middle: the network, AdamW's moments, the averaged weights, and how far it has come."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import GateFailed
from rrr_edge.networks import Network
from rrr_edge.training.batches import Batch, normalise
from rrr_edge.training.checkpoint import TrainingProgress, copy_into, read_checkpoint, write_checkpoint
from rrr_edge.training.schedule import learning_rate
from rrr_edge.training.share import Share

Tensors = tuple[Tensor, ...] | list[Tensor]

Stump = Callable[[Tensor], Tensor]

_MOMENTS = ("exp_avg", "exp_avg_sq")


class State:
    """All that the next step depends on, and so all that a checkpoint holds.

    The exponential moving average covers the last epochs (Sun et al. 2023, Appendix C). It starts from the weights
    before its first step and follows the trainable ones; batch statistics are the network's own.
    """

    def __init__(self, share: Share, training: Training, *, preprocess: Preprocess, progress: TrainingProgress) -> None:
        self.network = network = share.take()
        self.share = share
        self.progress = progress
        self.training = training
        self._preprocess = preprocess
        self._fabric = share.fabric
        self._trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimizer = AdamW(
            self._trainable.values(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        epochs = ema_epochs(training)
        self._ema_start = (training.epochs - epochs) * progress.steps_per_epoch
        self._average = AveragedModel(network, multi_avg_fn=_ema_update(epochs)) if epochs else None

    def learn(self, batch: Batch, *, since: float) -> None:
        """Take one step and count it, with the seconds since time.perf_counter() was `since`.

        Raises GateFailed, before anything has changed, where the loss is not finite.
        """
        device = self._fabric.device
        features = self.features(batch.inputs)
        with self._fabric.autocast():
            logits = self.network.branches(features).float()
        branches = logits.shape[1]
        labels = batch.labels.to(device).expand(-1, branches)
        mean_loss = F.cross_entropy(logits.transpose(1, 2), labels)
        right = (logits.detach().argmax(2) == labels).float().mean()
        loss, right_share = self.share.mean(mean_loss.item(), right.item())
        if not math.isfinite(loss):
            raise GateFailed(
                f"The training diverged in epoch {self.progress.epochs_done + 1}: the loss is {loss}.",
                advice="Train with a smaller learning_rate, or in full precision.",
            )
        if self._average is not None and self.progress.step == self._ema_start:
            self._average.update_parameters(self.network)
        total = self.training.epochs * self.progress.steps_per_epoch
        self._optimizer.param_groups[0]["lr"] = learning_rate(self.training, self.progress.step, total)
        self._optimizer.zero_grad()
        # The sum, over the branches, of each one's own mean loss.
        self._fabric.backward(mean_loss * branches)
        self.share.add_up_gradients(self._trainable.items())
        self._optimizer.step()
        if self._average is not None and self.progress.step >= self._ema_start:
            self._average.update_parameters(self.network)
        self.progress = self.progress.after_step(len(labels), loss, right_share, time.perf_counter() - since)

    def features(self, inputs: Tensor) -> Tensor:
        """What the branches read of a batch's `inputs`."""
        if inputs.dtype is torch.uint8:
            with self._fabric.autocast():
                return features_of(self._stump, inputs.to(self._fabric.device), self._preprocess)
        features = inputs.to(self._fabric.device)
        return features.float() if features.dtype is torch.float16 else features

    def judged(self) -> Network:
        """The network to evaluate: averaged weights as soon as there are any, with the trained batch statistics."""
        return self.share.give(self._judged)

    def finish(self) -> None:
        """Give the network the weights to be judged by."""
        with torch.no_grad():
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
        for parameter in self._trainable.values():
            # Filled below; empty_like, because the fused step needs the moments in the parameter's memory layout.
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(self.progress.step), device=parameter.device),
                **{moment: torch.empty_like(parameter, requires_grad=False) for moment in _MOMENTS},
            }
        if self._average is not None and self._averaging:
            self._average.n_averaged.fill_(self.progress.step - self._ema_start + 1)
        mine = {key: self.share.rows(key.partition(".")[2], tensor) for key, tensor in tensors.items()}
        for kind, name, tensor in self._tensors():
            copy_into(tensor, mine, f"{kind}.{name}")

    @cached_property
    def _stump(self) -> Stump:
        # Made at the first step, when a checkpoint may have brought other statistics.
        return folded_stump(self.network) if self.network.stump_frozen else self.network.stump

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
        for name, parameter in self._trainable.items():
            for moment in _MOMENTS:
                yield moment, name, self._optimizer.state[parameter][moment]
        if self._judged is not self.network:
            for name, parameter in self._judged.named_parameters():
                if name in self._trainable:
                    yield "average", name, parameter


def features_of(stump: Stump, images: Tensor, preprocess: Preprocess) -> Tensor:
    """What the branches read of uint8 images [n, S, 3, H, W]: [n, S * 512, h, w], S = 1 for all, or one for each."""
    # Stream by stream: what flows through the stump then stays in the processor's cache, which is 1.7 times faster.
    streams = [stump(normalise(stream, preprocess)) for stream in images.unbind(1)]
    if len(streams) == 1:
        return streams[0]
    # By way of channels last, so that it is one copy.
    return torch.stack([features.permute(0, 2, 3, 1) for features in streams], 3).flatten(3).permute(0, 3, 1, 2)


def folded_stump(network: Network) -> Stump:
    """The stump in eval mode with each normalisation made part of its convolution: the same but for roundings."""
    copy = deepcopy(network).eval().requires_grad_(False)
    for module in copy.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return copy.stump


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
