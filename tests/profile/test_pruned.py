"""Rounds of pruned networks: what is measured beside what, what is kept, and what is said of what there cannot be."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import LABELS, SPEC, write_bundle, write_engine

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.baseline import BaselineCard, Point, card_of, obstacle_of
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Subject
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, pip_install
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.pruned import delete_pruned, prepare_sweep
from rrr_edge.profile.request import Baselines, Sweep
from rrr_edge.report.tables import tables_of
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.progress import OnProgress, Step, silent

TARGET = Target(name="test", backend="fake", precision="int8", threads=3)
# What each granularity takes of the unpruned network's time.
SPEED = {"baseline": 1.0, "element": 1.0, "channel": 0.5, "block": 0.25}
PYTORCH_MS, FP32_MS, INT8_MS, ENGINE_MS = 100.0, 40.0, 10.0, 2.0
RUNTIMES = ("pytorch fp32", "fake fp32", "fake int8")


class Clock:
    """Nanoseconds that pass when a network runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def session(self, ms: float) -> Fake:
        thirds = np.full((1, len(LABELS)), 1 / len(LABELS), np.float32)

        def answer(images: np.ndarray) -> Outputs:
            self.now_ns += round(ms * 1e6)
            return Outputs(thirds, thirds[:, None])

        return Fake(answer, precision={"int8": 1.0})


class FakeBackend(Fake):
    """The file of a network says how much of the unpruned one's time it takes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.session(0).answer)
        self.clock = clock
        self.compiled: list[str] = []
        self.open_now = self.most_open = 0

    def compile(self, model, target, calibration, out, on_progress) -> None:
        self.compiled.append(f"{model.stem} {target.precision}")
        (out / ENGINE_FILE).write_bytes(model.read_bytes())

    def open(self, folder, target) -> Fake:
        if folder.parent.name == "engines":
            return self.clock.session(ENGINE_MS)
        share = json.loads((folder / ENGINE_FILE).read_text())
        session = self.clock.session(share * (INT8_MS if target.precision == "int8" else FP32_MS))
        session.precision = {target.precision: 1.0}
        return self.counted(session)

    def counted(self, session: Fake) -> Fake:
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)

        def close() -> None:
            self.open_now -= 1

        session.close = close
        return session


class FakeWorkshop:
    """Cannot remove more than 80 % in blocks."""

    runtimes = RUNTIMES[:1]

    def __init__(self, bundle: Bundle, backend: FakeBackend) -> None:
        self.bundle, self.backend = bundle, backend
        self.opened: list[Point] = []
        self.before_open: Callable[[Point], None] = lambda point: None

    def write(self, point: Point) -> None:
        model = self.bundle.alternative(point.stem)
        model.parent.mkdir(exist_ok=True)
        if point.granularity == "block" and point.sparsity > 0.8:
            obstacle_of(model).write_text("Blocks reach 80%.\n")
            return
        model.write_text(json.dumps(SPEED[point.granularity]))
        card = BaselineCard(
            name=point.words,
            spec=SPEC,
            preprocess=self.bundle.manifest.preprocess,
            params=100,
            macs=1000,
            granularity=point.granularity,
            sparsity=point.sparsity and point.sparsity + 0.01,
            sparsity_asked=point.sparsity,
            model=describe_file(model),
        )
        card_of(model).write_text(card.to_json())

    def open(self, point: Point, runtime: str, *, threads: int) -> Baseline:
        assert runtime in self.runtimes
        self.before_open(point)
        self.opened.append(point)
        card = BaselineCard.read(self.bundle.alternative(point.stem))
        subject = Subject(
            backend="pytorch",
            precision="fp32",
            threads=threads,
            params=card.params,
            granularity=card.granularity,
            sparsity=card.sparsity,
            sparsity_asked=card.sparsity_asked,
        )
        session = self.backend.clock.session(PYTORCH_MS * SPEED[point.granularity])
        return Baseline(point.words, self.backend.counted(session), subject)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    backend = FakeBackend(Clock())
    monkeypatch.setitem(BACKENDS, "fake", backend)
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 8)
    monkeypatch.setattr("rrr_edge.profile.engine._PHOTOS", 1)  # they are of no interest here
    return backend


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = write_bundle(tmp_path / "fakes.rrr")
    write_engine(bundle, TARGET, (ENGINE_FILE, b"x"))
    return bundle


@pytest.fixture
def workshop(bundle: Bundle, backend: FakeBackend) -> FakeWorkshop:
    return FakeWorkshop(bundle, backend)


def sweep(workshop: FakeWorkshop | None, *sparsities: float) -> Baselines:
    return Baselines(sweep=Sweep(("element", "channel", "block"), sparsities, workshop))


def profile(
    bundle: Bundle, backend: FakeBackend, against: Baselines, *, runs: int = 4, on_progress: OnProgress = silent
) -> Profile:
    timing = TimingSettings(runs=runs, settle_runs=1, warm_up_limit_ms=0, clock=backend.clock)
    timing = replace(timing, cpu_clock=backend.clock)
    return profile_bundle(bundle, TARGET, baselines=against, timing=timing, on_progress=on_progress)


def test_every_sparsity_is_measured_in_every_runtime_beside_the_unpruned_network(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    found = profile(bundle, backend, sweep(workshop, 0.3, 0.6)).alternatives
    medians = {a.measurement.name: a.measurement.summary.median_ms for a in found}
    whole = dict(zip(RUNTIMES, (PYTORCH_MS, FP32_MS, INT8_MS), strict=True))
    expected = {
        f"{granularity} {percent} %, {runtime}": ms * SPEED[granularity]
        for percent in (30, 60)
        for runtime, ms in whole.items()
        for granularity in ("element", "channel", "block")
    }
    expected |= {f"baseline beside {p} %, {runtime}": ms for p in (30, 60) for runtime, ms in whole.items()}
    expected |= {f"engine beside {p} %, fake int8": ENGINE_MS for p in (30, 60)}
    assert medians == pytest.approx(expected)
    assert {len(a.measurement.samples_ms) for a in found} == {4}
    for alternative in found:
        subject = alternative.measurement.subject
        baseline = next(
            a
            for a in found
            if a.measurement.name == alternative.ratio.to and a.measurement.subject.runtime == subject.runtime
        )
        assert baseline.measurement.subject.granularity == "baseline"
        assert alternative.ratio.value == pytest.approx(
            alternative.measurement.summary.median_ms / baseline.measurement.summary.median_ms
        )
    channel = next(a for a in found if a.measurement.name == "channel 60 %, fake fp32").measurement.subject
    assert (channel.granularity, channel.sparsity_asked, channel.sparsity) == ("channel", 0.6, 0.61)
    engine = next(a for a in found if a.measurement.name.startswith("engine")).measurement.subject
    # 7 parameters instead of 100.
    assert (engine.granularity, engine.sparsity) == (None, pytest.approx(0.93))


def test_at_sparsity_0_there_is_nothing_but_the_unpruned_network(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    found = profile(bundle, backend, sweep(workshop, 0)).alternatives
    assert [a.measurement.name for a in found] == [*(f"baseline, {r}" for r in RUNTIMES), "engine, fake int8"]
    assert all((a.ratio.value, a.ratio.interval) == (1, (1, 1)) for a in found[:3])


def test_few_networks_are_open_at_a_time(bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop) -> None:
    profile(bundle, backend, sweep(workshop, 0.1, 0.2, 0.3, 0.4))
    assert backend.most_open == 4
    assert backend.open_now == 0


def test_what_is_out_of_reach_is_said_and_not_measured(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    found = profile(bundle, backend, sweep(workshop, 0.9))
    assert "Blocks reach 80%." in found.notes
    assert not [a for a in found.alternatives if a.measurement.subject.granularity == "block"]
    assert len(found.alternatives) == 3 * 3 + 1


def test_a_device_without_a_workshop_measures_the_files(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    ready, obstacles = prepare_sweep(workshop_sweep(workshop, 0.9), bundle, backend, TARGET, on_progress=silent)
    assert ([point.granularity for point in ready], obstacles) == (["element", "channel"], ["Blocks reach 80%."])
    assert sorted(backend.compiled) == sorted(
        f"{stem} {precision}" for stem in ("resnet152", "element-90", "channel-90") for precision in ("fp32", "int8")
    )
    backend.compiled.clear()
    found = profile(bundle, backend, sweep(None, 0.9))
    assert backend.compiled == []
    assert {a.measurement.subject.runtime for a in found.alternatives} == {"fake fp32", "fake int8"}
    assert "Blocks reach 80%." in found.notes
    with pytest.raises(CannotRunHere, match=r"element-50\.onnx is missing.*PyTorch") as caught:
        profile(bundle, backend, sweep(None, 0.5))
    assert pip_install("compress") in caught.value.advice


def workshop_sweep(workshop: FakeWorkshop | None, *sparsities: float) -> Sweep:
    chosen = sweep(workshop, *sparsities).sweep
    assert chosen
    return chosen


def test_an_interrupted_sweep_goes_on_with_the_next_round(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    whole = profile(bundle, backend, sweep(workshop, 0.3, 0.6))
    folder = bundle.rounds_folder("test-int8")
    assert not folder.exists()

    def interrupt(point: Point) -> None:
        if point == Point("channel", 0.6):
            raise KeyboardInterrupt

    workshop.before_open = interrupt
    with pytest.raises(KeyboardInterrupt):
        profile(bundle, backend, sweep(workshop, 0.3, 0.6))
    assert backend.open_now == 0
    kept = {file.name: file.read_bytes() for file in folder.glob("30-*.json")}
    assert sorted(kept) == sorted(f"30-{runtime.replace(' ', '-')}.json" for runtime in RUNTIMES)
    workshop.before_open = lambda point: None
    workshop.opened.clear()
    steps: list[Step] = []
    resumed = profile(bundle, backend, sweep(workshop, 0.3, 0.6), on_progress=steps.append)
    assert {point.sparsity for point in workshop.opened} == {0.0, 0.6}
    assert resumed.alternatives == whole.alternatives
    assert (
        "3 of the 6 rounds with pruned networks were measured by an earlier run that was interrupted." in resumed.notes
    )
    assert not folder.exists()
    told = [step for step in steps if step.stage == "sweep"]
    assert [(step.done, step.total) for step in told][-1] == (3 * 4, 3 * 4)
    assert [step.done for step in told] == sorted(step.done for step in told)
    assert told[-1].note == "60 %, fake int8"


@pytest.mark.parametrize("change", ["runs", "engine", "granularities"])
def test_rounds_of_other_settings_are_measured_anew(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop, change: str
) -> None:
    def interrupt(point: Point) -> None:
        if point.sparsity == 0.6:
            raise KeyboardInterrupt

    workshop.before_open = interrupt
    with pytest.raises(KeyboardInterrupt):
        profile(bundle, backend, sweep(workshop, 0.3, 0.6))
    workshop.before_open = lambda point: None
    workshop.opened.clear()
    against, runs = sweep(workshop, 0.3, 0.6), 5 if change == "runs" else 4
    if change == "granularities":
        against = Baselines(sweep=Sweep(("block",), (0.3, 0.6), workshop))
    if change == "engine":
        shutil.rmtree(bundle.engine_folder("test-int8"))
        write_engine(bundle, TARGET, (ENGINE_FILE, b"compiled again"))
    found = profile(bundle, backend, against, runs=runs)
    assert {point.sparsity for point in workshop.opened} == {0.0, 0.3, 0.6}
    assert not [note for note in found.notes if "earlier run" in note]
    assert {len(a.measurement.samples_ms) for a in found.alternatives} == {runs}


def test_alternatives_read_back_the_same_and_fill_a_table(
    bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop
) -> None:
    found = profile(bundle, backend, sweep(workshop, 0, 0.3, 0.9))
    assert Profile.read(bundle.profile_folder("test-int8")) == found
    _, header, rows = next(t for t in tables_of(found) if t.caption.startswith("Pruned networks, "))
    assert header == ("", "parameters gone", *RUNTIMES)
    assert {len(row) for row in rows} == {len(header)}
    assert [row[:2] for row in rows] == [
        ("baseline", ""),
        ("engine", "93.0%"),
        ("element", "31.0%"),
        ("element", "91.0%"),
        ("channel", "31.0%"),
        ("channel", "91.0%"),
        ("block", "31.0%"),
    ]
    assert rows[0][2:] == ("100.00 ms", "40.00 ms", "10.00 ms")
    assert rows[1][2:] == ("", "", "0.20  0.20 to 0.20")
    assert rows[-1][2:] == ("0.25  0.25 to 0.25",) * 3


def test_pruned_networks_can_be_deleted(bundle: Bundle, backend: FakeBackend, workshop: FakeWorkshop) -> None:
    prepare_sweep(workshop_sweep(workshop, 0.9), bundle, backend, TARGET, on_progress=silent)
    bundle.rounds_folder("test-int8").mkdir(parents=True)
    folder = bundle.baseline.parent
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    freed = delete_pruned(bundle)
    left = {path for path in folder.rglob("*") if path.is_file()}
    assert freed == sum(size for path, size in sizes.items() if path not in left) > 0
    assert {path.name for path in folder.iterdir()} == {
        "resnet152.onnx",
        "resnet152.json",
        "resnet152-test-fp32",
        "resnet152-test-int8",
    }
    assert not bundle.rounds_folder("test-int8").exists()
    assert delete_pruned(bundle) == 0
    assert BaselineCard.read(bundle.alternative(Point().stem)).sparsity == 0
