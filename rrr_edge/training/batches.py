"""Shuffled, augmented batches: a function of the seed, the purpose, the step and the branch alone.

So a training that was stopped anywhere goes on exactly as if it had not been, and no global random state is read.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.training.augment import augment

Purpose = Literal[
    "order",
    "augment",
    "dropout",
    "stump order",
    "stump augment",
    "views order",
    "views augment",
    "draw views",
    "bootstrap",
]
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

Role = Literal["train", "stump", "views"]
_ROLES: dict[Role, tuple[Purpose, Purpose]] = {
    "train": ("order", "augment"),
    "stump": ("stump order", "stump augment"),
    "views": ("views order", "views augment"),
}


@dataclass(frozen=True)
class Examples:
    """uint8 RGB `images` [N, H, W, 3] and their int64 `labels` [N]. Raises BadInput where they do not match.

    `samples` int64 [B, N], where there are any: the images, with repetitions, that each branch learns from.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    samples: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise BadInput(f"Images must be uint8 [N, H, W, 3], not {self.images.dtype} {list(self.images.shape)}.")
        if self.labels.shape != (len(self.images),):
            raise BadInput(f"{len(self.images)} images have labels of shape {list(self.labels.shape)}.")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype=np.int64).data)
        if self.samples is not None:
            digest.update(np.ascontiguousarray(self.samples, dtype=np.int64).data)
        return digest.hexdigest()


class Batch(NamedTuple):
    """`labels` [n, S] of what S streams see, one stream that all branches share or one a branch.

    `inputs` are uint8 images [n, S, 3, H, W] or, of kept views, the features [n, S * 512, h, w] that branches read.
    """

    inputs: Tensor
    labels: Tensor


def rng(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator of one place in a training; two places never share one."""
    return np.random.default_rng([seed, _PURPOSES.index(purpose), *position])


def steps_of(images: int, batch_size: int) -> int:
    """Batches in an epoch."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (rest > 1))


@dataclass(frozen=True)
class Batches:
    """Epoch after epoch of shuffled, augmented batches, prepared by threads while the network computes.

    The last, short batch of an epoch is kept, unless it would be a single image: batch normalisation cannot learn from
    one image whose features are 1x1, so that image joins the batch before. Raises BadInput for fewer than 2 images.

    `views` [K, N, h, w, 512] of 16 bits, where there are any, are seen instead of augmented images: of each image one
    of its K, drawn anew by every stream in every epoch. With `balance` an epoch has as many images of each class, and
    as many in all as there are: those of small classes come again and again, of large ones only some.
    """

    examples: Examples
    seed: int
    batch_size: int
    streams: range = range(1)
    augment: bool = True
    balance: bool = False
    views: Tensor | None = None
    role: Role = "train"
    workers: int = 1

    def __post_init__(self) -> None:
        if len(self.examples) < 2:
            raise BadInput(
                f"A training needs at least 2 images, and there are {len(self.examples)}.", advice="Add photos."
            )

    @property
    def steps(self) -> int:
        return steps_of(len(self.examples), self.batch_size)

    def run(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` - 1, counted through all epochs."""
        pending: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="augment")
        try:
            for step in range(start, stop):
                pending.append(pool.submit(self._prepare, step))
                # One more than can be worked on, so that no thread waits for the network.
                if len(pending) > self.workers + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, step: int) -> Batch:
        chosen = [self._chosen(step, stream) for stream in self.streams]
        labels = torch.from_numpy(np.stack([self.examples.labels[images] for images in chosen], axis=1))
        read = self._augmented if self.views is None else self._drawn
        return Batch(read(step, chosen), labels)

    def _chosen(self, step: int, stream: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, self.steps)
        order = self._order(rng(self.seed, _ROLES[self.role][0], epoch, stream), stream)
        end = len(order) if place == self.steps - 1 else (place + 1) * self.batch_size
        chosen = order[place * self.batch_size : end]
        return chosen if self.examples.samples is None else self.examples.samples[stream][chosen]

    def _order(self, draw: np.random.Generator, stream: int) -> NDArray[np.int64]:
        """What a stream sees in an epoch, as places among the images, or in its sample."""
        count, samples = len(self.examples), self.examples.samples
        if not self.balance:
            return draw.permutation(count)
        labels = self.examples.labels if samples is None else self.examples.labels[samples[stream]]
        classes = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        shares = np.array_split(np.arange(count), len(classes))
        # Which classes have one more where they do not divide the images evenly is drawn too.
        sizes = draw.permutation([len(share) for share in shares])
        return draw.permutation(
            np.concatenate([np.resize(own, size) for own, size in zip(classes, sizes, strict=True)])
        )

    def _augmented(self, step: int, chosen: list[NDArray[np.int64]]) -> Tensor:
        inputs = []
        for stream, images in zip(self.streams, chosen, strict=True):
            draw = rng(self.seed, _ROLES[self.role][1], step, stream)
            # Of the batch alone: the photos may be a file's, and more than memory holds.
            pixels = torch.from_numpy(np.ascontiguousarray(self.examples.images[images].transpose(0, 3, 1, 2)))
            inputs.append(torch.stack([augment(image, draw) for image in pixels]) if self.augment else pixels)
        return torch.stack(inputs, dim=1)

    def _drawn(self, step: int, chosen: list[NDArray[np.int64]]) -> Tensor:
        assert self.views is not None
        # As bits, because numpy gathers them four times faster than torch, and knows no bfloat16.
        views = self.views.view(torch.int16).numpy()
        count, _, height, width, channels = views.shape
        inputs = np.empty((len(chosen[0]), height, width, len(chosen), channels), np.int16)
        for place, (stream, images) in enumerate(zip(self.streams, chosen, strict=True)):
            drawn = rng(self.seed, "draw views", step, stream).integers(count, size=len(images))
            inputs[:, :, :, place] = views[drawn, images]
        # Channels last, which is how the branches read them.
        return torch.from_numpy(inputs).view(self.views.dtype).flatten(3).permute(0, 3, 1, 2)


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 [N, 3, H, W] to what a network reads: float32, channels last."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (preprocess.mean, preprocess.std))
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(1 / (255 * std)).sub_(mean / std)
