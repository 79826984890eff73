"""One sentence by rules: every good thing that it says is true, and nothing bad is kept back."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_up import TARGET, full_profile, layers, make_bundle, measurement, profile, verification
from scipy import stats

from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.measurements import Ceiling
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.verdict import verdict

# Fewer MACs a second than any part of the made-up engine computes.
LOW = Ceiling(precision="int8", gmacs_per_s=1, interval=(0.9, 1.1), how="a small 1x1 convolution")


def of(full: Candidate, **changes: object) -> str:
    return verdict([Candidate(full.bundle, profile(full.bundle, **changes))])  # type: ignore[arg-type]


def test_it_is_one_sentence_with_the_numbers_of_the_samples(full: Candidate) -> None:
    said = verdict([full])
    found = full.profile
    median = np.median(found.engine.samples_ms)
    whole = {m.name: np.median(m.samples_ms) / median for m in found.baselines}
    low, high = stats.binomtest(376, 400).proportion_ci(method="wilson")
    assert said.startswith(
        f"mugs answers one image in {median:.3g} ms with openvino int8 on 2 threads of Imaginary 9000"
    )
    assert f"{whole['ResNet152, openvino int8']:.3g} times as fast as ResNet152, openvino int8 (95% interval" in said
    assert f"{whole['ResNet152, PyTorch']:.3g} times as fast as ResNet152, PyTorch" in said
    assert f"right on 94.0% of 400 test images ({low:.1%} to {high:.1%})." in said
    assert "but" not in said
    assert not re.search(r"\.\s", said)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": None}, "but how often it is right is not known."),
        ({"accuracy": 0.35}, "but that is not surely better than guessing at random among 3 classes."),
        ({"baselines": {}}, "but nothing was measured beside it."),
        ({"spread": 0.5}, "but its own time was unstable (the middle half of the runs spreads by"),
        (
            {"layers": layers(), "ceiling": LOW},
            "but the machine's ceiling is not its best: parts compute above it (",
        ),
        ({"baselines": {"MobileNet": 0.5}}, "but MobileNet is faster: it takes 0.59"),
        ({"baselines": {"itself": 0.8404}}, "but it cannot be told from itself"),
        ({"verification": verification(0.94, 400).model_copy(update={"passed": False})}, "failed its verification"),
    ],
)
def test_what_is_bad_is_said(changes: dict[str, object], words: str, full: Candidate) -> None:
    assert words in of(full, **changes)


def test_no_speed_is_claimed_over_what_is_faster(full: Candidate) -> None:
    said = of(full, baselines={"MobileNet": 0.5, "ResNet152": 12.0})
    assert "as fast as MobileNet" not in said
    assert "as fast as ResNet152" in said


def test_a_machine_too_busy_for_a_ratio_is_no_headline(full: Candidate) -> None:
    bound = Bound(
        of="ResNet152", to="engine", at_least=9.94, at_most=59.4, disturbed=29.5, by_cpu=20, favours="the engine"
    )
    said = of(full, ratios=(), bounds=(bound,))
    assert "times as fast as" not in said
    assert "how much faster it is than ResNet152 cannot be said" in said
    assert "(between 9.94 and 59.4 times, the disturbed rounds' 29.5 flatters the engine)" in said
    assert "nothing was measured" not in said
    nothing = bound.model_copy(update={"at_least": None, "at_most": None, "favours": ""})
    assert "(the disturbed rounds' 29.5 may be off in either direction)" in of(full, ratios=(), bounds=(nothing,))


def test_unstable_rivals_are_counted(full: Candidate) -> None:
    jumpy = measurement("jumpy", 50, spread=0.5)
    steady = full.profile.model_copy(update={"measurements": (*full.profile.measurements, jumpy)})
    assert "but one other time was unstable" in verdict([Candidate(full.bundle, steady)])


def test_a_faster_way_to_prune_is_named(full: Candidate) -> None:
    slow = full_profile(full.bundle, ms=2.5)
    assert "block-wise pruning by 86% is faster in the same runtime (1.9" in verdict([Candidate(full.bundle, slow)])
    assert "pruning" not in verdict([full])


def test_a_faster_bundle_is_named_and_another_engine_of_its_own_is_not(full: Candidate, tmp_path) -> None:
    cups = make_bundle(tmp_path / "cups.rrr", name="cups")
    fast = Candidate(cups, profile(cups, ms=0.4))
    assert verdict([full, fast]).endswith("but cups, openvino int8 is faster (0.4 ms).")
    fp32 = Candidate(full.bundle, profile(full.bundle, ms=0.4, target=TARGET.model_copy(update={"precision": "fp32"})))
    assert verdict([full, fp32]) == verdict([full])


@pytest.mark.parametrize(("reached", "named"), [(0.9975, True), (0.95, False), (0.5, False)])
def test_a_bundle_that_is_surely_right_more_often_is_named(
    full: Candidate, tmp_path: Path, reached: float, named: bool
) -> None:
    cups = make_bundle(tmp_path / "cups.rrr", name="cups")
    rival = Candidate(cups, profile(cups, ms=2, accuracy=reached))
    own, theirs = (stats.binomtest(round(s * 400), 400).proportion_ci(method="wilson") for s in (0.94, reached))
    assert (theirs.low > own.high) == named
    said = f"but cups, openvino int8 is right more often ({reached:.1%}, {theirs.low:.1%} to {theirs.high:.1%})."
    assert verdict([full, rival]).endswith(said) == named
    assert ("more often" in verdict([full, rival])) == named


def test_accuracies_on_other_classes_are_not_compared(full: Candidate, tmp_path: Path) -> None:
    animals = make_bundle(tmp_path / "animals.rrr", name="animals", labels=("cat", "dog"))
    rival = Candidate(animals, profile(animals, ms=2, accuracy=0.9975))
    assert "more often" not in verdict([full, rival])
