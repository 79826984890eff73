"""The photos that decide between networks: never the test photos."""

import numpy as np
from numpy.typing import NDArray

from rrr_edge.errors import BadInput
from rrr_edge.images.dataset import Dataset
from rrr_edge.training import Examples

HELD_OUT = 0.2


def validation_split(dataset: Dataset, *, seed: int) -> tuple[Examples, Examples]:
    """What a search learns from and what it judges by: the validation photos, or a fifth of the training's.

    The fifth is drawn class by class, at least one photo of every class that has two. Raises BadInput where there is
    none.
    """
    train = Examples(dataset.train.images, dataset.train.labels)
    if dataset.val is not None:
        return train, Examples(dataset.val.images, dataset.val.labels)
    held = np.sort(np.concatenate([_fifth(train.labels, label, seed) for label in np.unique(train.labels)]))
    if not len(held):
        raise BadInput(
            "No class has two training photos, so none can be held out to judge a selection by.",
            advice="Add photos, or choose yourself: a number of blocks in the place of auto.",
        )
    kept = np.setdiff1d(np.arange(len(train)), held)
    return Examples(train.images[kept], train.labels[kept]), Examples(train.images[held], train.labels[held])


def _fifth(labels: NDArray[np.int64], label: int, seed: int) -> NDArray[np.int64]:
    members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
    return members[: max(1, round(HELD_OUT * len(members)))] if len(members) > 1 else members[:0]
