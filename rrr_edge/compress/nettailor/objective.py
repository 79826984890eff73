"""The objective of NetTailor: cross-entropy, the imitation of a teacher, and the expected complexity."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from rrr_edge.bundle.recipe import Training
from rrr_edge.compress.nettailor.complexity import ExpectedComplexity
from rrr_edge.networks import Network
from rrr_edge.networks.tailored import Outputs, Tailored
from rrr_edge.timing.progress import OnProgress
from rrr_edge.training.batches import Batch, Batches
from rrr_edge.training.objective import Computation, Group, Loss, learning


@dataclass(frozen=True)
class Teacher:
    """A trained network of the whole backbone, and the `weight` of the distance to it.

    `detached`, as in the authors' code: the mean squared difference of each block's output and of the logits, over the
    number of blocks, and a block's output reaches only what leads into that block. Otherwise, as in the paper: the sum
    of squared differences, averaged over images, with gradients to everything.
    """

    network: Tailored
    weight: float
    detached: bool = True

    def distance(self, student: Outputs, images: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = self.network.outputs(images)
        outputs = student.local if self.detached else student.nodes
        pairs = [(outputs[own], teacher.nodes[own]) for own in outputs if own]
        pairs.append((student.logits, teacher.logits))
        squares = [F.mse_loss(mine.float(), its.float(), reduction="sum") for mine, its in pairs]
        if not self.detached:
            return torch.stack(squares).sum() / len(images)
        means = [square / mine.numel() for square, (mine, _) in zip(squares, pairs, strict=True)]
        return torch.stack(means).sum() / len(self.network.plain.nodes)


@dataclass(frozen=True)
class Tailoring:
    """Section 3.3: cross-entropy + g1 E[C] + g2 Omega; without a teacher and a complexity, plain cross-entropy.

    The attention has no weight decay. Deviations from the authors' code: the last, short batch is kept; universal
    batch statistics are updated once a step, and not a second time for the imitation.
    """

    network: Tailored
    teacher: Teacher | None = None
    complexity: ExpectedComplexity | None = None
    complexity_weight: float = 0.0

    def of(self, network: Network) -> "Tailoring":
        return replace(self, network=cast(Tailored, network))

    def groups(self, training: Training) -> tuple[Group, ...]:
        every = learning(self.network)
        attention = {name: p for name, p in every.items() if name.endswith(".attention")}
        others = {name: p for name, p in every.items() if name not in attention}
        groups = Group(others, training.weight_decay), Group(attention, 0.0)
        return tuple(group for group in groups if group.parameters)

    def prepare(self, batches: Batches, training: Training, at: Computation, on_progress: OnProgress) -> Batches:
        if self.teacher:
            at.fabric.to_device(self.teacher.network)
            self.teacher.network.to(memory_format=torch.channels_last).eval()
        return batches

    def loss(self, batch: Batch, at: Computation) -> Loss:
        images, labels = at.images(batch.inputs.flatten(0, 1)), batch.labels[:, 0].to(at.device)
        imitates = self.teacher is not None and self.teacher.detached
        with at.autocast():
            outputs = self.network.outputs(images, local=imitates)
            distance = self.teacher.distance(outputs, images) if self.teacher else None
        logits = outputs.logits[:, 0].float()
        total = F.cross_entropy(logits, labels)
        if self.teacher and distance is not None:
            total = total + self.teacher.weight * distance
        if self.complexity and self.complexity_weight:
            total = total + self.complexity_weight * self.complexity(self.network.attention())
        right = (logits.detach().argmax(1) == labels).float().mean()
        return Loss(total, total.item(), right.item())
