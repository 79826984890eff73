import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import LABELS, write_bundle, write_engine

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Subject
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, GateFailed, UsageError
from rrr_edge.profile.loads import Loads, keep_pace, measure_loads
from rrr_edge.profile.run import ProfileRun
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import BackgroundLoad

TARGET = Target(name="test", backend="fake", threads=2)
SUBJECT = Subject(backend="fake", precision="fp32", threads=2)


class Clock:
    """Nanoseconds that pass only where a test lets them."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class Recorder(Fake):
    """A backend that notes the batch and the threads of what it compiles and opens."""

    def __init__(self) -> None:
        super().__init__(Fake.always([1 / len(LABELS)] * len(LABELS)).answer)
        self.compiled: list[int] = []
        self.threads: list[int] = []
        self.sessions: list[Fake] = []

    def compile(self, model, target, calibration, out, report) -> None:
        self.compiled.append(target.batch)
        super().compile(model, target, calibration, out, report)

    def open(self, folder, target) -> Fake:
        self.threads.append(target.threads)
        assert (folder / ENGINE_FILE).is_file()
        self.sessions.append(Fake(self.answer))
        return self.sessions[-1]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    backend = Recorder()
    monkeypatch.setitem(BACKENDS, "fake", backend)
    return backend


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = write_bundle(tmp_path / "fakes.rrr")
    write_engine(bundle, TARGET, (ENGINE_FILE, b"x"))
    return bundle


def load_run(bundle: Bundle, clock=time.perf_counter_ns, runs: int = 20, target: Target = TARGET) -> ProfileRun:
    return ProfileRun(bundle, target, SUBJECT, TimingSettings(runs=runs, clock=clock, warm_up_ms=0, warm_up_runs=1))


def test_a_fast_engine_answers_every_frame_when_it_comes(bundle: Bundle) -> None:
    clock, seen = Clock(), []

    def answer(frame: int) -> None:
        seen.append((frame, clock.now_ns))
        clock.sleep(0.01)

    answers, dropped = keep_pace(answer, 25, load_run(bundle, clock), clock.sleep)
    assert answers == pytest.approx([10] * 20)
    assert dropped == 0
    np.testing.assert_allclose(np.diff([at for _, at in seen]), 40e6)
    assert [frame for frame, _ in seen] == list(range(20))


def test_a_slow_engine_drops_what_is_no_longer_the_newest(bundle: Bundle) -> None:
    """100 ms a frame, frames each 40 ms: after frame 0 (at 0) comes 2 (came at 80, waited 20), then 5 (at 200), ..."""
    clock, seen = Clock(), []

    def answer(frame: int) -> None:
        seen.append(frame)
        clock.sleep(0.1)

    answers, dropped = keep_pace(answer, 25, load_run(bundle, clock, runs=11), clock.sleep)
    assert seen == [0, 2, 5, 7, 10]
    assert dropped == 11 - len(seen)
    assert answers == pytest.approx([100, 120, 100, 120, 100])


def test_paced_counts_every_frame(bundle: Bundle, backend: Recorder) -> None:
    (load,) = measure_loads(load_run(bundle, runs=8), Loads(fps=200))
    assert load.kind == "paced"
    assert load.setting == 200
    answered = len(load.measurement.samples_ms)
    assert answered + load.dropped == 8
    assert all(session.closed for session in backend.sessions)


def test_an_engine_that_takes_longer_than_a_frame_is_always_late_and_keeps_its_own_pace(
    bundle: Bundle, backend: Recorder
) -> None:
    """20 ms an answer at 200 frames a second: each is late, 50 a second at most are answered, and most are dropped."""
    answer = backend.answer

    def slow(images: np.ndarray) -> Outputs:
        time.sleep(0.02)
        return answer(images)

    backend.answer = slow
    (load,) = measure_loads(load_run(bundle, runs=40), Loads(fps=200))
    assert load.late == len(load.measurement.samples_ms)
    assert load.dropped >= 20
    assert load.images_per_second <= 75  # of 40 frames, the first and every fourth or later


@pytest.mark.parametrize("fps", [-1, math.inf, math.nan])
def test_a_pace_that_is_no_number_is_refused(fps: float) -> None:
    with pytest.raises(UsageError, match="--pace"):
        Loads(fps=fps)


def test_a_batch_that_runs_in_another_precision_is_not_measured(bundle: Bundle, backend: Recorder) -> None:
    def other(folder: Path, target: Target) -> Fake:
        return Fake(backend.answer, precision={"bf16": 1.0})

    backend.open = other
    with pytest.raises(GateFailed, match="the batch of 4"):
        measure_loads(load_run(bundle, runs=3), Loads(batches=(4,)))


def test_batches_are_compiled_only_where_the_engine_has_another(
    bundle: Bundle, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", 0.7)
    loads = measure_loads(load_run(bundle, runs=3), Loads(batches=(1, 4)))
    assert [load.measurement.background_load for load in loads] == pytest.approx([0.7, 0.7])
    assert backend.compiled == [4]
    assert [load.setting for load in loads] == [1, 4]
    assert ["its time only" in load.measurement.subject.note for load in loads] == [False, True]
    for load in loads:
        samples = load.measurement.samples_ms
        assert load.images_per_second == pytest.approx(load.setting * len(samples) / (sum(samples) / 1000))
    one, four = backend.sessions
    assert four.seen % 4 == 0
    assert one.closed
    assert four.closed


def test_paced_frames_and_streams_know_of_other_programs_too(
    bundle: Bundle, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", 0.7)
    monkeypatch.setattr("rrr_edge.profile.loads._WINDOW_S", 0.02)
    for load in measure_loads(load_run(bundle, runs=3), Loads(fps=200, streams=(1,))):
        assert load.measurement.background_load == 0.7
        assert load.measurement.disturbed == "other programs took 70% of the cores' time"
        assert load.measurement.summary.unstable


def test_streams_share_the_threads_and_run_at_once(
    bundle: Bundle, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrr_edge.profile.loads._WINDOW_S", 0.1)
    answer, lock = backend.answer, threading.Lock()
    inside, most = 0, 0

    def counting(images: np.ndarray) -> Outputs:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.004)
        with lock:
            inside -= 1
        return answer(images)

    backend.answer = counting
    target = TARGET.model_copy(update={"threads": 6})
    one, three = measure_loads(load_run(bundle, target=target), Loads(streams=(1, 3)))
    assert sorted(backend.threads) == [2, 2, 2, 6]
    assert most == 3
    assert (one.setting, three.setting) == (1, 3)
    for load in (one, three):
        assert load.images_per_second <= load.setting * 1000 / min(load.measurement.samples_ms)
    assert all(session.closed for session in backend.sessions)


def test_a_stream_that_fails_is_not_silent(bundle: Bundle, backend: Recorder) -> None:
    def broken(images: np.ndarray) -> Outputs:
        raise RuntimeError("the engine failed")

    backend.answer = broken
    with pytest.raises(RuntimeError, match="the engine failed"):
        measure_loads(load_run(bundle), Loads(streams=(2,)))


def test_cold_starts_are_fresh_processes_with_and_without_a_cache(compiled: Bundle) -> None:
    target = Target(name="openvino", backend="openvino", precision="fp32", threads=1)
    loads = measure_loads(load_run(compiled, target=target), Loads(cold_starts=2))
    assert [load.measurement.name for load in loads] == ["cold start, empty cache", "cold start, filled cache"]
    assert all("cache" in load.measurement.subject.note for load in loads)


def test_a_backend_without_a_cache_has_one_kind_of_cold_start(
    bundle: Bundle, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child imports what an answer needs, so no start can be shorter than that of an idle Python."""
    monkeypatch.setattr(
        "rrr_edge.profile.cold_start._PROGRAM", ("-c", "import sys, time; time.sleep(0.3); print(0, flush=True)")
    )
    (load,) = measure_loads(load_run(bundle), Loads(cold_starts=2))
    assert load.measurement.name == "cold start"
    assert "cache" not in load.measurement.subject.note
    assert all(ms >= 300 for ms in load.measurement.samples_ms)


def test_a_process_that_hangs_and_one_that_never_stops_complaining(
    bundle: Bundle, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrr_edge.profile.cold_start._PATIENCE_S", 0.5)
    monkeypatch.setattr("rrr_edge.profile.cold_start._PROGRAM", ("-c", "import time; time.sleep(60)"))
    began = time.monotonic()
    with pytest.raises(CannotRunHere, match="it has 0.5 s"):
        measure_loads(load_run(bundle), Loads(cold_starts=2))
    assert time.monotonic() - began < 30
    monkeypatch.setattr("rrr_edge.profile.cold_start._PATIENCE_S", 60)
    monkeypatch.setattr(
        "rrr_edge.profile.cold_start._PROGRAM",
        ("-c", "import sys; sys.stderr.write('x' * 300_000); print(0, flush=True)"),
    )
    assert len(measure_loads(load_run(bundle), Loads(cold_starts=2))) == 1


def test_a_process_that_gives_no_answer_says_why(bundle: Bundle) -> None:
    with pytest.raises(CannotRunHere, match="no fake backend"):
        measure_loads(load_run(bundle), Loads(cold_starts=2))
