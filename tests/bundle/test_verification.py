"""The limits of the verification, each judged from both sides with outputs made for it."""

import numpy as np
import pytest

from rrr_edge.bundle.limits import ROUNDING, Limits, log_margins
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Precision
from rrr_edge.bundle.verification import (
    Accuracy,
    Verification,
    drops_beyond,
    few_images_warning,
    guessing_warning,
    has_precision,
    verify,
)
from rrr_edge.timing.paired import paired_difference
from rrr_edge.timing.statistics import wilson_interval

LABELS = np.zeros(1000, np.int64)


def _outputs(first: np.ndarray) -> Outputs:
    """Three classes, the first with probability `first`, the rest shared 2:1."""
    probabilities = np.stack([first, (1 - first) * 2 / 3, (1 - first) / 3], 1).astype(np.float32)
    return Outputs(probabilities, probabilities[:, None])


SURE = _outputs(np.full(1000, 0.9))


def _flipped(count: int) -> Outputs:
    first = np.full(1000, 0.9)
    first[:count] = 0.1
    return _outputs(first)


@pytest.mark.parametrize(("difference", "passes"), [(0.9e-4, True), (1.2e-4, False)])
def test_fp32_may_differ_by_1e4(difference: float, passes: bool) -> None:
    found = _outputs(np.full(1000, 0.9 - difference))
    result = verify(SURE, found, LABELS, precision="fp32")
    assert result.passed is passes
    assert result.max_abs_diff == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "flipped", "passes"),
    [
        ("fp32", 1, False),
        ("int8", 20, True),
        ("int8", 30, False),
        ("bf16", 5, True),
        ("bf16", 12, False),
        ("fp16", 12, False),
    ],
)
def test_top1_agreement_is_counted_over_the_images(precision: Precision, flipped: int, passes: bool) -> None:
    result = verify(SURE, _flipped(flipped), LABELS, precision=precision)
    assert result.top1_agreement == pytest.approx(1 - flipped / 1000)
    assert result.agreement_interval == pytest.approx(wilson_interval(1000 - flipped, 1000))
    assert "agreement" in [miss.what for miss in result.misses(precision, Limits())] or passes
    assert any("top-1 agrees" in failure for failure in result.failures) is not passes
    assert result.doubts == ()


def test_what_the_interval_cannot_tell_is_a_doubt_but_a_limit_that_is_given_is_held() -> None:
    """24 of 1,000 are 97.6%; the interval reaches from 96.5 to 98.4%."""
    found = _flipped(24)
    result = verify(SURE, found, LABELS, precision="int8")
    assert result.passed
    assert "1000 photos cannot tell whether a limit is kept: top-1 agrees on 97.60%" in result.doubts[0]
    assert [(miss.what, miss.surely) for miss in result.misses("int8", Limits(max_drop=1))] == [("agreement", False)]
    for least, passes in ((0.98, False), (0.976, True), (0.9, True)):
        limits = Limits(min_agreement=least, max_drop=1)
        given = verify(SURE, found, LABELS, precision="int8", limits=limits)
        assert (given.passed, given.doubts) == (passes, ())
        assert given.min_agreement == least


@pytest.mark.parametrize(
    ("lost", "gained", "passes", "doubts"), [(10, 0, True, 0), (20, 5, True, 1), (40, 5, False, 0)]
)
def test_the_drop_is_judged_by_the_interval_of_the_paired_difference(
    lost: int, gained: int, passes: bool, doubts: int
) -> None:
    """Limit 1%: of 1,000 images 10, 15 and 35 fewer are right."""
    before, after = np.full(1000, 0.9), np.full(1000, 0.9)
    before[:gained], after[500 : 500 + lost] = 0.1, 0.1
    limits = Limits(min_agreement=0)
    result = verify(_outputs(before), _outputs(after), LABELS, precision="int8", limits=limits, layers=1)
    assert result.accuracy - result.accuracy_reference == pytest.approx((gained - lost) / 1000)
    assert result.drop_interval == pytest.approx(paired_difference(lost, gained, 1000))
    assert (result.passed, len(result.doubts)) == (passes, doubts)
    strict = Limits(min_agreement=0, max_drop=0.01)
    assert verify(_outputs(before), _outputs(after), LABELS, precision="int8", limits=strict).passed == (
        lost - gained <= 10
    )


@pytest.mark.parametrize(("lost", "passes", "doubts"), [(20, True, 0), (25, True, 1), (60, False, 0)])
def test_another_default_is_judged_by_the_interval_too(lost: int, passes: bool, doubts: int) -> None:
    limits = Limits(min_agreement=0, default_drop=0.02)
    result = verify(SURE, _flipped(lost), LABELS, precision="int8", limits=limits)
    assert (result.passed, len(result.doubts), result.max_drop) == (passes, doubts, None)


@pytest.mark.parametrize(("share", "least", "has"), [(0.0, 0.0, False), (0.01, 0.0, True), (0.5, 0.6, False)])
def test_some_macs_must_run_in_the_precision_that_was_asked(share: float, least: float, has: bool) -> None:
    way = Quantisation(float_layers=("a",), least_share=least)
    assert has_precision("int8", {"int8": share, "fp32": 1 - share}, way) is has
    assert not has_precision("int8", {"fp32": 1.0}, way)


def _hesitating(margins: np.ndarray, noise: np.ndarray) -> tuple[Outputs, Outputs]:
    """Two classes' log-ratios, and these with `noise`; a third class is 6 nats below the first."""
    pair = []
    for ratio in (margins, margins + noise):
        logits = np.stack([ratio, np.zeros_like(ratio), np.full_like(ratio, -6.0)], 1)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        pair.append(Outputs(p.astype(np.float32), p[:, None].astype(np.float32)))
    return pair[0], pair[1]


def test_ties_are_what_twice_the_engines_own_noise_can_turn() -> None:
    """Normal noise is estimated by its median; only as much of it as the precision explains makes ties."""
    rng = np.random.default_rng(0)
    margins, noise = rng.uniform(0, 3, 4000), rng.normal(0, 0.01, 4000)
    reference, found = _hesitating(margins, noise)
    labels = np.zeros(4000, np.int64)
    result = verify(reference, found, labels, precision="bf16", layers=17)
    assert result.tie_margin == pytest.approx(0.02, rel=0.05)
    assert result.ties == (log_margins(reference.probabilities) <= result.tie_margin).sum() > 0
    assert f"({result.ties} tie{'s' if result.ties > 1 else ''} left out)" in result.words
    assert result.passed
    assert result.doubts == ()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_ruined_network_is_not_excused_by_its_own_noise(precision: Precision) -> None:
    rng = np.random.default_rng(1)
    reference, found = _hesitating(rng.uniform(0, 3, 1000), rng.normal(0, 3, 1000))
    result = verify(reference, found, np.full(1000, -1), precision=precision, layers=17)
    spread = np.sqrt(np.log(reference.probabilities.astype(float)).var(1).mean())
    assert result.tie_margin == pytest.approx(2 * ROUNDING[precision] * np.sqrt(4 * 17) * spread, rel=1e-4)
    assert result.top1_agreement < 0.9
    assert not result.passed


def test_engines_without_noise_leave_only_equal_classes_out() -> None:
    reference, found = _hesitating(np.array([0.0, 1e-6, 1.0]), np.zeros(3))
    result = verify(reference, found, np.zeros(3, np.int64), precision="int8", layers=17)
    assert (result.ties, result.tie_margin) == (1, 0)


@pytest.mark.parametrize(("saturated", "estimated"), [(2400, True), (3995, False)])
def test_images_of_which_the_network_is_too_sure_do_not_hide_its_noise(saturated: int, estimated: bool) -> None:
    """Second probabilities of 4e-11 are floored before and after: no change is seen, where there is as much noise."""
    rng = np.random.default_rng(0)
    margins, noise = rng.uniform(0, 3, 4000), rng.normal(0, 0.01, 4000)
    margins[:saturated] = 24
    reference, found = _hesitating(margins, noise)
    result = verify(reference, found, np.zeros(4000, np.int64), precision="bf16", layers=17)
    spread = np.sqrt(np.log(np.maximum(reference.probabilities.astype(float), 1e-6)).var(1).mean())
    explained = 2 * ROUNDING["bf16"] * np.sqrt(4 * 17) * spread
    assert explained > 0.05
    assert result.tie_margin == pytest.approx(0.02 if estimated else explained, rel=0.07)


def test_where_every_answer_is_a_tie_that_is_said() -> None:
    reference, found = _hesitating(np.zeros(5), np.zeros(5))
    result = verify(reference, found, np.zeros(5, np.int64), precision="int8", layers=17)
    assert result.ties == 5
    assert "every one of 5 answers is a tie at int8" in result.doubts[0]


def test_rounding_errors_are_as_large_as_the_model_says() -> None:
    """Of numbers rounded to 8 and 11 bits of significand, and to 255 steps of ten times their root mean square."""
    x = np.random.default_rng(2).normal(size=100_000)
    for precision, bits in (("bf16", 8), ("fp16", 11)):
        mantissa, exponent = np.frexp(x)
        rounded = np.ldexp(np.rint(mantissa * 2**bits) / 2**bits, exponent)
        error = np.sqrt(np.mean(((rounded - x) / x) ** 2))
        assert 0.3 * ROUNDING[precision] < error < ROUNDING[precision]
    step = 10 / 255
    assert np.std(np.rint(x / step) * step - x) == pytest.approx(ROUNDING["int8"], rel=0.02)


def test_older_records_open_and_are_judged_by_what_was_measured() -> None:
    keys = {"against": "torch", "images": 100, "max_abs_diff": 0.01, "top1_agreement": 0.97, "log_cosine": 1.0}
    old = Verification.parse({**keys, "accuracy_reference": 0.9, "accuracy": 0.88, "passed": False}, "old")
    assert [(miss.what, miss.surely) for miss in old.misses("int8", Limits())] == [
        ("agreement", True),
        ("accuracy", True),
    ]
    assert "ties" not in old.words
    assert old.misses("int8", Limits(min_agreement=0.97, max_drop=0.02)) == ()


def test_ties_of_fp32_do_not_count() -> None:
    tie = np.full(1000, 0.4)  # 0.4, 0.4, 0.2
    reference, found = _outputs(tie), _outputs(tie - 2e-5)
    assert (reference.probabilities.argmax(1) != found.probabilities.argmax(1)).all()
    result = verify(reference, found, LABELS, precision="fp32")
    assert result.passed
    assert result.ties == 1000


@pytest.mark.parametrize(("margin", "passes"), [(1.9e-4, True), (2.1e-4, False)])
def test_for_fp32_only_what_the_allowed_difference_can_flip_is_a_tie(margin: float, passes: bool) -> None:
    """Of two probabilities that may each differ by 1e-4; rounding of float32 is far below the last digit here."""
    row = np.array([0.5 + margin / 2, 0.5 - margin / 2], np.float32)
    first, second = np.tile(row, (10, 1)), np.tile(row[::-1], (10, 1))
    result = verify(Outputs(first, first[:, None]), Outputs(second, second[:, None]), LABELS[:10], precision="fp32")
    assert (result.top1_agreement == 1) is passes


def test_the_cosine_of_log_probabilities_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.dirichlet(np.ones(5), 50).astype(np.float32) for _ in range(2))
    result = verify(Outputs(a, a[:, None]), Outputs(b, b[:, None]), LABELS[:50], precision="bf16")
    x, y = np.log(a.astype(float)), np.log(b.astype(float))
    expected = np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in zip(x, y, strict=True)])
    assert result.log_cosine == pytest.approx(expected, abs=1e-9)
    assert not result.passed


@pytest.mark.parametrize("right", range(2, 101))
def test_a_drop_of_exactly_the_limit_passes_and_one_more_answer_does_not(right: int) -> None:
    """Of 100 images, 0.01 is one; in floats 0.9 - 0.89 > 0.01."""
    assert not drops_beyond(0.01, right / 100, (right - 1) / 100)
    assert drops_beyond(0.01, right / 100, (right - 2) / 100)


def test_images_without_label_are_not_scored() -> None:
    labels = np.where(np.arange(1000) < 500, 0, -1)
    first = np.where(np.arange(1000) < 495, 0.9, 0.1)
    result = verify(_outputs(first), _outputs(first), labels, precision="int8")
    assert result.accuracy == pytest.approx(0.99)


def test_not_a_number_never_passes() -> None:
    broken = Outputs(np.full((1000, 3), np.nan, np.float32), np.full((1000, 1, 3), np.nan, np.float32))
    for precision in ("fp32", "bf16", "int8"):
        assert not verify(SURE, broken, LABELS, precision=precision).passed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "precision", "max_drop", "needed"),
    [
        (199, "bf16", 0.01, "from 200 on is one photo within the 0.5% of the answers that bf16 may change."),
        (200, "bf16", 0.01, ""),
        (99, "int8", 0.01, "from 100 on is one photo within the 1.0% of accuracy that may be lost."),
        (100, "int8", 0.01, ""),
        (49, "int8", 0.5, "from 50 on is one photo within the 2.0% of the answers that int8 may change."),
        (50, "int8", 0.0, ""),
        (3, "fp32", 0.01, ""),
    ],
)
def test_a_single_answer_may_be_more_than_the_limits_leave(
    images: int, precision: Precision, max_drop: float, needed: str
) -> None:
    said = few_images_warning(images, precision, Limits(max_drop=max_drop))
    assert needed in said
    assert bool(said) == bool(needed)


@pytest.mark.parametrize(("low", "guesses"), [(0.2, True), (0.249, True), (0.251, False), (0.9, False)])
def test_a_network_that_may_guess_is_said_to(low: float, guesses: bool) -> None:
    accuracy = Accuracy(images=9, correct=8, accuracy=0.9, interval=(low, 0.95), calibration_error=0, per_class={})
    assert ("no better than guessing" in guessing_warning(accuracy, 4)) == guesses
