"""Conformal sets: labels of which one is right with a wanted probability."""

import math
from typing import NamedTuple

import numpy as np

from rrr_edge.bundle.evaluation import Labels
from rrr_edge.bundle.reference import Floats


class Levels(NamedTuple):
    """The probability from which on each label [K] is in the set, and whether the label has a level of its own [K]."""

    levels: tuple[float, ...]
    own: tuple[bool, ...]


def find_levels(probabilities: Floats, labels: Labels, coverage: float) -> Levels:
    """Levels at which the set of a new photo holds its label with a probability of at least `coverage`.

    Split conformal prediction with the score 1 - p of the label (Vovk et al. 2005; Sadinle, Lei and Wasserman 2019),
    class-conditional (Sadinle et al., section 3.2) for classes with so many of the photos that the coverage exceeds
    what is wanted by at most half of what may be missed. The others have a level in common, from their photos together.
    Within each class that has its own level, and within the others together, coverage is at least as wanted, in the
    mean over such calibrations, for photos that are exchangeable with these.
    """
    classes = probabilities.shape[1]
    own_probability = probabilities[np.arange(len(labels)), labels]
    has_own = np.bincount(labels, minlength=classes) >= photos_for_own_level(coverage)
    common = _level(own_probability[~has_own[labels]], coverage)
    levels = [_level(own_probability[labels == k], coverage) if own else common for k, own in enumerate(has_own)]
    return Levels(tuple(levels), tuple(has_own.tolist()))


def photos_for_own_level(coverage: float) -> int:
    """1 / (n + 1), by which coverage may exceed what is wanted, is at most half of what may be missed."""
    return math.ceil(2 / (1 - coverage) - 1 - 1e-9)


def _level(own_probability: Floats, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th largest; 0, which takes the label into every set, where there is no such one."""
    rank = math.ceil((len(own_probability) + 1) * coverage - 1e-9)
    return float(np.sort(own_probability)[::-1][rank - 1]) if rank <= len(own_probability) else 0.0
