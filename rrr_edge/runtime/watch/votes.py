"""Votes over the last frames: a label that does not flicker."""

from collections import deque
from typing import NamedTuple

import numpy as np

from rrr_edge.runtime.classifier import Prediction


class Vote(NamedTuple):
    """The label that is shown, its probability, the uncertainty, and whether the label is the answer."""

    label: str
    probability: float
    uncertainty: float
    answered: bool


class Votes:
    """The label of the last `frames` predictions, one vote each.

    It stays until another has more than two thirds of the votes of a full window (hysteresis), so that two labels which
    take turns do not make it flicker. Its probability and its uncertainty are the means over the window; it is the
    answer of a calibrated engine where more than half of the predictions in the window give it as theirs. A promise
    about single answers says nothing of it.
    """

    def __init__(self, frames: int, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._needed = 2 * frames // 3 + 1
        self._window: deque[Prediction] = deque(maxlen=frames)
        self._index: int | None = None

    def add(self, prediction: Prediction) -> Vote:
        """With `prediction` as the newest vote."""
        self._window.append(prediction)
        votes = np.bincount([vote.index for vote in self._window])
        first = int(votes.argmax())
        if self._index is None or votes[first] >= self._needed:
            self._index = first
        probability = np.mean([vote.probabilities[self._index] for vote in self._window])
        uncertainty = np.mean([vote.uncertainty for vote in self._window])
        mine = sum(vote.answered and vote.index == self._index for vote in self._window)
        answered = prediction.doubt.threshold >= 1 or 2 * mine > len(self._window)
        return Vote(self._labels[self._index], float(probability), float(uncertainty), answered)
