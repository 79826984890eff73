import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from rrr_edge.bundle.environment import Environment, find_gpus
from rrr_edge.bundle.measurements import Measurement, Subject, Summary, ratio
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.progress import Step
from rrr_edge.timing.statistics import student_quantile

SUBJECT = Subject(backend="fake", precision="fp32", threads=1)


class Clock:
    """Time that passes only when a candidate says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def spend_ms(self, ms: float) -> None:
        self.now_ns += round(ms * 1e6)


def measurement(name: str, samples: np.ndarray) -> Measurement:
    return Measurement(name=name, subject=SUBJECT, samples_ms=tuple(samples.tolist()))


@pytest.fixture
def latencies() -> np.ndarray:
    """Skewed, as latencies are."""
    return 2 + np.random.default_rng(1).lognormal(-1, 0.5, 200)


@pytest.mark.parametrize("n", [30, 31, 50, 200, 201, 1000, 100_000])
def test_student_quantile_is_scipys(n: int) -> None:
    for p in (0.9, 0.95, 0.975, 0.995):
        assert student_quantile(p, n - 1) == pytest.approx(scipy.stats.t.ppf(p, n - 1), abs=1e-4)


@pytest.mark.parametrize(("degrees", "off"), [(1, 1e-9), (2, 1e-9), (3, 5e-2), (4, 1e-2)])
def test_student_quantile_of_few_samples_is_near_scipys(degrees: int, off: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=off)


def test_interval_of_the_mean_is_scipys(latencies: np.ndarray) -> None:
    low, high = scipy.stats.t.interval(0.95, len(latencies) - 1, latencies.mean(), scipy.stats.sem(latencies))
    assert Summary.of(latencies.tolist()).mean_interval_ms == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("n", [30, 201, 5_000])
def test_interval_of_the_median_is_scipys_percentile_bootstrap(n: int) -> None:
    samples = 2 + np.random.default_rng(n).lognormal(-1, 0.5, n)
    scipys = scipy.stats.bootstrap(
        (samples,),
        np.median,
        confidence_level=confidence_of(n),
        n_resamples=5_000,
        method="percentile",
        vectorized=True,
        rng=7,
        batch=500,
    ).confidence_interval
    ours = Summary.of(samples.tolist()).median_interval_ms
    # Two bootstraps with different draws differ by a few per cent of the interval's width.
    assert ours == pytest.approx(tuple(scipys), abs=0.15 * (scipys.high - scipys.low))


def confidence_of(rounds: int) -> float:
    """At which the bootstrap's percentiles are taken, as Student's t has it of so few stretches (Hesterberg 2015)."""
    stretches = rounds // round(math.sqrt(rounds))
    distance = scipy.stats.t.ppf(0.975, stretches - 1) * math.sqrt(stretches / (stretches - 1))
    return float(1 - 2 * scipy.stats.norm.sf(distance))


def test_the_same_samples_always_give_the_same_summary(latencies: np.ndarray) -> None:
    assert Summary.of(latencies.tolist()) == Summary.of(latencies.tolist())


def test_summary_agrees_with_the_standard_library(latencies: np.ndarray) -> None:
    samples = latencies.tolist()
    summary = Summary.of(samples)
    percentiles = statistics.quantiles(samples, n=100, method="inclusive")
    assert summary.runs == 200
    assert summary.min_ms == min(samples)
    assert summary.mean_ms == pytest.approx(statistics.fmean(samples))
    assert summary.median_ms == pytest.approx(statistics.median(samples))
    assert (summary.p90_ms, summary.p95_ms) == pytest.approx((percentiles[89], percentiles[94]))
    assert summary.spread == pytest.approx((percentiles[74] - percentiles[24]) / statistics.median(samples))


def test_p99_needs_a_thousand_samples() -> None:
    samples = np.random.default_rng(0).normal(5, 0.1, 1000).tolist()
    assert Summary.of(samples[:-1]).p99_ms is None
    assert Summary.of(samples).p99_ms == pytest.approx(statistics.quantiles(samples, n=100, method="inclusive")[98])


@pytest.mark.parametrize(("half_width", "unstable"), [(0.09, False), (0.11, True)])
def test_unstable_above_a_spread_of_a_tenth(half_width: float, unstable: bool) -> None:
    # Uniform on 1 -+ h: the quartiles are 1 -+ h/2, so the spread is h.
    samples = np.linspace(1 - half_width, 1 + half_width, 401)
    summary = Summary.of(samples.tolist())
    assert summary.spread == pytest.approx(half_width)
    assert summary.unstable is unstable


@pytest.mark.parametrize(("background_load", "unstable"), [(None, False), (0.09, False), (0.11, True)])
def test_unstable_where_others_took_a_tenth_of_the_cores_however_even_the_times(
    background_load: float | None, unstable: bool
) -> None:
    even = Measurement(name="a", subject=SUBJECT, samples_ms=(1.0,) * 30, background_load=background_load)
    assert even.summary.spread == 0
    assert even.summary.unstable is unstable
    assert even.disturbed == ("other programs took 11% of the cores' time" if unstable else "")


def test_a_busy_process_is_seen_beside_what_is_timed() -> None:
    core = min(os.sched_getaffinity(0))
    allowed = os.sched_getaffinity(0)
    spin = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin, str(core)]) as process:
        os.sched_setaffinity(0, {core})
        try:
            found = interleave({"sum": lambda _: sum(range(20_000))}, timing=TimingSettings(runs=400, warm_up_ms=1))
        finally:
            os.sched_setaffinity(0, allowed)
            process.kill()
    assert found.background_load is not None
    assert found.background_load > 0.2


def test_outliers_are_counted_and_kept() -> None:
    samples = [*np.linspace(1, 1.01, 100), 9.0, 10.0]
    summary = Summary.of(samples)
    assert summary.outliers == 2
    assert summary.runs == 102
    assert summary.mean_ms == pytest.approx(statistics.fmean(samples))


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        Summary.of([1.0])


def test_json_has_the_summary_and_not_the_samples(latencies: np.ndarray) -> None:
    dumped = measurement("a", latencies).model_dump(by_alias=True)
    assert set(dumped) == {"name", "subject", "elsewhere", "summary"}
    assert dumped["summary"]["median_ms"] == pytest.approx(np.median(latencies))


def test_ratio_of_paired_rounds_is_scipys_paired_bootstrap(latencies: np.ndarray) -> None:
    other = 3 * latencies + np.random.default_rng(5).normal(0, 0.2, 200)
    found = ratio(measurement("b", other), measurement("a", latencies))
    scipys = scipy.stats.bootstrap(
        (other, latencies),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        confidence_level=confidence_of(200),
        n_resamples=5_000,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=3,
    ).confidence_interval
    assert found.value == pytest.approx(np.median(other) / np.median(latencies))
    assert found.interval == pytest.approx(tuple(scipys), abs=0.12 * (scipys.high - scipys.low))
    assert (found.of, found.to) == ("b", "a")


def test_intervals_hold_where_neighbouring_rounds_are_alike() -> None:
    """Autoregressive noise of one half, as a busy machine has it: drawn one by one, more than a fifth would miss."""
    rng = np.random.default_rng(4)
    misses = 0
    for _ in range(100):
        noise = rng.normal(0, 0.05, 200)
        for i in range(1, 200):
            noise[i] += 0.5 * noise[i - 1]
        low, high = ratio(measurement("b", np.exp(noise)), measurement("a", np.ones(200))).interval
        misses += not low <= 1 <= high
    assert misses <= 15


def test_pairing_makes_the_interval_of_a_ratio_narrow() -> None:
    """Load that swings by tens of per cent and hits both candidates of a round leaves their ratio alone."""
    rng = np.random.default_rng(2)
    load = rng.uniform(1, 2, 300)
    a, b = (measurement(name, ms * load) for name, ms in (("a", 30.0), ("b", 2.0)))
    assert ratio(a, b).interval == pytest.approx((15, 15))
    shuffled = measurement("b", 2.0 * rng.permutation(load))
    low, high = ratio(a, shuffled).interval
    assert high - low > 1


def test_ratio_of_unequal_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        ratio(measurement("a", np.ones(3)), measurement("b", np.ones(4)))


def test_each_round_has_an_order_of_its_own_and_all_orders_are_as_frequent() -> None:
    calls: list[tuple[str, int]] = []
    clock = Clock()
    candidates = {name: (lambda r, name=name: (calls.append((name, r)), clock.spend_ms(100))) for name in "ABC"}
    rounds = 300
    timing = TimingSettings(runs=rounds, settle_runs=0, clock=clock)
    interleave(candidates, timing=timing)
    timed = calls[-3 * rounds :]
    assert [r for _, r in timed] == [r for r in range(rounds) for _ in "ABC"]
    orders = Counter("".join(name for name, _ in timed[3 * r : 3 * r + 3]) for r in range(rounds))
    assert len(orders) == 6
    assert scipy.stats.chisquare(list(orders.values())).pvalue > 0.001


def test_the_process_own_time_is_taken_of_the_timed_run_alone() -> None:
    clock, cores = Clock(), Clock()
    spent = iter([1.0] * 10 + [50.0, 3.0] * 4)

    def run(_: int) -> None:
        clock.spend_ms(10)
        cores.spend_ms(next(spent))

    timing = TimingSettings(
        runs=4, settle_runs=1, warm_up_ms=0, warm_up_runs=10, warm_up_limit_ms=0, clock=clock, cpu_clock=cores
    )
    assert interleave({"A": run}, timing=timing).cpu_ms == {"A": (3.0,) * 4}


def test_samples_are_what_the_clock_says_and_settling_runs_are_not_timed() -> None:
    clock = Clock()
    seen = {"A": [], "B": []}

    def candidate(name: str, first_ms: float, then_ms: float):
        def run(round_: int) -> None:
            clock.spend_ms(then_ms if seen[name][-1:] == [round_] else first_ms)
            seen[name].append(round_)

        return run

    found = interleave(
        {"A": candidate("A", 50, 7), "B": candidate("B", 60, 20)},
        timing=TimingSettings(runs=5, settle_runs=1, clock=clock),
    )
    assert found.samples_ms == {"A": (7.0,) * 5, "B": (20.0,) * 5}
    # In warm-up the index always changes, so only the limit on the windows matters there.
    assert found.unsettled == ()


@pytest.mark.parametrize(("ms", "settling"), [(1, 16), (2, 10), (8, 3), (15, 2), (100, 1)])
def test_settling_ends_after_16_runs_or_20_ms(ms: float, settling: int) -> None:
    clock = Clock()
    calls: list[int] = []
    timing = TimingSettings(runs=5, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0, clock=clock)
    interleave({"A": lambda r: (calls.append(r), clock.spend_ms(ms))}, timing=timing)
    assert calls[1:] == [r for r in range(5) for _ in range(settling + 1)]


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (100, 20),  # two windows of ten runs
        (5, 40),  # 200 ms
    ],
)
def test_a_steady_candidate_warms_up_for_two_windows_and_200_ms(ms: float, expected: int) -> None:
    clock = Clock()
    calls = []
    interleave(
        {"A": lambda r: (calls.append(r), clock.spend_ms(ms))},
        timing=TimingSettings(runs=2, settle_runs=0, clock=clock),
    )
    assert len(calls) - 2 == expected


def test_warm_up_waits_until_the_times_settle() -> None:
    clock = Clock()
    calls = []

    def falling(r: int) -> None:
        calls.append(r)
        clock.spend_ms(max(100.0, 400.0 - 10 * len(calls)))

    found = interleave({"A": falling}, timing=TimingSettings(runs=2, settle_runs=0, clock=clock, warm_up_limit_ms=1e9))
    # It falls until run 30; both windows' medians are level once they lie behind that.
    assert 40 <= len(calls) - 2 <= 50
    assert found.samples_ms["A"] == (100.0, 100.0)
    assert found.unsettled == ()


def test_warm_up_is_bounded_and_says_that_it_did_not_settle() -> None:
    clock = Clock()
    calls = []

    def growing(r: int) -> None:
        calls.append(r)
        clock.spend_ms(1.1 ** len(calls))

    found = interleave({"A": growing, "B": lambda r: clock.spend_ms(50)}, timing=TimingSettings(runs=2, clock=clock))
    assert found.unsettled == ("A",)
    # The sum of 1.1^1 .. 1.1^n passes the limit of 10 s at n = 72.
    assert len(calls) == 72 + 2 * 2


def test_no_garbage_collection_while_measuring() -> None:
    states = []
    clock = Clock()
    assert gc.isenabled()
    interleave(
        {"A": lambda r: (states.append(gc.isenabled()), clock.spend_ms(100))},
        timing=TimingSettings(runs=2, clock=clock),
    )
    assert set(states) == {False}
    assert gc.isenabled()


def test_garbage_collection_returns_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        interleave({"A": lambda r: 1 // 0})
    assert gc.isenabled()


def test_progress_ends_at_the_total() -> None:
    clock = Clock()
    steps: list[Step] = []
    interleave(
        {"A": lambda r: clock.spend_ms(100)}, timing=TimingSettings(runs=3, clock=clock), on_progress=steps.append
    )
    assert steps[-1] == Step("measure", 3, 3)
    assert Step("warm up", 0, 1, "A") in steps


def test_the_real_clock_counts_milliseconds() -> None:
    timing = TimingSettings(runs=3, settle_runs=0, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0)
    found = interleave({"sleep": lambda r: time.sleep(0.01)}, timing=timing)
    assert all(10 <= ms < 500 for ms in found.samples_ms["sleep"])


def test_environment_says_where_and_with_what() -> None:
    here = Environment.here(threads=1, versions={"openvino": "1.2"})
    assert here == Environment.here(threads=1, versions={"openvino": "1.2"})
    assert here.cores == machine.usable_cores()
    assert here.threads == 1
    assert here.versions == {"numpy": np.__version__, "openvino": "1.2"}
    assert Environment.parse(here.model_dump(), "itself") == here
    int(here.machine_id, 16)


def test_another_cpu_has_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Environment.here(threads=1, versions={}).machine_id
    monkeypatch.setattr(machine, "cpu_info", lambda: ("Another CPU", ("avx2",)))
    assert Environment.here(threads=1, versions={}).machine_id != before


def test_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'Some GPU, 555.1, 1980'\necho 'Other GPU, 555.1, [N/A]'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    first, second = find_gpus()
    assert (first.name, first.driver, first.max_clock_mhz) == ("Some GPU", "555.1", 1980)
    assert second.max_clock_mhz is None


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'"])
def test_a_failing_nvidia_smi_means_no_gpu(body: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_gpus() == ()
