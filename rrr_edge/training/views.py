"""Features of the frozen stump for a few augmented views of every image, computed once and kept in memory.

Deviation from Sun et al. 2023, Appendix C: a step draws one of K augmentations of an image instead of a new one. In
return no step runs the stump, and batches of each branch's own cost no more than shared ones.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rrr_edge.errors import UsageError
from rrr_edge.timing.machine import memory_bytes
from rrr_edge.timing.progress import OnProgress, Step
from rrr_edge.training.batches import Batches

MEMORY_SHARE = 0.5


def make_views(
    read: Callable[[Tensor], Tensor], batches: Batches, count: int, *, dtype: torch.dtype, on_progress: OnProgress
) -> Tensor:
    """Features [count, N, h, w, C] in `dtype`, on the CPU, of `count` epochs of `batches`.

    The labels of `batches` are the places 0 .. N-1 of its N images; `read` makes features [n, C, h, w] of images
    [n, 1, 3, H, W]. Raises UsageError, before anything is computed, where they need more than half of the memory.
    """
    images = batches.examples.images.shape
    one = read(torch.zeros(1, 1, images[3], *images[1:3], dtype=torch.uint8))
    needed = _check_memory(images[0] * one.numel() * dtype.itemsize, count, images[0])
    _, channels, height, width = one.shape
    total = count * batches.steps
    on_progress(Step("augment once", 0, total, f"{needed / 1e9:.1f} GB of memory for {count} views an image"))
    views = torch.empty(count, images[0], height, width, channels, dtype=dtype)
    for step, batch in enumerate(batches.run(0, total)):
        # Channels last, which is how the branches read them.
        features = read(batch.inputs).permute(0, 2, 3, 1)
        views[step // batches.steps, batch.labels[:, 0]] = features.to("cpu", dtype)
        on_progress(Step("augment once", step + 1, total))
    return views


def _check_memory(view_bytes: int, count: int, images: int) -> int:
    limit = int(MEMORY_SHARE * memory_bytes())
    if count * view_bytes > limit:
        fit = limit // view_bytes
        raise UsageError(
            f"{count} views of {images:,} images need {count * view_bytes / 1e9:.1f} GB of memory; "
            f"half of this machine's is {limit / 1e9:.1f} GB.",
            advice=f"Use --feature-views {fit} or fewer." if fit else "Use --feature-views 0.",
        )
    return count * view_bytes
