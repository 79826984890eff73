"""The mathematics of calibration, against scipy, numpy's quantiles and populations whose true risk is known."""

from typing import Self

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy import optimize, special, stats
from sklearn.base import BaseEstimator, ClassifierMixin

from rrr_edge.bundle.evaluation import calibration_error
from rrr_edge.profile.calibration.selective import (
    Judged,
    Wanted,
    divide,
    find_threshold,
    least_photos,
    photos_needed,
)
from rrr_edge.profile.calibration.sets import find_levels, photos_for_own_level
from rrr_edge.profile.calibration.temperature import error_after, fit_temperature
from rrr_edge.timing.binomial import upper_bound


def drawn(count: int, rng: np.random.Generator, *, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, 4], and labels that are drawn from them; then made too sure by `sharpness`."""
    logits = 1.5 * rng.normal(size=(count, 4))
    true = special.softmax(logits, 1)
    labels = (rng.random((count, 1)) > np.cumsum(true, 1)).sum(1)
    return special.softmax(sharpness * logits, 1).astype(np.float32), labels


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_temperature_is_the_likeliest_and_mends_the_calibration_error(sharpness: float) -> None:
    probabilities, labels = drawn(2000, np.random.default_rng(0), sharpness=sharpness)

    def loss(temperature: float) -> float:
        return -special.log_softmax(np.log(probabilities.astype(float)) / temperature, 1)[range(2000), labels].mean()

    found = fit_temperature(probabilities, labels)
    assert found == pytest.approx(optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x, rel=1e-3)
    assert found == pytest.approx(sharpness, rel=0.1)
    before = calibration_error(probabilities.max(1), probabilities.argmax(1) == labels)
    assert error_after(probabilities, labels) < before / 2


def test_answers_that_are_all_right_or_all_wrong_have_no_temperature() -> None:
    probabilities, _ = drawn(20, np.random.default_rng(0))
    assert fit_temperature(probabilities, probabilities.argmax(1)) == 1
    assert fit_temperature(probabilities, probabilities.argmin(1)) == 1


def test_parts_are_disjoint_whole_and_the_same_every_time() -> None:
    planning, testing = divide(301)
    assert (len(planning), len(testing)) == (100, 201)
    assert sorted([*planning, *testing]) == list(range(301))
    assert np.array_equal(divide(301)[0], planning)


def population(count: int, rng: np.random.Generator, *, risk: float) -> Judged:
    """Of doubt u, evenly from 0 to 1, a share of 4 `risk` u^3 is wrong: up to a threshold t, `risk` t^3."""
    doubt = rng.random(count)
    return Judged(doubt, rng.random(count) < 4 * risk * doubt**3)


def test_a_promise_is_broken_no_more_often_than_it_says() -> None:
    """The true error up to a threshold is known; so is the loosest threshold that keeps it."""
    rng, wanted, kept = np.random.default_rng(1), Wanted(0.05, 0.9), []
    for _ in range(200):
        found = find_threshold(population(80, rng, risk=0.15), population(160, rng, risk=0.15), wanted)
        kept.append(found.threshold if found else 0.0)
    broken = int((0.15 * np.array(kept) ** 3 > wanted.max_error).sum())
    assert broken <= stats.binom.ppf(0.99, 200, 1 - wanted.confidence)
    assert np.mean(kept) > 0.2, "it hardly ever answers"


def test_the_threshold_that_is_found_has_clopper_and_pearsons_bound_and_the_next_looser_one_has_not() -> None:
    rng, wanted = np.random.default_rng(2), Wanted(0.05)
    planning, testing = population(300, rng, risk=0.15), population(600, rng, risk=0.15)
    found = find_threshold(planning, testing, wanted)
    passed = testing.doubt <= found.threshold
    assert (found.answered, found.wrong) == (passed.sum(), testing.wrong[passed].sum())
    assert upper_bound(found.wrong, found.answered, 0.95) <= 0.05
    levels = np.append(np.unique(planning.doubt), 1.0)
    looser = testing.doubt <= levels[levels > found.threshold][1]
    assert upper_bound(int(testing.wrong[looser].sum()), int(looser.sum()), 0.95) > 0.05


@pytest.mark.parametrize("photos", [1, 2, 10, 200])
def test_too_few_photos_promise_nothing_although_all_are_right(photos: int) -> None:
    doubt = np.random.default_rng(0).random(photos)
    rows = divide(photos)
    parts = [Judged(doubt[part], np.zeros(len(part), bool)) for part in rows]
    assert find_threshold(*parts, Wanted(0.02)) is None
    assert photos_needed(Judged(doubt, np.zeros(photos, bool)), Wanted(0.02)) == least_photos(Wanted(0.02)) == 224


def test_enough_photos_that_are_all_right_are_all_answered_and_all_wrong_ones_never() -> None:
    doubt = np.random.default_rng(0).random(230)
    rows = divide(230)
    assert find_threshold(*(Judged(doubt[part], doubt[part] > 2) for part in rows), Wanted(0.02)).threshold == 1
    assert find_threshold(*(Judged(doubt[part], doubt[part] >= 0) for part in rows), Wanted(0.02)) is None
    assert photos_needed(Judged(doubt, doubt >= 0), Wanted(0.02)) is None


def test_measures_of_few_values_have_thresholds_between_them() -> None:
    votes = np.repeat([0.0, 0.125, 0.5], 200)
    wrong = np.random.default_rng(0).random(600) < np.repeat([0.0, 0.01, 0.5], 200)
    order = np.random.default_rng(1).permutation(600)
    parts = [Judged(votes[part], wrong[part]) for part in (order[:200], order[200:])]
    assert find_threshold(*parts, Wanted(0.05)).threshold == (0.125 + 0.5) / 2


def test_sets_hold_the_right_label_as_often_as_is_wanted() -> None:
    """In the mean over calibrations, and by at most 1 / (n + 1) more; 19 photos give a class a level of its own."""
    rng, coverage, inside = np.random.default_rng(3), 0.9, []
    for _ in range(100):
        probabilities, labels = drawn(160, rng)
        levels = np.array(find_levels(probabilities[:100], labels[:100], coverage).levels)
        own = labels[100:]
        inside.append((probabilities[100:][range(60), own] >= levels[own]).mean())
    error = stats.sem(inside)
    assert coverage - 3 * error < np.mean(inside) < coverage + 1 / 20 + 3 * error


def test_a_level_of_its_own_is_a_quantile_of_the_classs_photos() -> None:
    probabilities, labels = drawn(400, np.random.default_rng(3))
    found = find_levels(probabilities, labels, 0.9)
    assert all(found.own)
    for k in range(4):
        scores = 1 - probabilities[labels == k, k].astype(float)
        rank = np.ceil((len(scores) + 1) * 0.9) / len(scores)
        assert 1 - found.levels[k] == pytest.approx(np.quantile(scores, rank, method="inverted_cdf"))


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose pictures are its probabilities."""

    def __init__(self) -> None:
        self.classes_, self.is_fitted_ = np.arange(4), True

    def fit(self, probabilities: np.ndarray, labels: np.ndarray) -> Self:
        return self

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(1)

    def predict_proba(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities


@pytest.mark.parametrize(("coverage", "few"), [(0.9, 40), (0.95, 60)])
def test_sets_are_those_of_mapie(coverage: float, few: int) -> None:
    """Its split conformal sets (LAC) have the same labels for all photos, where classes have a level in common."""
    probabilities, labels = drawn(260, np.random.default_rng(5))
    found = find_levels(probabilities[:few], labels[:few], coverage)
    assert not any(found.own)
    theirs = SplitConformalClassifier(Given(), confidence_level=coverage, conformity_score="lac", prefit=True)
    theirs.conformalize(probabilities[:few].astype(float), labels[:few])
    _, sets = theirs.predict_set(probabilities[60:].astype(float))
    np.testing.assert_array_equal(probabilities[60:] >= np.array(found.levels), sets[:, :, 0])


def test_classes_with_few_photos_share_a_level_and_very_few_photos_leave_every_label_in() -> None:
    assert photos_for_own_level(0.95) == 39
    probabilities, _ = drawn(60, np.random.default_rng(4))
    found = find_levels(probabilities, np.repeat([0, 1, 2], [39, 11, 10]), 0.95)
    assert found.own == (True, False, False, False)
    assert found.levels[1] == found.levels[2] == found.levels[3]
    assert found.levels[1] == min(*probabilities[39:50, 1], *probabilities[50:, 2])
    assert find_levels(probabilities[:10], np.zeros(10, int), 0.95).levels == (0, 0, 0, 0)
