"""Confidence bounds for the median of dependent samples, valid at every look (a confidence sequence)."""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from rrr_edge.timing.statistics import Floats, Interval

# The chance that one of the two bounds is ever wrong, for each of them, however often one looks.
ERROR_RATE = 0.005

# Before there are so many pairs of numbers nothing can be said of what they have to do with each other, and in
# stretches of which there are fewer nothing is looked for.
_PAIRS = 20
_STRETCHES = 11


def stretch_of(numbers: Sequence[float]) -> int | None:
    """How many numbers in a row to take as one, by their median, so that these count as independent; None: unknown.

    Stretches are doubled from two on, as in Flyvbjerg & Petersen 1989 (J. Chem. Phys. 91). Where of the neighbouring
    medians a share of (1 + s)/2 lie on the same side of their middle, they are taken for a Gaussian process of first
    order, of the correlation r = sin(pi s/2): then (1 + r)/(1 - r) of them tell what an independent one tells. For
    pairs s is taken one standard error higher, and for longer stretches only where it is two above 0. The longest
    answer holds.
    """
    if len(numbers) < 2 * _PAIRS:
        return None
    longest = tried = 2
    while len(numbers) >= tried * _STRETCHES:
        medians = medians_of(numbers, tried)
        same, error = _same_side(medians), 1 / math.sqrt(len(medians))
        same = max(0.0, same + error) if tried == 2 else same if same > 2 * error else 0.0
        if same >= 1:
            return None
        correlation = math.sin(math.pi / 2 * same)
        if same:
            longest = max(longest, tried * math.ceil((1 + correlation) / (1 - correlation)))
        tried *= 2
    return longest


def _same_side(medians: Floats) -> float:
    """1 where all neighbours lie on the same side of the middle, 0 where half of them do, or where all are alike."""
    above = medians > np.median(medians)
    return 2 * float((above[1:] == above[:-1]).mean()) - 1 if above.any() else 0.0


def medians_of(numbers: Sequence[float], stretch: int) -> Floats:
    """The median of each whole stretch."""
    whole = len(numbers) - len(numbers) % stretch
    return np.asarray(np.median(np.reshape(numbers[:whole], (-1, stretch)), axis=1))


def bounds(numbers: Sequence[float], error_rate: float = ERROR_RATE) -> Interval | None:
    """An interval from a confidence sequence for the median; None while there are too few.

    Whether a number lies above m is a coin. A gambler bets on "above", with a mixture of all stakes; where m is not
    below the median, she loses on average, and her money ever reaches 1/error_rate times its beginning with a chance
    of error_rate at most (Ville 1939; Robbins 1970, Ann. Math. Stat. 41). Once it has, m is below the median. So the
    bounds hold at all looks together, no outlier moves them, and all that is asked of the numbers is that each has
    the same median, given those before it. For quantiles: Howard and Ramdas 2022, Bernoulli 28.
    """
    count = len(numbers)
    needed = bisect_left(range(count + 1), 1 / error_rate, lo=count // 2, key=lambda heads: wealth(count, heads))
    if needed > count:
        return None
    ordered = sorted(numbers)
    return float(ordered[-needed]), float(ordered[needed - 1])


def wealth(tosses: int, heads: int) -> float:
    """What the gambler has: the mean, over all p from 1/2 to 1, of (2p)^heads (2(1-p))^(tosses-heads).

    The integral is a sum of binomials, C(n+1, 0) + ... + C(n+1, k) over (n+1) C(n, k).
    """
    term = total = 1.0
    for place in range(heads, 0, -1):
        term *= place / (tosses + 2 - place)
        total += term
        if total == float("inf"):
            break
    return total / (tosses + 1 - heads)
