"""The objective of branches that each learn their own cross-entropy, on a stump that is frozen or learns too.

The naive ensemble of Sun et al. 2023, Appendix C. The branches' losses are added, so branch i's parameters get the
gradient of branch i's loss alone; and AdamW works element by element, so that one AdamW over the fused parameters is
one AdamW a branch. Deviation: the branches take each step together instead of epochs in turn, which changes nothing,
as they share no trainable parameter.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.bundle.structure import in_stump
from rrr_edge.errors import UsageError
from rrr_edge.networks import Network, ResNet
from rrr_edge.timing.progress import OnProgress, Step
from rrr_edge.training.batches import Batch, Batches, Examples, normalise, steps_of
from rrr_edge.training.checkpoint import (
    Identity,
    TrainingProgress,
    copy_into,
    read_checkpoint,
    structure_sha256,
    write_checkpoint,
)
from rrr_edge.training.objective import Computation, Group, Loss, learning
from rrr_edge.training.run import Run, augmenting_threads, on_device, open_fabric
from rrr_edge.training.schedule import cycles
from rrr_edge.training.views import make_views

STUMP_PASSES = 10

Stump = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BranchCrossEntropy:
    """The sum, over the branches of `network`, of each one's own mean cross-entropy; all that is not frozen learns."""

    network: ResNet

    def of(self, network: Network) -> "BranchCrossEntropy":
        assert isinstance(network, ResNet)
        return BranchCrossEntropy(network)

    def groups(self, training: Training) -> tuple[Group, ...]:
        return (Group(learning(self.network), training.weight_decay),)

    def prepare(self, batches: Batches, training: Training, at: Computation, on_progress: OnProgress) -> Batches:
        """The frozen stump's features of a few views of every image, where the training asks for them."""
        if not training.feature_views:
            return batches
        numbered = Examples(batches.examples.images, np.arange(len(batches.examples)))
        alone = replace(batches, examples=numbered, streams=range(1), balance=False, role="views")
        # Autocast's own type, or the half of float32 that keeps more digits.
        dtype = torch.bfloat16 if at.precision == "bf16-mixed" else torch.float16

        def read(inputs: Tensor) -> Tensor:
            return self.features(inputs, at)

        views = make_views(read, alone, training.feature_views, dtype=dtype, on_progress=on_progress)
        return replace(batches, views=views)

    def loss(self, batch: Batch, at: Computation) -> Loss:
        features = self.features(batch.inputs, at)
        with at.autocast():
            logits = self.network.branches(features).to(self._dtype)
        branches = logits.shape[1]
        labels = batch.labels.to(at.device).expand(-1, branches)
        mean = F.cross_entropy(logits.transpose(1, 2), labels)
        right = (logits.detach().argmax(2) == labels).float().mean()
        return Loss(mean * branches, mean.item(), right.item())

    def features(self, inputs: Tensor, at: Computation) -> Tensor:
        """What the branches read of a batch's `inputs`."""
        if inputs.dtype is torch.uint8:
            with at.autocast():
                return features_of(self._stump, inputs.to(at.device), at.preprocess)
        features = inputs.to(at.device)
        return features.to(self._dtype) if features.dtype is torch.float16 else features

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.conv1.weight.dtype

    @cached_property
    def _stump(self) -> Stump:
        # Made at the first step, when a checkpoint may have brought other statistics.
        stump = folded_stump(self.network) if self.network.stump_frozen else self.network.stump
        return lambda images: stump(images.to(self._dtype))


def require_branches(network: ResNet, training: Training, *, images: int) -> None:
    """Raise UsageError where a network, frozen as this one is, cannot be trained so on that many images."""
    branches = network.spec.branches
    cycles(training.schedule, training.epochs * steps_of(images, training.batch_size))
    if branches > 1 and not (network.stump_frozen or training.shared_batches):
        raise UsageError(
            f"{branches} branches cannot each have their own batches while they train the stump that they share.",
            advice="Set shared_batches = true in [training] of a --recipe.",
        )
    if training.feature_views and not network.stump_frozen:
        raise UsageError(
            "The features of a stump that is still trained cannot be kept.",
            advice="Use --feature-views 0.",
        )


def features_of(stump: Stump, images: Tensor, preprocess: Preprocess) -> Tensor:
    """What the branches read of uint8 images [n, S, 3, H, W]: [n, S * 512, h, w], S = 1 for all, or one for each."""
    # Stream by stream: what flows through the stump then stays in the processor's cache, which is 1.7 times faster.
    streams = [stump(normalise(stream, preprocess)) for stream in images.unbind(1)]
    if len(streams) == 1:
        return streams[0]
    # By way of channels last, so that it is one copy.
    return torch.stack([features.permute(0, 2, 3, 1) for features in streams], 3).flatten(3).permute(0, 3, 1, 2)


def folded_stump(network: ResNet) -> Stump:
    """The stump in eval mode with each normalisation made part of its convolution: the same but for roundings."""
    copy = deepcopy(network).eval().requires_grad_(False)
    for module in copy.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return copy.stump


def reestimate_stump(
    network: ResNet,
    examples: Examples,
    *,
    training: Training,
    preprocess: Preprocess,
    seed: int = 0,
    run: Run = Run(),  # noqa: B008  (frozen)
) -> None:
    """Let the stump's batch statistics forget ImageNet in 10 passes over the augmented images, then freeze the stump.

    No weight changes; the momentum is the layers' own 0.1; full precision. In the authors' code, not in the paper.
    With `run.checkpoints` the statistics are kept after every pass, and `run.resume` goes on from them, to the same
    bits.
    """
    if network.stump_frozen:
        raise ValueError("the stump is frozen: its statistics can no longer be estimated")
    fabric = open_fabric(run)
    batches = Batches(
        examples,
        seed,
        training.batch_size,
        augment=training.augment,
        role="stump",
        workers=augmenting_threads(fabric),
    )
    identity = Identity(
        training=training,
        seed=seed,
        precision="32-true",
        data_sha256=examples.sha256,
        network_sha256=structure_sha256(network),
    )
    progress = TrainingProgress(identity=identity, steps_per_epoch=batches.steps)
    kept: dict[str, Tensor] = {}
    folder = run.checkpoints / "stump" if run.checkpoints else None
    if folder and run.resume:
        progress, kept = read_checkpoint(folder, identity) or (progress, kept)
    total = STUMP_PASSES * batches.steps
    with on_device(network, fabric), torch.no_grad():
        statistics = {name: buffer for name, buffer in network.named_buffers() if in_stump(name)}
        for name in statistics if kept else ():
            copy_into(statistics[name], kept, name)
        for batch in batches.run(progress.step, total):
            pixels = normalise(batch.inputs.flatten(0, 1).to(fabric.device), preprocess)
            network.stump(pixels.to(network.conv1.weight.dtype))
            progress = progress.model_copy(update={"step": progress.step + 1})
            if folder and progress.between_epochs and fabric.is_global_zero:
                write_checkpoint(folder, progress, statistics)
            run.on_progress(Step("adapt stump", progress.step, total))
    network.freeze_stump()
