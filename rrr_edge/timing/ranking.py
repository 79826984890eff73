"""The area under the ROC curve, by which a number tells two kinds apart, and its interval."""

import math
import statistics
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rrr_edge.timing.statistics import CONFIDENCE, Interval


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """The chance that one of the `positive` [N] has a higher score [N] than one of the others; ties count half.

    Raises ValueError where one of the kinds is missing.
    """
    mine, others = scores[positive], np.sort(scores[~positive])
    if not len(mine) or not len(others):
        raise ValueError("an area under the ROC curve needs both kinds")
    below, not_above = (np.searchsorted(others, mine, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(others)))


def auroc_interval(area: float, positives: int, others: int, *, confidence: float = CONFIDENCE) -> Interval:
    """A score interval of an area under the ROC curve (Newcombe 2006, Statistics in Medicine 25, method 5).

    The variance is that of Hanley and McNeil (1982) at the area in question, with half the total in the place of both
    counts, so that it holds for few of one kind and for areas of 0 and 1.
    """
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (positives + others) / 2 - 1

    def beyond(true: float) -> bool:
        spread = 1 + middle * ((1 - true) / (2 - true) + true / (1 + true))
        return abs(true - area) > z * math.sqrt(true * (1 - true) * spread / (positives * others))

    return _edge(beyond, area, 0.0), _edge(beyond, area, 1.0)


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `beyond` becomes true on the way from `inside` to `outside`."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if beyond(middle):
            outside = middle
        else:
            inside = middle
    return (inside + outside) / 2
