"""The binomial distribution's tail, the exact bound of a share that follows from it, and the trials that it takes."""

import math

import numpy as np
from numpy.typing import NDArray

_LARGEST = 10_000_000


def lower_tails(most: int, trials: int, p: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0 .. `most` [most + 1], where X is binomial with `trials` and 0 < `p` < 1."""
    k = np.arange(1, most + 1)
    odds = math.log(p) - math.log1p(-p)
    logs = np.concatenate(([0.0], np.cumsum(np.log(trials - k + 1) - np.log(k) + odds))) + trials * math.log1p(-p)
    return np.asarray(np.minimum(np.cumsum(np.exp(logs)), 1.0))


def lower_tail(successes: int, trials: int, p: float) -> float:
    """P(X <= `successes`)."""
    return 1.0 if successes >= trials else float(lower_tails(successes, trials, p)[-1])


def upper_bound(successes: int, trials: int, confidence: float) -> float:
    """The one-sided bound of Clopper and Pearson (Biometrika 26, 1934): the p at which P(X <= successes) has fallen to
    1 - `confidence`. It is below the true p in a share of at most 1 - `confidence` of samples.

    The same as B* of Geifman and El-Yaniv (2017, Lemma 3.1).
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if lower_tail(successes, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def most_successes(trials: int, p: float, confidence: float) -> int:
    """The most successes that still show with `confidence` that their share is at most `p`; -1 where none do."""
    tails = lower_tails(min(trials, math.ceil(trials * p)), trials, p)
    return int(np.searchsorted(tails, 1 - confidence, side="right")) - 1


def trials_without_success(p: float, confidence: float) -> int:
    """How many trials without a single success show with `confidence` that there are at most `p` of them."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-p))


def trials_needed(share: float, p: float, confidence: float) -> int | None:
    """About how many trials of which a `share` below `p` are successes show that; None for more than ten million."""
    low = trials_without_success(p, confidence)

    def shows(trials: int) -> bool:
        return math.floor(share * trials) <= most_successes(trials, p, confidence)

    if share >= p:
        return None
    if shows(low):
        return low
    high = 2 * low
    while not shows(high):
        low, high = high, 2 * high
        if high > _LARGEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high
