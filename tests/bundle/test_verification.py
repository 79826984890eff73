"""The limits of the verification, each judged from both sides with outputs made for it."""

import numpy as np
import pytest

from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Precision
from rrr_edge.bundle.verification import Accuracy, drops_beyond, few_images_warning, guessing_warning, verify

LABELS = np.zeros(1000, np.int64)


def _outputs(first: np.ndarray) -> Outputs:
    """Three classes, the first with probability `first`, the rest shared 2:1."""
    probabilities = np.stack([first, (1 - first) * 2 / 3, (1 - first) / 3], 1).astype(np.float32)
    return Outputs(probabilities, probabilities[:, None])


SURE = _outputs(np.full(1000, 0.9))


@pytest.mark.parametrize(("difference", "passes"), [(0.9e-4, True), (1.2e-4, False)])
def test_fp32_may_differ_by_1e4(difference: float, passes: bool) -> None:
    found = _outputs(np.full(1000, 0.9 - difference))
    result = verify(SURE, found, LABELS, precision="fp32", against="torch")
    assert result.passed is passes
    assert result.max_abs_diff == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "flipped", "passes"),
    [("fp32", 1, False), ("int8", 20, True), ("int8", 21, False), ("bf16", 6, False), ("fp16", 6, False)],
)
def test_top1_agreement_is_counted_over_the_images(precision: Precision, flipped: int, passes: bool) -> None:
    first = np.full(1000, 0.9)
    first[:flipped] = 0.1
    result = verify(SURE, _outputs(first), LABELS, precision=precision, against="torch")
    assert result.top1_agreement == pytest.approx(1 - flipped / 1000)
    assert result.passed is passes


def test_ties_do_not_count() -> None:
    tie = np.full(1000, 0.4)  # 0.4, 0.4, 0.2
    reference, found = _outputs(tie), _outputs(tie - 2e-5)
    assert (reference.probabilities.argmax(1) != found.probabilities.argmax(1)).all()
    assert verify(reference, found, LABELS, precision="fp32", against="torch").passed


@pytest.mark.parametrize(("margin", "passes"), [(1.9e-4, True), (2.1e-4, False)])
def test_for_fp32_only_what_the_allowed_difference_can_flip_is_a_tie(margin: float, passes: bool) -> None:
    """Of two probabilities that may each differ by 1e-4; rounding of float32 is far below the last digit here."""
    row = np.array([0.5 + margin / 2, 0.5 - margin / 2], np.float32)
    first, second = np.tile(row, (10, 1)), np.tile(row[::-1], (10, 1))
    result = verify(
        Outputs(first, first[:, None]), Outputs(second, second[:, None]), LABELS[:10], precision="fp32", against="torch"
    )
    assert (result.top1_agreement == 1) is passes
    half = verify(
        Outputs(first, first[:, None]), Outputs(second, second[:, None]), LABELS[:10], precision="bf16", against="torch"
    )
    assert half.top1_agreement == 1


def test_the_cosine_of_log_probabilities_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.dirichlet(np.ones(5), 50).astype(np.float32) for _ in range(2))
    result = verify(Outputs(a, a[:, None]), Outputs(b, b[:, None]), LABELS[:50], precision="bf16", against="torch")
    x, y = np.log(a.astype(float)), np.log(b.astype(float))
    expected = np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in zip(x, y, strict=True)])
    assert result.log_cosine == pytest.approx(expected, abs=1e-9)
    assert not result.passed


@pytest.mark.parametrize(("max_drop", "passes"), [(0.01, False), (0.02, True)])
def test_an_accuracy_drop_fails_any_precision(max_drop: float, passes: bool) -> None:
    first = np.full(1000, 0.9)
    first[:15] = 0.1
    result = verify(SURE, _outputs(first), LABELS, precision="int8", against="torch", max_drop=max_drop)
    assert result.accuracy_reference - result.accuracy == pytest.approx(0.015)
    assert result.passed is passes


@pytest.mark.parametrize("right", range(2, 101))
def test_a_drop_of_exactly_the_limit_passes_and_one_more_answer_does_not(right: int) -> None:
    """Of 100 images, 0.01 is one; in floats 0.9 - 0.89 > 0.01."""
    assert not drops_beyond(0.01, right / 100, (right - 1) / 100)
    assert drops_beyond(0.01, right / 100, (right - 2) / 100)


def test_images_without_label_are_not_scored() -> None:
    labels = np.where(np.arange(1000) < 500, 0, -1)
    first = np.where(np.arange(1000) < 495, 0.9, 0.1)
    result = verify(_outputs(first), _outputs(first), labels, precision="int8", against="torch")
    assert result.accuracy == pytest.approx(0.99)


def test_not_a_number_never_passes() -> None:
    broken = Outputs(np.full((1000, 3), np.nan, np.float32), np.full((1000, 1, 3), np.nan, np.float32))
    for precision in ("fp32", "bf16", "int8"):
        assert not verify(SURE, broken, LABELS, precision=precision, against="torch").passed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "precision", "max_drop", "needed"),
    [
        (199, "bf16", 0.01, "from 200 on is one photo within 0.5%"),
        (200, "bf16", 0.01, ""),
        (99, "int8", 0.01, "from 100 on is one photo within 1.0%"),
        (100, "int8", 0.01, ""),
        (49, "int8", 0.5, "from 50 on is one photo within 2.0%"),
        (50, "int8", 0.0, ""),
        (3, "fp32", 0.01, ""),
    ],
)
def test_a_single_answer_may_be_more_than_the_limits_leave(
    images: int, precision: Precision, max_drop: float, needed: str
) -> None:
    said = few_images_warning(images, precision, max_drop)
    assert needed in said
    assert bool(said) == bool(needed)


@pytest.mark.parametrize(("low", "guesses"), [(0.2, True), (0.249, True), (0.251, False), (0.9, False)])
def test_a_network_that_may_guess_is_said_to(low: float, guesses: bool) -> None:
    accuracy = Accuracy(images=9, correct=8, accuracy=0.9, interval=(low, 0.95), calibration_error=0, per_class={})
    assert ("no better than guessing" in guessing_warning(accuracy, 4)) == guesses
