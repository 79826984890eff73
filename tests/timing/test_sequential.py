"""The gate's interval: exact for independent numbers, and for correlated ones as good as their stretches."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.signal import lfilter

from rrr_edge.timing.sequential import ERROR_RATE, bounds, medians_of, stretch_of, wealth


@pytest.mark.parametrize(("tosses", "heads"), [(1, 1), (5, 0), (10, 9), (40, 31), (200, 120)])
def test_wealth_is_the_mean_over_all_stakes(tosses: int, heads: int) -> None:
    expected, _ = quad(lambda p: 2 * (2 * p) ** heads * (2 * (1 - p)) ** (tosses - heads), 0.5, 1)
    assert wealth(tosses, heads) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("tosses", "heads"), [(0, 0), (1, 1), (9, 4), (50, 30)])
def test_a_fair_coin_neither_enriches_nor_ruins(tosses: int, heads: int) -> None:
    """The martingale on which the guarantee rests."""
    after = (wealth(tosses + 1, heads + 1) + wealth(tosses + 1, heads)) / 2
    assert after == pytest.approx(wealth(tosses, heads))


def test_wealth_grows_beyond_all_floats_without_failing() -> None:
    assert wealth(5000, 5000) == np.inf


def test_the_interval_keeps_the_median_at_all_looks_and_outliers_do_not_matter() -> None:
    """Cauchy's numbers have no mean. Of 200 sequences 2 may go wrong on average, at whatever look."""
    rng = np.random.default_rng(1)
    wrong = 0
    for numbers in rng.standard_cauchy((200, 150)):
        looks = (bounds(numbers[:count]) for count in range(1, 151))
        wrong += any(not look[0] <= 0 <= look[1] for look in looks if look)
    assert wrong <= 6  # beyond that with a chance of 0.4%, were the rate 1%


def test_the_interval_needs_as_many_numbers_as_a_coin_needs_heads() -> None:
    """2^(n+1)/(n+1), the wealth after heads alone, passes 200 at the eleventh."""
    numbers = [float(count) for count in range(1, 12)]
    assert all(bounds(numbers[:count]) is None for count in range(11))
    assert bounds(numbers) == (1.0, 11.0)
    assert 2**11 / 11 < 1 / ERROR_RATE < 2**12 / 12


def autoregressive(correlation: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of median 0, each number correlated so with the one before."""
    noise = rng.normal(size=count + 300) * np.sqrt(1 - correlation**2)
    return lfilter([1], [1, -correlation], noise)[300:]


@pytest.mark.parametrize(("correlation", "least", "most"), [(0.0, 2, 6), (0.5, 3, 12), (0.8, 9, 36), (0.95, 39, 400)])
def test_a_stretch_grows_with_the_correlation(correlation: float, least: int, most: int) -> None:
    """(1 + r)/(1 - r) rounds tell what an independent one tells: 1, 3, 9, 39."""
    rng = np.random.default_rng(0)
    found = [stretch_of(autoregressive(correlation, 4000, rng)) or np.inf for _ in range(9)]
    assert least <= np.median(found) <= most


@pytest.mark.parametrize(
    ("correlation", "alone", "stretched"), [(0.5, 0.04, 0.02), (0.8, 0.4, 0.03), (0.95, 0.9, 0.03)]
)
def test_correlated_numbers_are_not_taken_for_independent(correlation: float, alone: float, stretched: float) -> None:
    """Of 100 sequences whose median is 0: as many intervals miss it, at one look or another, as are alone or less."""
    rng = np.random.default_rng(2)
    wrong_alone = wrong = 0
    for _ in range(100):
        numbers = autoregressive(correlation, 400, rng)
        wrong_alone += any(misses(bounds(numbers[:count])) for count in range(20, 401, 20))
        wrong += any(misses(stretched_bounds(numbers[:count])) for count in range(20, 401, 20))
    assert wrong_alone >= 100 * alone, "the numbers are too tame to show anything"
    assert wrong <= 100 * stretched


def test_power_is_kept_where_numbers_are_independent() -> None:
    """A median two standard deviations away is told apart in 120 numbers at the most."""
    rng = np.random.default_rng(3)
    found = [stretched_bounds(rng.normal(2, 1, 120)) for _ in range(50)]
    assert sum(interval is not None and interval[0] > 0 for interval in found) >= 47


def test_a_drift_and_what_alternates() -> None:
    assert stretched_bounds(np.arange(200.0)) is None
    assert stretch_of([1.0] * 39) is None
    assert stretched_bounds(np.tile([0.9, 1.1], 50)) == (1.0, 1.0)


def stretched_bounds(numbers):
    stretch = stretch_of(numbers)
    return bounds(medians_of(numbers, stretch)) if stretch else None


def misses(interval) -> bool:
    return interval is not None and not interval[0] <= 0 <= interval[1]
