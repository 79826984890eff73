"""The objective of networks that learn as a whole: cross-entropy on batches that all branches share."""

from dataclasses import dataclass, replace

from torch import nn
from torch.nn import functional as F

from rrr_edge.bundle.recipe import Training
from rrr_edge.networks import Network
from rrr_edge.timing.progress import OnProgress
from rrr_edge.training.batches import Batch, Batches
from rrr_edge.training.objective import Computation, Group, Loss, learning


@dataclass(frozen=True)
class CrossEntropy:
    """The sum, over the branches of any network, of each one's mean cross-entropy; all that is not frozen learns.

    Batch statistics follow the photos where normalisation `adapts`.
    """

    network: Network
    adapts: bool = True

    def of(self, network: Network) -> "CrossEntropy":
        return replace(self, network=network)

    def groups(self, training: Training) -> tuple[Group, ...]:
        return (Group(learning(self.network), training.weight_decay),)

    def prepare(self, batches: Batches, training: Training, at: Computation, on_progress: OnProgress) -> Batches:
        return batches

    def loss(self, batch: Batch, at: Computation) -> Loss:
        images, labels = at.images(batch.inputs.flatten(0, 1)), batch.labels.to(at.device)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(self.adapts)
        with at.autocast():
            logits = self.network(images)
        logits = logits.float()
        branches = logits.shape[1]
        labels = labels.expand(-1, branches)
        mean = F.cross_entropy(logits.transpose(1, 2), labels)
        right = (logits.detach().argmax(2) == labels).float().mean()
        return Loss(mean * branches, mean.item(), right.item())
