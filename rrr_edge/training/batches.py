"""What each step of a training sees: a function of the seed, the purpose, the step and the branch, and of nothing else.

So a training that was stopped anywhere goes on exactly as if it had not been, and no global random state is read.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rrr_edge.bundle import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.training.augment import augment

# Steps that are prepared while the network is busy with one.
AHEAD = 2

Purpose = Literal["order", "augment", "dropout", "stump order", "stump augment"]
_PURPOSES: tuple[Purpose, ...] = ("order", "augment", "dropout", "stump order", "stump augment")


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
    """uint8 `images` [n, S, 3, H, W] and `labels` [n, S]: S streams, one that all branches share or one a branch."""

    images: Tensor
    labels: Tensor


def rng(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator of one place in a training; two places never share one."""
    return np.random.default_rng([seed, _PURPOSES.index(purpose), *position])


@dataclass(frozen=True)
class Batches:
    """Epoch after epoch of shuffled, augmented batches, prepared by threads while the network computes.

    The last, short batch of an epoch is kept, unless it would be a single image: batch normalisation cannot learn from
    one image whose features are 1x1, so that image joins the batch before. Raises BadInput for fewer than 2 images.
    """

    examples: Examples
    seed: int
    batch_size: int
    streams: int = 1
    augment: bool = True
    for_stump: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        if len(self.examples) < 2:
            raise BadInput(
                f"A training needs at least 2 images, and there are {len(self.examples)}.", advice="Add photos."
            )

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.examples), self.batch_size)
        return max(1, whole + (rest > 1))

    def run(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` - 1, counted through all epochs."""
        self._pixels  # noqa: B018  (made once, before the threads ask for it)
        pending: deque[list[Future[tuple[Tensor, Tensor]]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="augment")
        try:
            for step in range(start, stop):
                pending.append([pool.submit(self._load, step, stream) for stream in range(self.streams)])
                if len(pending) > AHEAD:
                    yield _join(pending.popleft())
            while pending:
                yield _join(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, step: int, stream: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.steps)
        order = rng(self.seed, "stump order" if self.for_stump else "order", epoch, stream).permutation(
            len(self.examples)
        )
        end = len(order) if place == self.steps - 1 else (place + 1) * self.batch_size
        chosen = order[place * self.batch_size : end]
        if self.examples.samples is not None:
            chosen = self.examples.samples[stream][chosen]
        images = list(self._pixels[chosen])
        if self.augment:
            draw = rng(self.seed, "stump augment" if self.for_stump else "augment", step, stream)
            images = [augment(image, draw) for image in images]
        return torch.stack(images), torch.from_numpy(self.examples.labels[chosen])

    @cached_property
    def _pixels(self) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.examples.images.transpose(0, 3, 1, 2)))


def _join(streams: list[Future[tuple[Tensor, Tensor]]]) -> Batch:
    images, labels = zip(*(stream.result() for stream in streams), strict=True)
    return Batch(torch.stack(images, dim=1), torch.stack(labels, dim=1))


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 [N, 3, H, W] to what a network reads: float32, channels last."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (preprocess.mean, preprocess.std))
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(1 / (255 * std)).sub_(mean / std)
