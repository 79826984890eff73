import math
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import write_bundle, write_engine
from scipy.stats import binomtest

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.bundle.doubt import Doubt
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.profile.equal_coverage import compare_at_equal_coverage
from rrr_edge.profile.gate import Limits, Side, compare, race, self_test
from rrr_edge.profile.gate_result import Gate, SelfTest
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import BackgroundLoad

TARGET = Target(name="test", backend="fake", precision="int8", threads=1)


class Clock:
    """Nanoseconds that pass when an engine runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    @property
    def timing(self) -> TimingSettings:
        return TimingSettings(settle_runs=1, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=1, clock=self)

    def engine(self, ms: float, noise: np.random.Generator | None = None):
        """Now and then a run takes five times as long."""

        def run(round_: int) -> None:
            factor = 1.0 if noise is None else noise.lognormal(0, 0.05) * (5 if noise.random() < 0.05 else 1)
            self.now_ns += round(ms * factor * 1e6)

        return run


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.1, "fail"), (0.8, "pass"), (2.0, "fail")])
def test_a_race_decides_in_spite_of_noise(factor: float, verdict: str) -> None:
    clock, noise = Clock(), np.random.default_rng(0)
    speed = race(clock.engine(1, noise), clock.engine(factor, noise), Limits(), timing=clock.timing)
    assert speed.verdict == verdict
    assert speed.ratio == pytest.approx(factor, rel=0.05)
    assert speed.interval is not None
    assert speed.interval[0] <= speed.ratio <= speed.interval[1]
    assert (speed.interval[0] > 1.05) == (verdict == "fail")
    assert speed.candidate_ms == pytest.approx(factor, rel=0.1)


def test_at_the_limit_nothing_is_decided_and_the_budget_is_kept() -> None:
    clock, noise = Clock(), np.random.default_rng(0)
    speed = race(clock.engine(10, noise), clock.engine(10.5, noise), Limits(budget_s=5), timing=clock.timing)
    assert speed.verdict == "undecided"
    assert 5 <= speed.seconds < 6


def test_an_early_decision_stops_the_race() -> None:
    """Eleven stretches of two pairs, the fewest that one standard error above no correlation leaves."""
    clock = Clock()
    speed = race(clock.engine(1), clock.engine(3), Limits(), timing=clock.timing)
    assert (speed.verdict, speed.rounds, speed.ratio) == ("fail", 44, 3)


def test_a_load_that_doubles_both_does_not_matter() -> None:
    clock = Clock()

    def shared(ms: float):
        def run(round_: int) -> None:
            clock.now_ns += round(ms * (2 if round_ % 2 else 1) * 1e6)

        return run

    speed = race(shared(1), shared(1.02), Limits(), timing=clock.timing)
    assert speed.verdict == "pass"
    assert speed.ratio == pytest.approx(1.02)


@pytest.mark.parametrize(("busy_s", "verdict"), [(20, "pass"), (1000, "fail")])
def test_rounds_that_other_programs_disturb_count_only_where_there_are_no_others(
    busy_s: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside them the candidate takes three times as long, else as long as the baseline; a round tells its load."""
    clock, noise = Clock(), np.random.default_rng(0)
    quiet, slowed = clock.engine(100, noise), clock.engine(300, noise)

    def is_busy() -> bool:
        return clock.now_ns < busy_s * 1e9

    monkeypatch.setattr(BackgroundLoad, "share", property(lambda _: 0.5 if is_busy() else 0.0))

    def candidate(round_: int) -> None:
        (slowed if is_busy() else quiet)(round_)

    speed = race(quiet, candidate, Limits(max_slowdown=1.5, budget_s=90), timing=clock.timing)
    assert speed.verdict == verdict
    assert (speed.quiet_rounds < speed.rounds) == (speed.background_load > 0)
    assert speed.ratio == pytest.approx(1 if verdict == "pass" else 3, rel=0.1)
    assert (speed.quiet_rounds == 0) == speed.all_count == (verdict == "fail")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_slowdown": value} for value in (0, math.inf, math.nan)),
        *({"max_drop": value} for value in (1.5, -0.1, math.nan)),
        *({"budget_s": value} for value in (-1, math.inf, math.nan)),
    ],
)
def test_senseless_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--(max|budget)-"):
        Limits(**wrong)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setitem(BACKENDS, "fake", OftenRight.always([1 / 3] * 3))
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 8)
    return with_accuracy(tmp_path / "shipped.rrr", 0.9)


def with_accuracy(path: Path, accuracy: float, target: Target = TARGET) -> Bundle:
    bundle = write_bundle(path, images=200)
    write_engine(bundle, target, (ENGINE_FILE, str(accuracy).encode()))
    return bundle


class OftenRight(Fake):
    """An engine that is right on the first so many of 200 images, of class 0, as its file says."""

    def open(self, folder: Path, target: Target) -> Fake:
        right = round(float((folder / ENGINE_FILE).read_text()) * 200)
        session: Fake

        def answer(images: Images) -> Outputs:
            places = np.arange(session.seen - len(images), session.seen)
            rows = np.eye(3, dtype=np.float32)[(places >= right).astype(int)]
            return Outputs(rows, rows[:, None])

        session = Fake(answer)
        return session


ANY_TIME = {"max_slowdown": 1000.0, "budget_s": 20.0}


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.9, "pass"), (0.89, "pass"), (0.885, "undecided"), (0.8, "fail"), (1.0, "pass")],
)
def test_accuracy_may_drop_so_far(shipped: Bundle, tmp_path: Path, accuracy: float, verdict: str) -> None:
    candidate = with_accuracy(tmp_path / "candidate.rrr", accuracy)
    gate = compare(Side(shipped, None), Side(candidate, "int8"), TARGET, Limits(max_drop=0.01, **ANY_TIME))
    assert gate.verdict == verdict
    assert gate.speed.verdict == "pass"
    assert gate.drop is not None
    assert (gate.drop.baseline, gate.drop.candidate, gate.drop.images) == (0.9, accuracy, 200)
    wilson = binomtest(round(accuracy * 200), 200).proportion_ci(method="wilson")
    assert gate.drop.interval == pytest.approx((wilson.low, wilson.high))
    only = {"only_reference": max(0, 180 - round(accuracy * 200)), "only_own": max(0, round(accuracy * 200) - 180)}
    assert gate.drop.paired.model_dump(include=set(only)) == only
    low, high = gate.drop.paired.interval
    unsure = low < -0.01 <= high
    assert any("So few images" in reason for reason in gate.sentences) == unsure
    assert any("more test photos" in reason for reason in gate.sentences) == (unsure and verdict == "undecided")
    assert gate.passed == (verdict == "pass")


def outputs_of(doubts: np.ndarray, right: np.ndarray) -> tuple[Outputs, np.ndarray]:
    """Answers of class 0 with these doubts; the photos that are not `right` are of class 1."""
    rows = np.stack([1 - doubts, doubts], 1).astype(np.float32)
    return Outputs(rows, rows[:, None]), (~right).astype(int)


@pytest.mark.parametrize("threshold", [1.0, 0.2])
def test_at_equal_coverage_the_one_that_doubts_its_mistakes_errs_less(threshold: float) -> None:
    """Both err on the last 20 of 200 photos; the one doubts these most, the other least."""
    doubts, right = np.linspace(0.01, 0.4, 200), np.arange(200) < 180
    good, labels = outputs_of(doubts, right)
    bad, _ = outputs_of(doubts[::-1], right)
    sides = (good, Doubt(threshold=threshold)), (bad, Doubt())
    answered = 180 if threshold == 1 else int((doubts <= 0.2).sum())
    found = compare_at_equal_coverage(labels, *sides, max_drop=0.01)
    assert (found.answered, found.baseline_wrong, found.candidate_wrong) == (answered, 0, 20)
    assert found.verdict == "fail"
    assert f"0 and 20 of {answered} are answered wrongly: {2000 / answered:+.1f} points" in found.sentence(0.01)
    assert compare_at_equal_coverage(labels, *sides, max_drop=0.5).verdict == "pass"
    turned = compare_at_equal_coverage(labels, *reversed(sides), max_drop=0.01)
    assert (turned.verdict, turned.candidate_wrong) == ("pass", 0)


def test_the_gate_judges_equal_coverage_too(shipped: Bundle, tmp_path: Path) -> None:
    candidate = with_accuracy(tmp_path / "candidate.rrr", 0.8)
    gate = compare(Side(shipped, None), Side(candidate, "int8"), TARGET, Limits(max_drop=0.15, **ANY_TIME))
    assert (gate.equal_coverage.answered, gate.equal_coverage.candidate_wrong) == (180, 20)
    assert gate.verdict == "pass"
    assert any("that each doubts least, 0 and 20 of 180" in reason for reason in gate.sentences)


def test_a_failure_outweighs_what_is_undecided(shipped: Bundle, tmp_path: Path) -> None:
    candidate = with_accuracy(tmp_path / "candidate.rrr", 0.5)
    gate = compare(Side(shipped, None), Side(candidate, None), TARGET, Limits(budget_s=0))
    assert (gate.speed.verdict, gate.verdict) == ("undecided", "fail")


def test_without_a_budget_it_is_undecided_and_says_so(shipped: Bundle) -> None:
    gate = compare(Side(shipped, None), Side(shipped, None), TARGET, Limits(budget_s=0))
    assert gate.verdict == "undecided"
    assert gate.speed.interval is None
    assert not gate.passed
    assert gate.sentences[0].startswith("undecided: shipped.rrr:int8")
    assert any("--budget-s" in reason for reason in gate.sentences)


def test_accuracies_of_different_photos_are_not_compared(shipped: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other.rrr", images=5)
    write_engine(other, TARGET, (ENGINE_FILE, b"1"))
    sides = Side(shipped, None), Side(other, None)
    with pytest.raises(UsageError, match="different photos") as caught:
        compare(*sides, TARGET, Limits(**ANY_TIME))
    assert "--max-drop 1" in caught.value.advice
    assert compare(*sides, TARGET, Limits(max_drop=1, **ANY_TIME)).drop is None


def test_what_is_stored_reads_back_and_the_markdown_has_the_verdict_first(shipped: Bundle) -> None:
    gate = compare(Side(shipped, None), Side(shipped, None), TARGET, Limits(**ANY_TIME))
    assert Gate.model_validate_json(gate.to_json()) == gate
    first, _, *rest = gate.to_markdown().splitlines()
    assert first == "### rrr-edge gate: pass: shipped.rrr:int8 beside shipped.rrr:int8, on test."
    assert all(line.startswith("- ") for line in rest)
    assert any(f"{gate.speed.ratio:.3f} times as long in the median round" in line for line in rest)


def test_a_self_test_counts_what_should_not_be(shipped: Bundle) -> None:
    calm = self_test(Side(shipped, None), TARGET, Limits(**ANY_TIME), times=2)
    assert (len(calm.comparisons), calm.false_alarms, calm.undecided, calm.passed) == (2, 0, 0, True)
    wolf = self_test(Side(shipped, None), TARGET, Limits(max_slowdown=0.001, budget_s=20), times=2)
    assert (wolf.false_alarms, wolf.passed) == (2, False)
    assert "False alarms: 2 (100.0%); up to 2% pass." in wolf.sentences
    blind = self_test(Side(shipped, None), TARGET, Limits(budget_s=0), times=2)
    assert (blind.false_alarms, blind.undecided, blind.passed) == (0, 2, False)
    assert SelfTest.model_validate_json(wolf.to_json()) == wolf


def test_a_side_is_a_bundle_with_or_without_a_precision(shipped: Bundle) -> None:
    assert Side.parse(f"{shipped.path}:fp32") == (Bundle.open(shipped.path), "fp32")
    assert Side.parse(str(shipped.path)) == (Bundle.open(shipped.path), None)
    with pytest.raises(UsageError, match="no precision 'int9'. Did you mean 'int8'") as caught:
        Side.parse(f"{shipped.path}:int9")
    assert "fp32" in caught.value.advice
    with pytest.raises(BadInput, match="no bundle"):
        Side.parse(f"{shipped.path}x:int8")


def test_both_sides_run_with_the_same_threads(tmp_path: Path, shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = with_accuracy(tmp_path / "many.rrr", 0.9, TARGET.model_copy(update={"threads": 8}))
    opened = []

    class Noting(OftenRight):
        def open(self, folder, target):
            opened.append(target.threads)
            return super().open(folder, target)

    monkeypatch.setitem(BACKENDS, "fake", Noting.always([1 / 3] * 3))
    for asked, used in ((0, 1), (3, 3)):
        opened.clear()
        target = TARGET.model_copy(update={"threads": asked})
        gate = compare(Side(shipped, None), Side(candidate, None), target, Limits(budget_s=0))
        assert opened == [used, used]
        assert gate.environment.threads == used


@pytest.mark.parametrize("different", [{"batch": 8}, {"device": "GPU"}])
def test_engines_of_another_batch_or_device_are_not_compared(
    tmp_path: Path, shipped: Bundle, different: dict[str, object]
) -> None:
    candidate = with_accuracy(tmp_path / "other.rrr", 0.9, TARGET.model_copy(update=different))
    with pytest.raises(UsageError, match=f"the {next(iter(different))} "):
        compare(Side(shipped, None), Side(candidate, None), TARGET, Limits())


def test_other_images_of_the_same_labels_are_different_photos(tmp_path: Path, shipped: Bundle) -> None:
    other = with_accuracy(tmp_path / "other.rrr", 0.9)
    other.reference.images[0] ^= 1
    with pytest.raises(UsageError, match="different photos"):
        compare(Side(shipped, None), Side(other, None), TARGET, Limits())


def test_without_labels_there_is_no_accuracy_to_compare(shipped: Bundle) -> None:
    shipped.reference.labels[:] = -1
    with pytest.raises(UsageError, match="no labels") as caught:
        compare(Side(shipped, None), Side(shipped, None), TARGET, Limits())
    assert "--max-drop 1" in caught.value.advice


def test_names_stay_words_in_the_markdown(tmp_path: Path, shipped: Bundle) -> None:
    odd = with_accuracy(tmp_path / "@team_*x*.rrr", 0.9)
    said = compare(Side(shipped, None), Side(odd, None), TARGET, Limits(budget_s=0)).to_markdown()
    assert r"@<!-- -->team\_\*x\*.rrr" in said
