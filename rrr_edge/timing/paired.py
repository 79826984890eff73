"""Paired statistics: two classifiers that answered the same photos, by the photos on which only one of them is right.

With n photos, of which b only the first classifier and c only the second one answers rightly, the second's accuracy is
(c - b) / n above the first's. All that is said here follows from b, c and n: photos that both or neither answer
rightly tell nothing about which is better, but how rare the others are.
"""

import math
import statistics
from collections.abc import Callable

from rrr_edge.timing.statistics import CONFIDENCE, Interval


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test that both are right equally often.

    Under that hypothesis the photos that tell them apart are tosses of a fair coin (McNemar 1947, Psychometrika 12; in
    its exact form a sign test): twice the smaller tail of the binomial distribution, at most 1.
    """
    tosses, heads = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for place in range(1, heads + 1):
        term = term * (tosses - place + 1) // place
        tail += term
    return min(1.0, 2 * tail / (1 << tosses))


def paired_difference(only_first: int, only_second: int, images: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of the second's accuracy minus the first's (Tango 1998, Statistics in Medicine 17, eq. 8-11).

    It holds for few photos, and where the two never differ. Raises ValueError unless there are `images`, no fewer than
    those that only one of them answers rightly.
    """
    if not 0 < images >= only_first + only_second or min(only_first, only_second) < 0:
        raise ValueError(f"{only_first} and {only_second} of {images} photos are no counts of pairs")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    difference = (only_second - only_first) / images

    def beyond(difference: float) -> float:
        return abs(_score(difference, only_first, only_second, images)) - z

    return _root(beyond, difference, -1.0), _root(beyond, difference, 1.0)


def _score(difference: float, only_first: int, only_second: int, images: int) -> float:
    """How many standard errors the counts are away from a true `difference`, where that is in (-1, 1)."""
    a = 2 * images
    b = -only_second - only_first + (2 * images - only_second + only_first) * difference
    c = -only_first * difference * (1 - difference)
    # The most likely share of photos on which only the first is right, given the difference.
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = images * (2 * share + difference * (1 - difference))
    distance = only_second - only_first - images * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0


def _root(function: Callable[[float], float], inside: float, outside: float) -> float:
    """Where `function`, negative at `inside`, becomes positive on the way to `outside`; that itself, where nowhere."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if function(middle) > 0:
            outside = middle
        else:
            inside = middle
    return (inside + outside) / 2
