"""The learning rate of each step, and the steps at which it is lowest, where snapshots are taken.

Steps are counted from 0; cycles that do not divide the steps evenly differ by one step.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from rrr_edge.bundle.recipe import Schedule, Training
from rrr_edge.errors import UsageError

# The share of a training before the triangles, and how deep they go (Garipov et al. 2018; Sun et al. 2023's code).
TRIANGLES_FROM = 0.8
LOWEST = 0.5


def learning_rate(training: Training, step: int, total: int) -> float:
    """The rate of step 0 <= `step` < `total`. Raises UsageError where the cycles do not fit into `total` steps."""
    shape = _SHAPES[training.schedule.shape]
    for start, stop in cycles(training.schedule, total):
        if start <= step < stop:
            return training.learning_rate * shape.factor(step - start, stop - start)
    return training.learning_rate


def lowest(schedule: Schedule, total: int) -> tuple[int, ...]:
    """For each cycle, how many steps have been taken once the step with its lowest rate has."""
    return tuple(start + _SHAPES[schedule.shape].lowest(stop - start) for start, stop in cycles(schedule, total))


def cycles(schedule: Schedule, total: int) -> list[tuple[int, int]]:
    """First step and step after the last of each cycle."""
    shape = _SHAPES[schedule.shape]
    first = round(shape.starts_at * total)
    bounds = [first + (total - first) * i // schedule.cycles for i in range(schedule.cycles + 1)]
    if total - first < shape.shortest * schedule.cycles:
        raise UsageError(
            f"{schedule.cycles} {schedule.shape} cycles need more than the {total} steps of this training.",
            advice="Train for more epochs, or ask for fewer branches.",
        )
    return list(pairwise(bounds))


class _Shape(NamedTuple):
    """`factor` of the full rate at a place of a cycle; `lowest` is how many steps of it reach the lowest rate."""

    factor: Callable[[int, int], float]
    lowest: Callable[[int], int]
    starts_at: float = 0.0
    shortest: int = 1


def _cosine(place: int, length: int) -> float:
    """Huang et al. 2017, equation 2: from 1 down to almost 0."""
    return (1 + math.cos(math.pi * place / length)) / 2


def _triangle(place: int, length: int) -> float:
    """Garipov et al. 2018, section 3.2: from almost 1 down to `LOWEST` in the middle, and up to 1 at the end."""
    depth = 1 - abs(2 * (place + 1) / length - 1)
    return 1 - (1 - LOWEST) * depth


def _step(place: int, length: int) -> float:
    """Morgado and Vasconcelos 2019, section 4: a tenth after 40% of the steps, a hundredth after 80%."""
    return 10.0 ** -(5 * place // (2 * length))


_SHAPES = {
    "constant": _Shape(lambda place, length: 1.0, lambda length: length, shortest=0),
    "cosine": _Shape(_cosine, lambda length: length),
    "step": _Shape(_step, lambda length: length),
    "triangular": _Shape(_triangle, lambda length: length // 2, starts_at=TRIANGLES_FROM, shortest=2),
}
