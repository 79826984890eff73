"""Judgements against scikit-learn, scipy and formulas."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from rrr_edge.bundle.evaluation import (
    PairedDifference,
    calibration_error,
    confident_mistakes,
    confusion_of,
    judge,
    top_k_of,
)
from rrr_edge.errors import BadInput

NAMES = ("cup", "glass", "mug", "jug", "jar", "bowl", "never seen")


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [300, 7] of an overconfident network, and labels [300] of six of the classes."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.3] * 7, 300).astype(np.float32)
    labels = np.where(rng.random(300) < 0.5, probabilities.argmax(1), rng.integers(0, 6, 300)) % 6
    return probabilities, labels


def test_confusion_and_top_k_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    found = confusion_of(probabilities.argmax(1), labels, len(NAMES))
    assert found == tuple(
        map(tuple, metrics.confusion_matrix(labels, probabilities.argmax(1), labels=range(len(NAMES))).tolist())
    )
    expected = {
        k: metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(len(NAMES))) for k in range(1, 6)
    }
    assert top_k_of(probabilities, labels) == pytest.approx(expected)
    assert list(top_k_of(probabilities[:, :3], labels % 3)) == [1, 2]


def test_of_equal_probabilities_the_first_class_is_the_answer() -> None:
    thirds = np.full((3, 3), 1 / 3, np.float32)
    labels = np.array([0, 1, 2])
    assert top_k_of(thirds, labels) == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert judge(thirds, labels, ("a", "b", "c")).accuracy == pytest.approx(1 / 3)


def test_accuracy_by_its_formulas(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    found = judge(probabilities, labels, NAMES)
    right = probabilities.argmax(1) == labels
    assert (found.images, found.correct, found.accuracy) == (300, right.sum(), pytest.approx(right.mean()))
    assert found.interval == pytest.approx(tuple(stats.binomtest(right.sum(), 300).proportion_ci(method="wilson")))
    recalls = metrics.recall_score(labels, probabilities.argmax(1), average=None, labels=range(6))
    assert found.per_class == pytest.approx(dict(zip(NAMES, recalls, strict=False)))
    confidence = probabilities.max(1)
    shares, means = (
        stats.binned_statistic(confidence, values, "mean", 15, (0, 1)).statistic for values in (right, confidence)
    )
    counts = np.histogram(confidence, 15, (0, 1))[0]
    expected = np.nansum(counts * np.abs(shares - means)) / 300
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)


def test_those_who_are_certain_are_in_the_last_bin() -> None:
    confidences, right = np.array([1, 1, 0.95, 0.5], np.float32), np.array([True, False, True, True])
    assert calibration_error(confidences, right) == pytest.approx((abs(2 - 2.95) + 0.5) / 4)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(BadInput, match="no images"):
        judge(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))
    with pytest.raises(BadInput, match="do not fit"):
        judge(np.full((3, 2), 0.5, np.float32), np.zeros(3, np.int64), ("a", "b", "c"))


def test_the_most_confident_mistakes_come_first(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    found = confident_mistakes(probabilities, labels, 10)
    wrong = probabilities.argmax(1) != labels
    assert wrong[found].all()
    assert probabilities[found].max(1).tolist() == sorted(probabilities[wrong].max(1).tolist(), reverse=True)[:10]


def test_pairs_are_counted_by_who_alone_is_right() -> None:
    own, reference = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 1, 0, 0], bool)
    found = PairedDifference.of(own, reference)
    assert (found.images, found.only_own, found.only_reference) == (6, 3, 1)
    assert found.difference == pytest.approx(own.mean() - reference.mean())
    assert found.p_value == pytest.approx(stats.binomtest(1, 4).pvalue)
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.short.startswith("+33.3 (")
    with pytest.raises(ValueError, match="no pairs"):
        PairedDifference.of(own, reference[:3])
