import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from rrr_edge.timing.paired import mcnemar, paired_difference
from rrr_edge.timing.statistics import wilson_interval

COUNTS = [(0, 0, 20), (0, 1, 20), (3, 0, 20), (1, 9, 24), (12, 2, 50), (86, 150, 1600), (7, 7, 400), (0, 30, 30)]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (5, 0), (1, 9), (12, 2), (86, 150), (400, 331)])
def test_mcnemar_is_scipys_sign_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


@pytest.mark.parametrize(("first", "second", "images"), COUNTS)
def test_mcnemar_is_statsmodels(first: int, second: int, images: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    both = images - first - second
    expected = tables.mcnemar([[both, first], [second, 0]], exact=True).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def _likeliest_share(first: int, second: int, images: int, difference: float) -> float:
    """By search: the share that only the first answers rightly, which makes the counts likeliest given a difference."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def unlikely(share: float) -> float:
        shares = np.array([share, share + difference, 1 - 2 * share - difference])
        counts = np.array([first, second, images - first - second])
        with np.errstate(divide="ignore", invalid="ignore"):
            return -float(np.where(counts, counts * np.log(np.maximum(shares, 1e-300)), 0).sum())

    return float(optimize.minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x)


@pytest.mark.parametrize(("first", "second", "images"), COUNTS)
def test_the_interval_ends_where_the_score_test_begins_to_reject(first: int, second: int, images: int) -> None:
    """The score of a difference, with the likeliest nuisance found by search and not by Tango's quadratic."""
    for edge in paired_difference(first, second, images):
        if abs(edge) < 1:
            share = _likeliest_share(first, second, images, edge)
            error = math.sqrt((2 * share + edge - edge**2) / images)
            assert abs((second - first) / images - edge) / error == pytest.approx(stats.norm.ppf(0.975), rel=1e-4)


@pytest.mark.parametrize(("first", "second", "images"), COUNTS)
def test_the_interval_turns_with_the_pair_holds_the_difference_and_grows_with_the_confidence(
    first: int, second: int, images: int
) -> None:
    low, high = paired_difference(first, second, images)
    assert -1 <= low <= (second - first) / images <= high <= 1
    assert low < high
    assert paired_difference(second, first, images) == pytest.approx((-high, -low), abs=1e-12)
    wider = paired_difference(first, second, images, confidence=0.99)
    assert wider[0] <= low
    assert wider[1] >= high


def test_without_pairs_that_differ_it_is_that_of_a_share_of_none() -> None:
    """The score then is n d^2 = z^2 (1 - d) d, as Wilson's interval of 0 of n has it."""
    z = stats.norm.ppf(0.975)
    assert paired_difference(0, 0, 40) == pytest.approx((-(z**2) / (40 + z**2), z**2 / (40 + z**2)), abs=1e-9)


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.05, 0.1), (0.1, 0.3)])
def test_it_covers_the_true_difference_in_95_percent(shares: tuple[float, float]) -> None:
    """Exactly, over all outcomes for 40 photos: never far below 95%."""
    images, (first, second) = 40, shares
    covered = 0.0
    for b, c in itertools.product(range(25), range(25)):
        if b + c <= images:
            likely = stats.multinomial.pmf([b, c, images - b - c], images, [first, second, 1 - first - second])
            if likely > 1e-7:
                low, high = paired_difference(b, c, images)
                covered += likely * (low <= second - first <= high)
    assert 0.93 < covered <= 1


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 3, 5), (-1, 1, 5)])
def test_what_are_no_counts_is_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no counts of pairs"):
        paired_difference(*counts)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (13, 20), (399, 400), (400, 400)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_share_is_scipys(successes: int, trials: int, confidence: float) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-12)
