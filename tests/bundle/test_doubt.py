import numpy as np
import pytest
from scipy import special, stats

from rrr_edge.bundle.doubt import MEASURES, Doubt, tempered


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Of 40 photos, 5 classes and 8 branches, float32 as engines have them; the first is sure, with zeros."""
    rng = np.random.default_rng(0)
    branches = special.softmax(3 * rng.normal(size=(40, 8, 5)), -1).astype(np.float32)
    branches[0] = np.eye(5, dtype=np.float32)[2]
    return branches.mean(1), branches


def test_measures_are_what_scipy_makes_of_their_formulas(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, branches = answers
    largest = np.sort(probabilities, 1)[:, ::-1]
    of_mean, of_branches = stats.entropy(probabilities, axis=1), stats.entropy(branches, axis=2)
    votes = branches.argmax(2)
    apart = [[np.abs(b - mean).sum() / 2 for b in each] for each, mean in zip(branches, probabilities, strict=True)]
    expected = {
        "max_probability": 1 - largest[:, 0],
        "entropy": of_mean / np.log(5),
        "margin": 1 - (largest[:, 0] - largest[:, 1]),
        "mutual_information": (of_mean - of_branches.mean(1)) / np.log(5),
        "variation_ratio": 1 - (votes == stats.mode(votes, axis=1, keepdims=True).mode).mean(1),
        "disagreement": np.mean(apart, 1),
    }
    assert set(expected) == set(MEASURES)
    for name, measure in MEASURES.items():
        found = measure(probabilities, branches)
        np.testing.assert_allclose(found, expected[name], atol=2e-6, err_msg=name)
        assert (found >= 0).all()
        assert (found <= 1).all()
        assert found[0] == pytest.approx(0, abs=1e-9)
        one = measure(probabilities[7], branches[7])
        assert float(one) == pytest.approx(found[7], abs=1e-12)


def test_one_branch_contradicts_nobody() -> None:
    row = np.array([[0.5, 0.3, 0.2]], np.float32)
    for name in ("mutual_information", "variation_ratio", "disagreement"):
        assert MEASURES[name](row, row[:, None]) == 0


def test_an_answer_is_given_up_to_the_threshold() -> None:
    rows = np.array([[0.9, 0.1], [0.75, 0.25], [0.6, 0.4]], np.float32)
    assert Doubt().answers(rows, rows[:, None]).all()
    assert Doubt(threshold=0.25).answers(rows, rows[:, None]).tolist() == [True, True, False]


def test_tempered_probabilities_are_those_of_divided_logits(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits = np.log(np.maximum(answers[0], 1e-12).astype(float))
    for temperature in (0.5, 1.0, 3.0):
        np.testing.assert_allclose(tempered(answers[0], temperature), special.softmax(logits / temperature, 1))
