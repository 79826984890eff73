import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score

from rrr_edge.timing.binomial import (
    lower_tails,
    most_successes,
    trials_needed,
    trials_without_success,
    upper_bound,
)
from rrr_edge.timing.ranking import auroc, auroc_interval


@pytest.mark.parametrize(("trials", "p"), [(1, 0.5), (7, 0.02), (300, 0.02), (5000, 0.3), (100_000, 0.001)])
def test_tails_are_scipys(trials: int, p: float) -> None:
    most = min(trials, 2 * round(trials * p) + 5)
    np.testing.assert_allclose(
        lower_tails(most, trials, p), stats.binom.cdf(np.arange(most + 1), trials, p), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (9, 10), (10, 10), (3, 400), (120, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_the_bound_is_clopper_and_pearsons(successes: int, trials: int, confidence: float) -> None:
    """Scipy's exact interval with half the error on each side."""
    two_sided = stats.binomtest(successes, trials).proportion_ci(2 * confidence - 1, method="exact")
    assert upper_bound(successes, trials, confidence) == pytest.approx(two_sided.high, abs=1e-9)


@pytest.mark.parametrize(("trials", "p"), [(0, 0.1), (28, 0.1), (29, 0.1), (148, 0.02), (149, 0.02), (900, 0.05)])
def test_the_most_successes_are_the_last_below_the_bound(trials: int, p: float) -> None:
    most = most_successes(trials, p, 0.95)
    assert most < 0 or upper_bound(most, trials, 0.95) <= p
    assert trials == 0 or upper_bound(most + 1, trials, 0.95) > p


def test_trials_that_are_needed() -> None:
    """0.98^149 is the first power below 0.05; where some are successes, fewer trials do not show it."""
    assert trials_without_success(0.02, 0.95) == trials_needed(0.0, 0.02, 0.95) == 149
    needed = trials_needed(0.01, 0.02, 0.95)
    assert upper_bound(round(0.01 * needed), needed, 0.95) <= 0.02
    assert upper_bound(round(0.005 * needed), needed // 2, 0.95) > 0.02
    assert trials_needed(0.02, 0.02, 0.95) is None
    assert trials_needed(0.019999, 0.02, 0.95) is None


def test_the_area_under_the_curve_is_sklearns_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    for levels in (3, 10**6):
        positive = rng.random(200) < 0.2
        scores = rng.integers(0, levels, 200) + positive * levels / 4
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    with pytest.raises(ValueError, match="both kinds"):
        auroc(scores, np.ones(200, bool))


@pytest.mark.parametrize(("area", "few", "many"), [(0.5, 10, 90), (0.9, 3, 200), (1.0, 2, 50), (0.0, 5, 5)])
def test_its_interval_ends_where_hanley_and_mcneils_error_says(area: float, few: int, many: int) -> None:
    """Their variance as they write it, with half the total for both counts, at the end of the interval."""
    z, middle = stats.norm.ppf(0.975), (few + many) / 2

    def excess(true: float) -> float:
        q1, q2 = true / (2 - true), 2 * true**2 / (1 + true)
        variance = true * (1 - true) + (middle - 1) * (q1 - true**2 + q2 - true**2)
        return abs(true - area) - z * np.sqrt(variance / (few * many))

    low, high = auroc_interval(area, few, many)
    assert low == pytest.approx(0 if area == 0 else optimize.brentq(excess, 1e-12, area - 1e-9), abs=1e-8)
    assert high == pytest.approx(1 if area == 1 else optimize.brentq(excess, area + 1e-9, 1 - 1e-12), abs=1e-8)
