"""Training checkpoints, from which a training resumes: one safetensors file, progress as JSON in its header."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rrr_edge.bundle.files import staged_file, writing_to
from rrr_edge.bundle.recipe import Training
from rrr_edge.bundle.record import Record
from rrr_edge.errors import BadInput, CorruptArtifact

CHECKPOINT = "checkpoint.safetensors"
_KEY = "rrr-edge training"
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


class Identity(Record):
    """What decides the result of a training; a checkpoint is only continued by the same."""

    training: Training
    seed: int
    precision: str
    data_sha256: str
    network_sha256: str


class EpochRow(Record):
    """One line of the training log.

    `loss` and `train_accuracy` are means over branches and images, each branch on its own augmented batches and with
    the weights of that moment. `validation_accuracy` and `validation_loss`, the mean cross-entropy, are the ensemble's,
    with averaged weights once there are some.
    """

    epoch: int
    loss: float
    train_accuracy: float
    seconds: float
    images_per_second: float
    validation_accuracy: float | None = None
    validation_loss: float | None = None


class Judged(NamedTuple):
    """What a network's answers to the validation photos are worth."""

    accuracy: float
    loss: float


def best_epoch(history: Sequence[EpochRow]) -> int | None:
    """The one that was right most often on the validation photos, of several that with the lowest loss; the first."""
    judged = [row for row in history if row.validation_accuracy is not None]
    rank = {row.epoch: (row.validation_accuracy or 0.0, -(row.validation_loss or 0.0)) for row in judged}
    return max(rank, key=lambda epoch: (rank[epoch], -epoch), default=None)


class TrainingProgress(Record):
    """`step` steps are done, counted through all epochs; the sums are over the unfinished epoch."""

    identity: Identity
    steps_per_epoch: int
    step: int = 0
    images: int = 0
    loss_sum: float = 0.0
    right_sum: float = 0.0
    seconds: float = 0.0
    history: tuple[EpochRow, ...] = ()

    @property
    def epochs_done(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def best_epoch(self) -> int | None:
        return best_epoch(self.history)

    @property
    def has_ended_early(self) -> bool:
        """Whether the best epoch is as long ago as the training's patience."""
        patience, best = self.identity.training.patience_epochs, self.best_epoch
        return patience is not None and best is not None and self.epochs_done - best >= patience

    @property
    def between_epochs(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def after_step(self, images: int, loss: float, right: float, seconds: float) -> Self:
        """`loss` and `right` (the share of right answers) are means over `images`."""
        return self.model_copy(
            update={
                "step": self.step + 1,
                "images": self.images + images,
                "loss_sum": self.loss_sum + images * loss,
                "right_sum": self.right_sum + images * right,
                "seconds": self.seconds + seconds,
            }
        )

    def after_epoch(self, judged: Judged | None) -> Self:
        """The sums as a line of the log."""
        row = EpochRow(
            epoch=self.epochs_done,
            loss=self.loss_sum / self.images,
            train_accuracy=self.right_sum / self.images,
            seconds=self.seconds,
            images_per_second=self.images / self.seconds,
            validation_accuracy=judged.accuracy if judged else None,
            validation_loss=judged.loss if judged else None,
        )
        fresh = {"images": 0, "loss_sum": 0.0, "right_sum": 0.0, "seconds": 0.0}
        return self.model_copy(update=fresh | {"history": (*self.history, row)})


def write_checkpoint(folder: Path, progress: TrainingProgress, tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint in `folder`, made where missing, in one step.

    safetensors' own functions copy all bytes twice, or leave their unfinished files behind when they are killed.
    """
    # The largest numbers first, so that each tensor begins at a multiple of its numbers' size.
    stored = {name: tensors[name] for name in sorted(tensors, key=lambda name: -tensors[name].itemsize)}
    header: dict[str, Any] = {"__metadata__": {_KEY: progress.model_dump_json()}}
    end = 0
    for name, tensor in stored.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with staged_file(folder / CHECKPOINT) as stage, stage.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in stored.values():
            file.write(tensor.detach().cpu().contiguous().numpy().data)


def read_checkpoint(folder: Path, identity: Identity) -> tuple[TrainingProgress, dict[str, Tensor]] | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises CorruptArtifact (unreadable) and BadInput (of another training).
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = TrainingProgress.model_validate_json((file.metadata() or {})[_KEY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        raise CorruptArtifact(
            f"The checkpoint {path} cannot be read: {error}.", advice=f"Delete {path} to train from the beginning."
        ) from error
    different = [name for name in Identity.model_fields if getattr(progress.identity, name) != getattr(identity, name)]
    if different:
        raise BadInput(
            f"The checkpoint {path} is of another training: {', '.join(map(_WORDS.__getitem__, different))} differ.",
            advice="Go on with the same settings on a like machine, or train from the beginning without --resume.",
        )
    return progress, tensors


def structure_sha256(network: nn.Module) -> str:
    """Of the names and shapes of all parameters, and which of them learn."""
    shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in network.named_parameters()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def copy_into(target: Tensor, tensors: dict[str, Tensor], name: str) -> None:
    """Overwrite `target` in place, which keeps its device and memory layout. Raises CorruptArtifact."""
    source = tensors.get(name)
    if source is None or source.shape != target.shape or source.dtype != target.dtype:
        raise CorruptArtifact(
            f"The checkpoint has no tensor {name} of shape {list(target.shape)}.", advice="Train from the beginning."
        )
    with torch.no_grad():
        target.copy_(source)


_WORDS = {
    "training": "the training settings",
    "seed": "the seeds",
    "precision": "the precisions",
    "data_sha256": "the images or labels",
    "network_sha256": "the networks",
}
