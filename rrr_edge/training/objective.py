"""The protocol of an objective: what a training minimises, of which parameters. Cross-entropy is the plainest."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.networks import Network
from rrr_edge.timing.progress import OnProgress
from rrr_edge.training.batches import Batch, Batches, normalise


class Loss(NamedTuple):
    """`minimised` is differentiated; `mean` and `right` (the share of right answers) are logged."""

    minimised: Tensor
    mean: float
    right: float


class Group(NamedTuple):
    """Parameters by their names in the network, and the weight decay with which they learn."""

    parameters: dict[str, nn.Parameter]
    weight_decay: float


@dataclass(frozen=True)
class Computation:
    """Where and in which precision a training computes, and how it normalises pixels."""

    fabric: Fabric
    precision: str
    preprocess: Preprocess

    @property
    def device(self) -> torch.device:
        device: torch.device = self.fabric.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        context: AbstractContextManager[None] = self.fabric.autocast()
        return context

    def images(self, pixels: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] as a network reads them, on the device."""
        return normalise(pixels.to(self.device), self.preprocess)


class Objective(Protocol):
    """What a training minimises, and which parameters learn. The training loop knows nothing else of a method."""

    @property
    def network(self) -> Network:
        """What learns, is kept in checkpoints and is judged."""
        ...

    def of(self, network: Network) -> Self:
        """The same for `network`, which has some of the branches of this one."""
        ...

    def groups(self, training: Training) -> tuple[Group, ...]:
        """The parameters that learn."""
        ...

    def prepare(self, batches: Batches, training: Training, at: Computation, on_progress: OnProgress) -> Batches:
        """Called once before the first step, also of a resumed training: what the steps see in the place of `batches`.

        The network has the weights and statistics of the first step.
        """
        ...

    def loss(self, batch: Batch, at: Computation) -> Loss:
        """A forward pass over one batch."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy of a network in one piece; all of its parameters that are not frozen learn."""

    network: Network

    def of(self, network: Network) -> "CrossEntropy":
        return CrossEntropy(network)

    def groups(self, training: Training) -> tuple[Group, ...]:
        return (Group(learning(self.network), training.weight_decay),)

    def prepare(self, batches: Batches, training: Training, at: Computation, on_progress: OnProgress) -> Batches:
        return batches

    def loss(self, batch: Batch, at: Computation) -> Loss:
        images, labels = at.images(batch.inputs.flatten(0, 1)), batch.labels[:, 0].to(at.device)
        with at.autocast():
            logits = self.network(images)[:, 0].float()
        total = F.cross_entropy(logits, labels)
        right = (logits.detach().argmax(1) == labels).float().mean()
        return Loss(total, total.item(), right.item())


def learning(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
