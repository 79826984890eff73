import csv
import io
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_bundle import COST, LABELS, SPEC, rewrite, write_bundle, write_engine
from PIL import Image

from rrr_edge import profile as profile_module
from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.baseline import BaselineCard, card_of
from rrr_edge.bundle.environment import GPU, Environment
from rrr_edge.bundle.files import describe_file, sha256
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import LayerTime, Subject
from rrr_edge.bundle.profile import ENGINE, ON_DEVICE, PARTS, PHOTO, PREDICT, Profile, part_name
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.cli.display import Display
from rrr_edge.errors import (
    BadInput,
    CannotRunHere,
    CorruptArtifact,
    GateFailed,
    MissingLibrary,
    UsageError,
    pip_install,
)
from rrr_edge.profile import engine as engine_module
from rrr_edge.profile import profile_bundle, require_machine
from rrr_edge.profile.loads import Loads
from rrr_edge.profile.request import Baselines, Extras
from rrr_edge.report.tables import networks, tables_of, times
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import BackgroundLoad

TARGET = Target(name="test", backend="fake", precision="int8", threads=3)


class Clock:
    """Nanoseconds that pass when an engine runs, and one at every look so that order can be seen."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def engine(self, ms: float) -> Fake:
        thirds = np.full((1, len(LABELS)), 1 / len(LABELS), np.float32)

        def answer(images: np.ndarray) -> Outputs:
            self.now_ns += round(ms * 1e6)
            return Outputs(thirds, thirds[:, None])

        return Fake(answer, precision={"int8": 0.75, "fp32": 0.25})


class FakeBackend(Fake):
    """Its engines take 2 ms; baselines compiled at fp32 take 40 ms and at any other precision 10."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.engine(2).answer)
        self.clock = clock
        self.compiled: list[tuple[str, str, int]] = []
        self.opened: list[Fake] = []
        self.claims: dict[str, float] = {}

    def compile(self, model, target, calibration, out, report) -> None:
        self.compiled.append((model.name, target.precision, len(calibration)))
        super().compile(model, target, calibration, out, report)

    def open(self, folder, target) -> Fake:
        ms = 2.0 if folder.parent.name == "engines" else 40.0 if target.precision == "fp32" else 10.0
        session = self.clock.engine(ms)
        if folder.parent.name != "engines":
            session.precision = self.claims or {target.precision: 1.0}
        self.opened.append(session)
        assert (folder / ENGINE_FILE).is_file()
        return session


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    backend = FakeBackend(clock)
    monkeypatch.setitem(BACKENDS, "fake", backend)
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 8)
    monkeypatch.setattr(BackgroundLoad, "share", 0.0)  # whatever else this machine does
    return backend


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = write_bundle(tmp_path / "fakes.rrr", images=40)
    write_engine(bundle, TARGET, (ENGINE_FILE, b"x" * 5000))
    return bundle


@pytest.fixture
def baseline(bundle: Bundle) -> Path:
    model = bundle.baseline
    model.parent.mkdir()
    model.write_bytes(b"a larger graph")
    card = BaselineCard(
        name="ResNet152",
        spec=SPEC,
        preprocess=bundle.manifest.preprocess,
        params=58,
        macs=3758,
        model=describe_file(model),
    )
    card_of(model).write_text(card.to_json())
    return model


def rival(clock: Clock, ms: float = 100) -> Baseline:
    return Baseline("a rival", clock.engine(ms), Subject(backend="rivals", precision="fp32", threads=3))


def test_engine_app_photo_and_baselines_are_measured(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    against = Baselines((baseline,), (rival(clock),))
    profile = profile_bundle(bundle, TARGET, baselines=against, timing=TimingSettings(runs=6, clock=clock))
    medians = {m.name: m.summary.median_ms for m in profile.measurements}
    assert medians == pytest.approx(
        {
            ENGINE: 2,
            PREDICT: 2,
            PHOTO: 2,
            part_name("decode"): 0,
            part_name("resize"): 0,
            part_name("inference"): 2,
            part_name("post"): 0,
            "ResNet152, fake fp32": 40,
            "ResNet152, fake int8": 10,
            "a rival": 100,
        },
        abs=1e-4,
    )
    assert {len(m.samples_ms) for m in profile.measurements} == {6}
    assert [(r.of, r.to, round(r.value, 3)) for r in profile.ratios] == [
        ("ResNet152, fake fp32", ENGINE, 20),
        ("ResNet152, fake int8", ENGINE, 5),
        ("a rival", ENGINE, 50),
    ]
    assert [m.name for m in profile.baselines] == [r.of for r in profile.ratios]
    assert profile.engine.images_per_second == pytest.approx(500, rel=1e-4)
    assert profile.notes == ()


def test_a_device_with_a_clock_of_its_own_is_measured_by_that_too(
    bundle: Bundle, backend: FakeBackend, clock: Clock
) -> None:
    """The device says three quarters of what the caller waits for; settling runs before the timed one take longer."""
    session = clock.engine(0)
    answer, waits = session.answer, iter([30.0, 2.0] * 1000)

    def slower_at_first(images: np.ndarray) -> Outputs:
        ms = next(waits)
        clock.now_ns += round(ms * 1e6)
        session.device_ms = 0.75 * ms
        return answer(images)

    session.answer, session.device_ms = slower_at_first, 0.0
    backend.open = lambda folder, target: session
    profile = profile_bundle(
        bundle, TARGET, timing=TimingSettings(runs=20, settle_runs=1, warm_up_limit_ms=0, clock=clock)
    )
    on_device = np.array(profile.measurement(ON_DEVICE).samples_ms)
    np.testing.assert_allclose(on_device, 0.75 * np.array(profile.engine.samples_ms), rtol=1e-4)
    assert profile.baselines == ()


def test_parts_of_the_photo_are_those_of_the_same_runs(
    bundle: Bundle, backend: FakeBackend, full_size_photos: None
) -> None:
    """With the true clock: what load, fit, run and the rest take adds up to the whole."""
    profile = profile_bundle(bundle, TARGET, timing=TimingSettings(runs=8, warm_up_limit_ms=0))
    whole = np.array(profile.measurement(PHOTO).samples_ms)
    parts = np.array([profile.measurement(part_name(part)).samples_ms for part in PARTS])
    assert (parts > 0).all()
    np.testing.assert_array_less(parts.sum(0), whole)
    # Between the whole and its parts are a function call and the photo's memory that is given back.
    assert np.min((whole - parts.sum(0)) / whole) < 0.1
    # A photo of 1280x720 is decoded in no less than a tenth of a millisecond.
    assert np.median(parts[0]) > 0.1


def test_what_was_run_is_recorded(bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path) -> None:
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=3, clock=clock)
    )
    assert profile.engine.subject == Subject(
        backend="fake", precision="int8", threads=3, params=COST.params, macs=COST.macs, size_mb=0.005
    )
    assert "1280x720" in profile.measurement(PHOTO).subject.note
    fp32 = profile.measurement("ResNet152, fake fp32").subject
    assert (fp32.params, fp32.macs, fp32.precision, fp32.threads) == (58, 3758, "fp32", 3)
    assert "random weights" in fp32.note
    assert profile.precision_found == {"int8": 0.75, "fp32": 0.25}
    assert profile.environment.threads == 3
    assert profile.environment.versions["fake"] == "1"
    assert profile.target.threads == 3


def test_zero_threads_means_all_usable_cores(
    bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrr_edge.timing.machine.usable_cores", lambda: 7)
    target = TARGET.model_copy(update={"name": "open", "threads": 0})
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    profile = profile_bundle(bundle, target, timing=TimingSettings(runs=2, clock=clock))
    assert profile.target.threads == profile.environment.threads == 7


def test_all_candidates_see_the_same_real_image_in_a_round(bundle: Bundle, backend: FakeBackend, clock: Clock) -> None:
    seen: dict[str, list[bytes]] = {"engine": [], "rival": []}

    def spy(name: str, session: Fake) -> Fake:
        answer = session.answer

        def watching(images: np.ndarray) -> Outputs:
            seen[name].append(images.tobytes())
            return answer(images)

        session.answer = watching
        return session

    backend.open = lambda folder, target: spy("engine", clock.engine(2))
    other = rival(clock)
    spy("rival", other.session)
    profile_bundle(
        bundle, TARGET, baselines=Baselines((), (other,)), timing=TimingSettings(runs=40, settle_runs=0, clock=clock)
    )
    reference = [image.tobytes() for image in bundle.reference.images]
    rounds = seen["rival"][-40:]
    assert set(rounds) == set(reference)
    assert rounds != reference
    # engine, predict and photo share a session; the photo's frames are scaled copies.
    known = [image for image in seen["engine"][-120:] if image in set(reference)]
    assert sorted(known) == sorted(rounds * 2)


def test_photos_are_1280x720_jpegs_of_the_images(bundle: Bundle, full_size_photos: None) -> None:
    images = bundle.reference.images[:2]
    for image, photo in zip(images, engine_module._photos(images), strict=True):
        picture = Image.open(io.BytesIO(photo))
        assert (picture.format, picture.size) == ("JPEG", (1280, 720))
        back = np.asarray(picture.resize(image.shape[1::-1], Image.Resampling.BOX), np.float64)
        assert np.corrcoef(back.ravel(), image.ravel())[0, 1] > 0.8


def test_baselines_are_compiled_once_with_32_images(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    def run() -> None:
        profile_bundle(bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=2, clock=clock))

    run()
    assert backend.compiled == [("resnet152.onnx", "fp32", 32), ("resnet152.onnx", "int8", 32)]
    run()
    assert len(backend.compiled) == 2
    backend.versions = lambda: {"fake": "2"}
    run()
    assert len(backend.compiled) == 4


def test_a_compiled_baseline_that_changed_is_compiled_again(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    def profile() -> None:
        profile_bundle(bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=2, clock=clock))

    profile()
    (baseline.parent / "resnet152-test-int8" / ENGINE_FILE).write_text("another engine")
    backend.compiled.clear()
    profile()
    assert [precision for _, precision, _ in backend.compiled] == ["int8"]


def test_a_baseline_that_nothing_here_can_prepare_is_left_out_with_a_note(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_fake = backend.compile

    def lacking(model, target, *rest) -> None:
        if target.precision == "int8":
            raise MissingLibrary("modelopt", extra="prepare", purpose="Preparing for TensorRT")
        compile_fake(model, target, *rest)

    monkeypatch.setattr(backend, "compile", lacking)
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=2, clock=clock)
    )
    (note,) = (note for note in profile.notes if "baseline" in note)
    assert note.startswith("The baseline in int8 was not measured: Preparing for TensorRT needs modelopt")
    assert note.endswith(pip_install("prepare"))
    assert [ratio.of for ratio in profile.ratios] == ["ResNet152, fake fp32"]
    assert {session.closed for session in backend.opened} == {True}


def test_a_baseline_in_another_precision_than_asked_is_not_measured(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    backend.claims = {"fp32": 0.96, "int8": 0.04}
    with pytest.raises(GateFailed, match="int8 was asked, but the baseline ResNet152 computes 96% fp32, 4% int8"):
        profile_bundle(bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=2, clock=clock))
    assert all(session.closed for session in backend.opened)


def test_an_fp32_engine_has_one_compiled_baseline(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    target = TARGET.model_copy(update={"precision": "fp32"})
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    profile = profile_bundle(
        bundle, target, baselines=Baselines((baseline,)), timing=TimingSettings(runs=2, clock=clock)
    )
    assert [m.name for m in profile.baselines] == ["ResNet152, fake fp32"]
    assert bundle.profile_folder("test-fp32").is_dir()


def test_own_sessions_are_closed_and_those_of_the_caller_are_not(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    handed = rival(clock)
    profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,), (handed,)), timing=TimingSettings(runs=2, clock=clock)
    )
    assert [session.closed for session in backend.opened] == [True] * 3
    assert not handed.session.closed


def test_what_is_written_reads_back_the_same(bundle: Bundle, backend: FakeBackend, baseline: Path) -> None:
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=5, warm_up_limit_ms=0)
    )
    folder = bundle.profile_folder("test-int8")
    files = {file.name for file in folder.iterdir()}
    assert files == {
        "distribution.svg",
        "latency.svg",
        "parts.svg",
        "profile.json",
        "report.html",
        "samples.csv",
        "spider.svg",
    }
    again = Profile.read(folder)
    assert again == profile
    assert again.measurements == profile.measurements
    assert [m.summary for m in again.measurements] == [m.summary for m in profile.measurements]


def test_samples_are_a_plain_table(bundle: Bundle, backend: FakeBackend) -> None:
    profile = profile_bundle(bundle, TARGET, timing=TimingSettings(runs=4, warm_up_limit_ms=0))
    with (bundle.profile_folder("test-int8") / "samples.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["candidate", "round", "ms", "cpu_ms", "others"]
    engine = [tuple(map(float, numbers)) for name, *numbers in rows[1:] if name == ENGINE]
    own = profile.engine
    assert engine == list(zip(range(4), own.samples_ms, own.cpu_ms, own.loads, strict=True))
    assert own.loads == (0.0,) * 4


def test_the_json_has_summaries_and_no_samples(bundle: Bundle, backend: FakeBackend) -> None:
    profile = profile_bundle(bundle, TARGET, timing=TimingSettings(runs=4, warm_up_limit_ms=0))
    data = json.loads((bundle.profile_folder("test-int8") / "profile.json").read_text())
    first = data["measurements"][0]
    assert first["summary"]["median_ms"] == float(np.median(profile.engine.samples_ms))
    assert "samples_ms" not in first
    assert data["schema"] == 1


def test_changed_samples_are_noticed(bundle: Bundle, backend: FakeBackend) -> None:
    profile_bundle(bundle, TARGET, timing=TimingSettings(runs=4, warm_up_limit_ms=0))
    folder = bundle.profile_folder("test-int8")
    lines = (folder / "samples.csv").read_text().splitlines()
    lines[1:5] = [f"engine,{i},0.001" for i in range(4)]
    (folder / "samples.csv").write_text("\n".join(lines))
    with pytest.raises(CorruptArtifact, match="its SHA-256 differs"):
        Profile.read(folder)
    changed = sha256(folder / "samples.csv")
    rewrite(folder / "profile.json", lambda data: data.update(samples_sha256=changed))
    with pytest.raises(CorruptArtifact, match="'engine'"):
        Profile.read(folder)


@pytest.mark.parametrize("damage", ["", "candidate,round,ms\nengine,0,fast\n", "a,b\n1,2\n"])
def test_unreadable_samples_are_bad_input(damage: str, bundle: Bundle, backend: FakeBackend) -> None:
    profile_bundle(bundle, TARGET, timing=TimingSettings(runs=4, warm_up_limit_ms=0))
    folder = bundle.profile_folder("test-int8")
    (folder / "samples.csv").write_text(damage)
    with pytest.raises(BadInput):
        Profile.read(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: [], "profile.json is not a valid Profile"),
        (lambda data: data | {"measurements": 3}, "profile.json cannot be read"),
        (lambda data: data["measurements"][0]["summary"].pop("runs") and data, "of 'engine' .* runs: field required"),
    ],
)
def test_an_unreadable_profile_is_bad_input(
    damage: Callable[[Any], Any], said: str, bundle: Bundle, backend: FakeBackend
) -> None:
    profile_bundle(bundle, TARGET, timing=TimingSettings(runs=4, warm_up_limit_ms=0))
    file = bundle.profile_folder("test-int8") / "profile.json"
    changed = damage(json.loads(file.read_text()))
    file.write_text(json.dumps(changed))
    if isinstance(changed, dict):
        rewrite(file, lambda data: None)
    with pytest.raises(BadInput, match=said):
        Profile.read(file.parent)


def test_a_missing_profile_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        Profile.read(tmp_path)


def test_a_failed_run_leaves_the_old_profile(bundle: Bundle, backend: FakeBackend, clock: Clock) -> None:
    profile_bundle(bundle, TARGET, timing=TimingSettings(runs=2, clock=clock))
    before = (bundle.profile_folder("test-int8") / "profile.json").read_bytes()

    def broken(images: np.ndarray) -> Outputs:
        raise RuntimeError("the rival failed")

    failing = Baseline("broken", Fake(broken), Subject(backend="x", precision="fp32", threads=1))
    with pytest.raises(RuntimeError, match="the rival failed"):
        profile_bundle(bundle, TARGET, baselines=Baselines((), (failing,)), timing=TimingSettings(runs=2, clock=clock))
    assert (bundle.profile_folder("test-int8") / "profile.json").read_bytes() == before


@pytest.mark.parametrize("computed", [1, 8])
def test_macs_are_those_of_the_images_that_a_run_computes(
    computed: int, bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine for a batch of 8 is timed with one image, which some backends fill up and others do not."""
    target = TARGET.model_copy(update={"name": "eight", "batch": 8})
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    layer = LayerTime(name="conv4/x", kind="Conv", part="conv4", precision="int8", ms=2, macs=11)

    def open_profiled(folder: Path, target: Target) -> Fake:
        return Fake(clock.engine(2).answer, {"int8": 1.0}, profiled=(layer,), images_computed=computed)

    monkeypatch.setattr("rrr_edge.profile.timed.time", SimpleNamespace(perf_counter_ns=clock))
    backend.open_profiled = open_profiled
    profile = profile_bundle(bundle, target, extras=Extras(anatomy=True), timing=TimingSettings(runs=3, clock=clock))
    parts = {part.part: part.macs for part in Profile.read(bundle.profile_folder("eight-int8")).parts}
    assert parts["conv4"] == 11 * computed
    assert parts["whole run"] == profile.engine.subject.macs * computed


@pytest.mark.parametrize("later", ["measure_loads", "files_of"])
def test_what_was_timed_outlives_what_fails_later(
    later: str, bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CannotRunHere("something later failed")

    monkeypatch.setattr(profile_module, later, fail)
    with pytest.raises(CannotRunHere, match="later"):
        profile_bundle(bundle, TARGET, timing=TimingSettings(runs=3, clock=clock))
    assert Profile.read(bundle.profile_folder("test-int8")).engine.summary.runs == 3


def test_another_engine_that_is_damaged_does_not_spoil_a_profile(
    bundle: Bundle, backend: FakeBackend, clock: Clock
) -> None:
    other = TARGET.model_copy(update={"precision": "fp32"})
    write_engine(bundle, other, (ENGINE_FILE, b"x"))
    (bundle.engine_folder(other.engine_name) / ENGINE_FILE).write_bytes(b"y")
    profile_bundle(bundle, TARGET, timing=TimingSettings(runs=3, clock=clock))
    assert "refused: " in (bundle.profile_folder("test-int8") / "report.html").read_text()


def test_beside_other_programs_there_is_no_ratio_but_a_bound(
    bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", 0.62)
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((), (rival(clock),)), timing=TimingSettings(clock=clock, cpu_clock=clock)
    )
    assert profile.ratios == ()
    (bound,) = profile.bounds
    assert (bound.of, bound.to, round(bound.disturbed)) == ("a rival", ENGINE, 50)
    assert len(profile.engine.samples_ms) == 40
    assert profile.notes[0] == "Stopped after 40 rounds instead of 200, because none was quiet."
    assert profile.notes[1] == (
        "Too busy a machine for ratios: other programs took 62% of the cores' time, and 0 of 40 rounds were quiet "
        "(others took at most a tenth of a core). Times are of all rounds."
    )
    assert "--patience 10" in profile.notes[-1]
    stored = Profile.read(bundle.profile_folder("test-int8"))
    assert stored.bounds == profile.bounds
    said = {row[0]: row[3] for row in times(profile).rows}["a rival"]
    assert said == bound.words.removesuffix(" times")


def test_of_a_machine_that_was_busy_for_a_while_only_the_quiet_rounds_count(
    bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5] * 20 + [0.01] * 1000)
    monkeypatch.setattr(BackgroundLoad, "share", property(lambda _: next(told)))
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((), (rival(clock),)), timing=TimingSettings(runs=80, clock=clock)
    )
    assert [ratio.of for ratio in profile.ratios] == ["a rival"]
    assert profile.bounds == ()
    assert profile.engine.summary.runs == 60
    assert profile.notes == (
        "60 of 80 rounds were quiet (others took at most a tenth of a core); all that is said is of these.",
    )
    assert Profile.read(bundle.profile_folder("test-int8")).engine.loads == profile.engine.loads


def test_that_nothing_is_known_of_other_programs_is_said(
    bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", None)
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((), (rival(clock),)), timing=TimingSettings(runs=60, clock=clock)
    )
    assert profile.notes == (
        "What other programs took meanwhile is not known, as always for less than a second of rounds: all count as "
        "quiet.",
    )
    assert [ratio.of for ratio in profile.ratios] == ["a rival"]


def test_doubts_are_said_with_what_helps(bundle: Bundle, backend: FakeBackend, clock: Clock) -> None:
    waits = iter(np.resize([1.0, 1.0, 3.0, 3.0], 1000))
    answer = clock.engine(0).answer

    def jittery(images: np.ndarray) -> Outputs:
        clock.now_ns += round(next(waits) * 100e6)
        return answer(images)

    jumpy = Baseline("jumpy", Fake(jittery), Subject(backend="x", precision="fp32", threads=1))
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((), (jumpy,)), timing=TimingSettings(runs=40, settle_runs=0, clock=clock)
    )
    # The quartiles of equally many 100s and 300s, over their median of 200.
    assert profile.notes[0].endswith(": jumpy (100%).")
    assert "stop other programs" in profile.notes[-1]
    assert {row[0]: row[1].startswith("~") for row in times(profile).rows}["jumpy"]


def test_a_drifting_candidate_is_named(bundle: Bundle, backend: FakeBackend, clock: Clock) -> None:
    profile = profile_bundle(
        bundle,
        TARGET,
        baselines=Baselines((), (rival(clock),)),
        timing=TimingSettings(runs=2, clock=clock, warm_up_limit_ms=1000),
    )
    # The rival's second window of ten runs of 100 ms would end after 2,000 ms.
    assert profile.notes[0].endswith("warm-up ended: a rival.")


def test_table_has_a_header_and_equally_long_rows(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=4, clock=clock)
    )
    _, header, rows = times(profile)
    assert {len(row) for row in rows} == {len(header)}
    shown = [row[0].split(",")[0].strip() for row in rows]
    assert shown == [m.name.split(",")[0].removeprefix("photo to answer: ") for m in profile.measurements]
    cells = dict(zip(header, rows[7], strict=True))
    assert cells["median ms"] == "40.000"
    assert cells["95% interval"] == "40.00 to 40.00"
    assert cells["times the engine's"] == "20.0  20.0 to 20.0"


def test_networks_are_those_that_were_run(bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path) -> None:
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=4, clock=clock)
    )
    _, header, rows = networks(profile)
    assert [row[0] for row in rows] == ["engine, fake int8", *(m.name for m in profile.baselines)]
    cells = dict(zip(header, rows[-1], strict=True))
    assert cells["params"] == f"{BaselineCard.read(baseline).params / 1e6:.2f} M"


def test_its_tables_fit_80_columns(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    slow = rival(clock, 9876)._replace(name="ResNet152, openvino int8")
    profile = profile_bundle(
        bundle, TARGET, baselines=Baselines((baseline,), (slow,)), timing=TimingSettings(runs=4, clock=clock)
    )
    for title, header, rows in tables_of(profile):
        Display().table(title, [dict(zip(header, row, strict=True)) for row in rows])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
        assert max(map(len, lines)) <= 80
        assert len(lines) == bool(title) + 2 + len(rows)


def test_pictures_and_page_show_what_was_measured(
    bundle: Bundle, backend: FakeBackend, clock: Clock, baseline: Path
) -> None:
    profile_bundle(bundle, TARGET, baselines=Baselines((baseline,)), timing=TimingSettings(runs=4, clock=clock))
    folder = bundle.profile_folder("test-int8")
    svg = ElementTree.parse(folder / "latency.svg").getroot()
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"engine: 2 ms", "ResNet152, fake fp32: 40 ms, 20 times the engine's"} <= set(texts)
    assert "fakes answers one image in 2 ms with test int8 on 3 threads" in (folder / "report.html").read_text()


def test_without_the_engine_it_is_a_usage_error(bundle: Bundle, backend: FakeBackend) -> None:
    with pytest.raises(UsageError) as caught:
        profile_bundle(bundle, TARGET.model_copy(update={"precision": "bf16"}))
    assert "rrr-edge compile" in caught.value.advice


def test_a_missing_baseline_says_how_to_make_it(bundle: Bundle, backend: FakeBackend) -> None:
    with pytest.raises(CannotRunHere, match="PyTorch") as caught:
        profile_bundle(bundle, TARGET, baselines=Baselines((bundle.baseline,)))
    assert pip_install("compress") in caught.value.advice
    assert not bundle.profile_folder("test-int8").exists()


def test_a_damaged_baseline_is_refused(bundle: Bundle, backend: FakeBackend, baseline: Path) -> None:
    baseline.write_bytes(b"a larger grapH")
    with pytest.raises(CorruptArtifact):
        profile_bundle(bundle, TARGET, baselines=Baselines((baseline,)))


def test_the_repair_of_a_damaged_baseline_deletes_nothing_else(
    bundle: Bundle, backend: FakeBackend, baseline: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my baselines; mine"
    baseline.parent.rename(folder)
    damaged, kept = folder / baseline.name, folder / "kept.onnx"
    damaged.write_bytes(b"a larger grapH")
    kept.touch()
    with pytest.raises(CorruptArtifact) as caught:
        BaselineCard.read(damaged)
    repair, _, rest = caught.value.advice.removeprefix("Run: ").rpartition("; ")
    assert rest == "then the command again"
    subprocess.run(shlex.split(repair), check=True)
    assert list(folder.iterdir()) == [kept]


@pytest.mark.parametrize("words", [{"cpu": "Xeon Gold 6126"}, {"gpu": "GeForce RTX 2080 Ti"}])
def test_another_machine_is_refused_before_anything_runs(
    words: dict[str, str], bundle: Bundle, backend: FakeBackend
) -> None:
    here = Environment.here(threads=1, versions={})
    if any(word in here.cpu or any(word in gpu.name for gpu in here.gpus) for word in words.values()):
        pytest.skip("this is that very machine")
    target = TARGET.model_copy(update={"name": "elsewhere", **words})
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    with pytest.raises(CannotRunHere, match=next(iter(words.values()))):
        profile_bundle(bundle, target)
    assert backend.opened == []


def test_the_gpu_may_be_any_of_those_here() -> None:
    gpus = (GPU(name="NVIDIA T4", driver="1", max_clock_mhz=1), GPU(name="NVIDIA L4", driver="1", max_clock_mhz=1))
    here = Environment.here(threads=1, versions={}).model_copy(update={"gpus": gpus})
    require_machine(TARGET.model_copy(update={"gpu": "l4"}), here)
    with pytest.raises(CannotRunHere, match="NVIDIA T4, NVIDIA L4"):
        require_machine(TARGET.model_copy(update={"gpu": "H100"}), here)


def test_the_anatomy_and_the_loads_are_measured_stored_and_shown(
    bundle: Bundle, backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that takes half of each run; a ceiling of 4 GMAC in a run of 2 ms of which its layer takes all."""
    half = LayerTime(name="conv4/x", kind="Conv", part="conv4", precision="int8", ms=1, macs=11)
    whole = LayerTime(name="stump/x", kind="Conv", part="stump", precision="int8", ms=2, macs=4 * 10**9)

    def open_profiled(folder: Path, target: Target) -> Fake:
        profiled = (half,) if folder.parent.name == "engines" else (whole,)
        return Fake(clock.engine(2).answer, precision={"int8": 1.0}, profiled=profiled)

    monkeypatch.setattr("rrr_edge.profile.timed.time", SimpleNamespace(perf_counter_ns=clock))

    backend.open_profiled = open_profiled
    extras = Extras(anatomy=True, loads=Loads(batches=(1, 4)))
    profile = profile_bundle(bundle, TARGET, extras=extras, timing=TimingSettings(runs=3, clock=clock))
    again = Profile.read(bundle.profile_folder("test-int8"))
    assert again == profile
    assert {m.name for m in again.measurements} == {ENGINE, PREDICT, PHOTO, *map(part_name, PARTS)}
    assert [load.measurement.name for load in again.loads] == ["batch of 1", "batch of 4"]
    parts = {part.part: part for part in again.parts}
    assert parts["whole run"].ms == pytest.approx(2, abs=1e-4)
    assert parts["conv4"].ms == pytest.approx(1, abs=1e-4)
    assert again.ceiling is not None
    assert again.ceiling.gmacs_per_s == pytest.approx(2000, rel=1e-4)
    assert parts["conv4"].share == pytest.approx(11 / 1e6 / 2000, rel=1e-3)
    assert again.profiling_overhead.value == pytest.approx(1, rel=1e-3)
    titles = [table.caption for table in tables_of(again)]
    assert [title.partition(",")[0] for title in titles] == [
        "",
        "What was run",
        "Where the engine's time goes",
        "Under load",
    ]
    for _, header, rows in tables_of(again):
        assert {len(row) for row in rows} == {len(header)}
