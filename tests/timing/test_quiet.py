"""Quiet rounds, waiting for them, and what is said where there are none: with clocks and loads that are made up."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.measurements import Measurement, Subject, quiet_ratio, ratio
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.progress import Step
from rrr_edge.timing.quiet import ENOUGH_ROUNDS, HOPELESS_ROUNDS, Patience, RoundLoads, quiet_rounds

BUSY, QUIET = 0.6, 0.01


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float | None]], None]:
    """What /proc/stat would say of two cores, each time that it is asked."""
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: {0, 1})

    def say(told: Iterator[float | None]) -> None:
        monkeypatch.setattr(machine.BackgroundLoad, "share", property(lambda _: next(told)))

    return say


def measurement(name: str, ms: np.ndarray, cpu_ms: np.ndarray, loads: list[float], threads: int = 2) -> Measurement:
    return Measurement(
        name=name,
        subject=Subject(backend="fake", precision="fp32", threads=threads),
        samples_ms=tuple(ms.tolist()),
        cpu_ms=tuple(cpu_ms.tolist()),
        loads=tuple(loads),
        background_load=float(np.mean(loads)),
    )


def test_rounds_of_a_second_have_its_load_and_the_last_ones_that_of_those_before(shares) -> None:
    shares(iter([None, None, 0.3, None, 0.01, None]))
    loads = RoundLoads()
    assert [loads.end_round() for _ in range(6)] == [None, None, 0.3, None, 0.01, None]
    assert loads.told == (0.3, 0.3, 0.3, 0.01, 0.01, 0.01)
    assert loads.quiet == 3


def test_where_no_load_is_known_all_rounds_count(shares) -> None:
    shares(iter([None] * 3))
    loads = RoundLoads()
    for _ in range(3):
        loads.end_round()
    assert (loads.told, loads.quiet, loads.share) == ((None,) * 3, 3, None)
    assert quiet_rounds(loads.told, 3) == quiet_rounds((), 3) == [0, 1, 2]


@pytest.mark.parametrize(("quiet", "judged"), [(ENOUGH_ROUNDS, ENOUGH_ROUNDS), (ENOUGH_ROUNDS - 1, 0)])
def test_too_few_quiet_rounds_are_none(quiet: int, judged: int) -> None:
    loads = (BUSY,) * 30 + (QUIET,) * quiet
    assert len(quiet_rounds(loads, len(loads))) == judged


@pytest.mark.parametrize(
    ("told", "rounds", "said"), [([BUSY], HOPELESS_ROUNDS, "of 60: none was quiet"), ([BUSY, QUIET], 60, "")]
)
def test_a_hopelessly_busy_machine_ends_the_rounds_and_one_quiet_round_does_not(
    told: list[float], rounds: int, said: str, shares
) -> None:
    shares(iter(np.resize(told, 1000).tolist()))
    timing = TimingSettings(runs=60, settle_runs=0, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0)
    steps: list[Step] = []
    assert len(interleave({"A": lambda _: None}, timing=timing, on_progress=steps.append).loads) == rounds
    assert steps[-1] == Step("measure", rounds, rounds, said)


class Bed:
    """Sleeps without taking time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, clock=lambda: self.now_s, sleep=self.sleep)


def test_patience_waits_until_it_is_quiet_and_no_longer_than_it_lasts(shares) -> None:
    shares(iter([BUSY, BUSY, QUIET, BUSY, BUSY, BUSY, BUSY]))
    bed = Bed()
    patience = bed.patience(6)
    assert patience.wait()
    assert (bed.now_s, patience.left_s) == (3, 3)
    assert not patience.wait()
    assert (bed.now_s, patience.left_s) == (6, 0)
    assert not patience.wait()
    assert bed.now_s == 6


def test_where_patience_ends_the_rounds_end_too(shares) -> None:
    """Its last second takes longer than what was left of it."""
    shares(iter([BUSY] * 200))
    timing = TimingSettings(
        runs=60, settle_runs=0, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0, patience=Bed().patience(2.5)
    )
    assert len(interleave({"A": lambda _: None}, timing=timing).loads) == HOPELESS_ROUNDS
    assert timing.patience.left_s == 0


@pytest.mark.parametrize(("cores", "quiet"), [(1, 0), (2, 0), (20, 0), (20, 3)])
def test_a_program_that_spins_disturbs_rounds_on_any_number_of_cores(
    cores: int, quiet: int, shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0.05 if quiet else 1.0
    shares(iter([taken / cores] * 3))
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: set(range(cores)))
    loads = RoundLoads()
    for _ in range(3):
        loads.end_round()
    assert loads.quiet == quiet
    assert loads.share == pytest.approx(taken / cores)


@pytest.mark.parametrize("minutes", [-1, float("inf"), float("nan")])
def test_patience_is_a_number_of_minutes(minutes: float) -> None:
    assert Patience.of_minutes(0.5).left_s == 30
    with pytest.raises(UsageError, match="--patience is a number of minutes"):
        Patience.of_minutes(minutes)


def test_with_patience_only_quiet_rounds_count_and_none_is_lost(shares) -> None:
    """Asked once before the rounds; then after each, and after a busy one until it is quiet again."""
    shares(iter([QUIET, *[BUSY, BUSY, QUIET] * 50, *[QUIET] * 100]))
    timing = TimingSettings(
        runs=30, settle_runs=0, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0, patience=Bed().patience(1000)
    )
    found = interleave({"A": lambda _: None}, timing=timing)
    assert len(found.samples_ms["A"]) == len(found.loads) == 50 + 30
    assert found.loads.count(BUSY) == 50


def disturbed(seed: int, share: float) -> tuple[Measurement, Measurement]:
    """An engine of 1 ms and a rival of 20 ms on 2 cores, in 200 rounds; in a `share` of them, in bursts, others run.

    Then a run has one core instead of two, or is held up in time slices of 4 ms, of which a long run meets more.
    """
    rng = np.random.default_rng(seed)
    busy = np.repeat(rng.random(20) < share, 10)
    loads = np.where(busy, BUSY, QUIET).tolist()
    times = []
    for ms in (1.0, 20.0):
        own = 2 * ms * rng.lognormal(0, 0.01, 200)
        held_up = 4 * rng.poisson(ms / 4, 200) + ms * rng.random(200)
        times.append(measurement(f"of {ms:g} ms", own / 2 + busy * held_up, own * (1 + 0.1 * busy), loads))
    return times[0], times[1]


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_enough_rounds_are_so_many_that_their_interval_holds_the_ratio(
    correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 95%, less what the simulation itself may be off; autoregressive rounds, of a correlation with the last."""
    monkeypatch.setattr("rrr_edge.timing.statistics._RESAMPLES", 1000)
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        noise = rng.normal(size=(2, ENOUGH_ROUNDS))
        for i in range(1, ENOUGH_ROUNDS):
            noise[:, i] = correlation * noise[:, i - 1] + np.sqrt(1 - correlation**2) * noise[:, i]
        ms = np.exp(0.2 * noise) * [[20.0], [1.0]]
        rival, engine = (
            measurement(name, each, each, [QUIET] * ENOUGH_ROUNDS) for name, each in zip("ab", ms, strict=True)
        )
        low, high = ratio(rival, engine).interval
        held += low <= 20 <= high
    assert held >= 0.92 * 300


@pytest.mark.parametrize(("share", "most"), [(0.0, 0), (0.3, 0), (0.7, 20)])
def test_the_quiet_ratio_lies_in_the_interval_whatever_other_programs_do(share: float, most: int) -> None:
    covered = refused = 0
    for seed in range(40):
        engine, rival = disturbed(seed, share)
        if not engine.is_quiet:
            refused += 1
            continue
        low, high = ratio(rival, engine).interval
        covered += low <= 20 <= high
    assert covered >= 0.9 * (40 - refused)
    assert refused <= most


def test_where_all_rounds_are_disturbed_the_quiet_ratio_lies_within_the_bounds() -> None:
    engine, rival = disturbed(0, 1.0)
    assert not engine.is_quiet
    assert engine.summary.unstable
    assert engine.disturbed == "other programs took 60% of the cores' time"
    bound = Bound.between(rival, engine, shared_cores=False)
    assert bound.disturbed > 25
    assert bound.at_least is not None
    assert bound.at_most is not None
    assert bound.at_least < 20 < bound.at_most
    assert bound.by_cpu == pytest.approx(20, rel=0.02)
    assert bound.favours == engine.name
    assert bound.words == f"between {bound.at_least:.3g} and {bound.at_most:.3g} times"
    assert bound.bias == f"the disturbed rounds' {bound.disturbed:.3g} flatters {engine.name}"


def test_threads_that_spin_while_they_wait_tell_nothing_by_their_own_time() -> None:
    """As PyTorch's do: beside one other process ResNet152 was seen to take 2 to 40 times its own quiet time."""
    engine, rival = disturbed(0, 1.0)
    spinning = rival.model_copy(update={"cpu_ms": tuple(2 * ms for ms in rival.samples_ms)})
    bound = Bound.between(spinning, engine, shared_cores=False)
    assert bound.at_least is None
    assert bound.at_most is not None
    assert bound.at_most > 20
    assert bound.words == f"at most {bound.at_most:.3g} times"


def test_where_cores_are_shared_or_times_contradict_each_other_nothing_is_bounded() -> None:
    """Beside a busy sibling a run's own time on the cores can be more than twice what it is on a quiet machine."""
    engine, rival = disturbed(0, 1.0)
    assert Bound.between(rival, engine, shared_cores=True).words == ""
    spun = (m.model_copy(update={"cpu_ms": (4 * m.summary.median_ms,) * 200}) for m in (rival, engine))
    bound = Bound.between(*spun, shared_cores=False)
    assert (bound.at_least, bound.at_most, bound.words) == (None, None, "")
    with pytest.raises(BadInput, match="cannot take 34 times at least and 29 at most"):
        Bound.parse(bound.model_dump() | {"at_least": 34.0, "at_most": 29.0}, "x")


def test_a_ratio_is_said_only_of_enough_quiet_rounds_and_else_marked() -> None:
    engine, rival = disturbed(3, 0.3)
    assert quiet_ratio(rival, engine) == ratio(rival, engine)
    assert ratio(rival, engine).quiet
    busy = [m.model_copy(update={"loads": (BUSY,) * 200}) for m in (rival, engine)]
    assert quiet_ratio(*busy) is None
    assert not ratio(*busy).quiet


def test_medians_are_those_of_the_quiet_rounds_and_all_samples_are_kept() -> None:
    engine, rival = disturbed(3, 0.5)
    assert ENOUGH_ROUNDS <= engine.summary.runs < 200
    assert engine.summary.median_ms == pytest.approx(1, rel=0.02)
    assert engine.summary.cpu_ms == pytest.approx(2, rel=0.02)
    assert (engine.summary.unstable, engine.disturbed) == (False, "")
    assert len(engine.samples_ms) == 200
    assert ratio(rival, engine).value == pytest.approx(rival.summary.median_ms / engine.summary.median_ms)
