"""Doubt: numbers from 0 to 1 that say how unsure an answer is, and the rule by which an engine keeps silent.

Each measure takes `probabilities` [..., K], the mean of the branches' own [..., B, K], and those; it gives [...]. With
one branch the last three are 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.reference import Floats

Doubts = NDArray[np.float64]
Measure = Literal["max_probability", "entropy", "margin", "mutual_information", "variation_ratio", "disagreement"]
# What a probability of 0 counts for in a logarithm; float32 has no use for smaller ones.
_LEAST = 1e-12


def max_probability(probabilities: Floats, branches: Floats) -> Doubts:
    """1 - the probability of the answer (Hendrycks and Gimpel 2017)."""
    return np.asarray(np.clip(1 - probabilities.max(-1).astype(np.float64), 0.0, 1.0))


def entropy(probabilities: Floats, branches: Floats) -> Doubts:
    """Of the mean over the branches, over its largest value log K."""
    return _share(_nats(probabilities), probabilities)


def margin(probabilities: Floats, branches: Floats) -> Doubts:
    """1 - the difference between the two largest probabilities."""
    two = np.partition(probabilities, -2, axis=-1)[..., -2:].astype(np.float64)
    return np.asarray(np.clip(1 - (two[..., 1] - two[..., 0]), 0.0, 1.0))


def mutual_information(probabilities: Floats, branches: Floats) -> Doubts:
    """The entropy of the mean less the mean entropy of the branches, over log K (Houlsby et al. 2011; Depeweg et al.
    2018, eq. 2): what is doubted because the branches contradict each other, not because each is unsure.
    """
    return _share(_nats(probabilities) - _nats(branches).mean(-1), probabilities)


def variation_ratio(probabilities: Floats, branches: Floats) -> Doubts:
    """The share of the branches that do not vote for the label that most vote for (Freeman 1965)."""
    votes = branches.argmax(-1)
    alike = (votes[..., :, None] == votes[..., None, :]).sum(-1)
    return np.asarray(1 - alike.max(-1) / branches.shape[-2])


def disagreement(probabilities: Floats, branches: Floats) -> Doubts:
    """The mean distance in total variation between a branch's probabilities and the mean's."""
    apart = np.abs(branches.astype(np.float64) - probabilities[..., None, :])
    return np.asarray(apart.sum(-1).mean(-1) / 2)


MEASURES: dict[Measure, Callable[[Floats, Floats], Doubts]] = {
    "max_probability": max_probability,
    "entropy": entropy,
    "margin": margin,
    "mutual_information": mutual_information,
    "variation_ratio": variation_ratio,
    "disagreement": disagreement,
}
assert tuple(MEASURES) == get_args(Measure)


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is made of an engine's probabilities: nothing, unless it was calibrated.

    An answer is given where its `measure` is at most `threshold`. `levels` [K] are the probabilities from which on a
    label belongs to the set of those that may be right.
    """

    measure: Measure = "max_probability"
    threshold: float = 1.0
    temperature: float = 1.0
    levels: tuple[float, ...] | None = None

    def answers(self, probabilities: Floats, branches: Floats) -> Any:
        """Whether each of the answers is given: bool [...]."""
        return MEASURES[self.measure](probabilities, branches) <= self.threshold


UNCALIBRATED = Doubt()


def tempered(probabilities: Floats, temperature: float) -> Doubts:
    """softmax(log p / T) of `probabilities` [..., K] (Guo et al. 2017, eq. 9).

    Deviation: the logarithms of the branches' mean stand in the place of logits, which an ensemble does not have.
    """
    powers = _logs(probabilities) / temperature
    powers = np.exp(powers - powers.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _nats(probabilities: Floats) -> Doubts:
    return np.asarray(-(probabilities * _logs(probabilities)).sum(-1))


def _logs(probabilities: Floats) -> Doubts:
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float64), _LEAST)))


def _share(nats: Doubts, probabilities: Floats) -> Doubts:
    return np.asarray(np.clip(nats / np.log(probabilities.shape[-1]), 0.0, 1.0))
