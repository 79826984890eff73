"""Tests and intervals against scipy's, and against every sign that there is."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rrr_edge.study.statistics import cluster_order, estimate, holm, wilcoxon_less


@pytest.mark.parametrize("seed", range(20))
def test_p_is_scipys_where_no_sizes_are_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.normal(rng.normal(0, 0.5), 1, rng.integers(1, 41))
    expected = stats.wilcoxon(differences, alternative="less", method="exact").pvalue
    assert wilcoxon_less(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_p_counts_all_signs_where_sizes_are_equal_or_nothing(seed: int) -> None:
    differences = np.random.default_rng(seed).integers(-3, 3, 9) / 400
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    observed = ranks[nonzero > 0].sum()
    sums = [ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(nonzero))]
    assert wilcoxon_less(differences) == pytest.approx(np.mean(np.array(sums) <= observed))


def test_the_papers_extremes_need_exact_tails() -> None:
    wins = np.arange(1, 41)
    assert wilcoxon_less(-wins) == pytest.approx(2.0**-40)
    # One positive difference with rank 2: sums 0, 1 and 2 have one sign each.
    assert wilcoxon_less(np.where(wins == 2, 1, -1) * wins) == pytest.approx(3 * 2.0**-40)
    assert wilcoxon_less([0, 0]) == 1.0
    assert wilcoxon_less([0.1 + 0.2 - 0.3, -1]) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 0.1, rng.integers(2, 12))
    found = estimate(values)
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert found.interval == pytest.approx(expected)
    assert estimate([0.3]) == (0.3, None, 1)


def test_holm_multiplies_from_the_smallest_on_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    ps = np.random.default_rng(0).uniform(0, 0.2, 8)
    ordered = np.sort(ps)
    by_definition = np.minimum(1, np.maximum.accumulate(ordered * np.arange(8, 0, -1)))
    assert np.sort(holm(list(ps))) == pytest.approx(by_definition)


def test_alike_rows_are_neighbours() -> None:
    rows = np.array([[0.0, 0], [9, 9], [0.1, 0], [9, 8.9]])
    order = cluster_order(rows)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert cluster_order(rows[:2]) == [0, 1]
