"""The fastest lowering is kept, and another than grouped only if it is surely faster."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import write_bundle
from small_bundle import link_bundle

from rrr_edge.backends import BACKENDS
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import LOWERINGS, Lowering, Target
from rrr_edge.compile import compile_bundle, may_be_faster_split
from rrr_edge.compile import fastest as race
from rrr_edge.compile.build import build_fastest
from rrr_edge.compile.request import BuildRequest
from rrr_edge.errors import GateFailed
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import BackgroundLoad
from rrr_edge.timing.progress import silent

TARGET = Target(name="test", backend="race", batch=2)
IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


@dataclass
class Clock:
    """Counts nanoseconds that the engines spend."""

    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Racer:
    """A backend whose engine in the folder NAME takes `ms[NAME]`, now and then half as much again."""

    clock: Clock
    ms: dict[str, float]
    seen: list[int] = field(default_factory=list)
    open_now: set[str] = field(default_factory=set)

    def open(self, folder: Path, target: Target) -> "RacerSession":
        self.open_now.add(folder.name)
        return RacerSession(self, folder.name)


@dataclass
class RacerSession:
    backend: Racer
    name: str
    runs: int = 0

    def run(self, images: np.ndarray) -> Outputs:
        self.runs += 1
        slow = 1.5 if self.runs % 7 == 0 else 1.0
        self.backend.seen.append(len(images))
        self.backend.clock.now += int(self.backend.ms[self.name] * slow * 1e6)
        return Outputs(np.zeros((len(images), 1), np.float32), np.zeros((len(images), 1, 1), np.float32))

    def close(self) -> None:
        self.backend.open_now.discard(self.name)


@pytest.mark.parametrize(
    ("ms", "winner"),
    [
        ({"grouped": 2.0, "split": 1.5, "dense": 1.8}, "split"),
        ({"grouped": 2.0, "split": 2.5, "dense": 1.0}, "dense"),
        ({"grouped": 2.0, "split": 2.0, "dense": 3.0}, "grouped"),
    ],
)
def test_the_fastest_wins_and_a_tie_stays_grouped(
    ms: dict[str, float], winner: Lowering, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    backend = Racer(clock, ms)
    monkeypatch.setitem(BACKENDS, "race", backend)  # type: ignore[arg-type]
    timing = TimingSettings(runs=40, warm_up_ms=20, settle_runs=1, clock=clock)
    engines = {name: Path(name) for name in LOWERINGS}
    found, ratios, doubts = race.fastest(engines, TARGET, IMAGES, on_progress=silent, timing=timing)
    assert (found, doubts) == (winner, ())
    assert [(r.of, r.to) for r in ratios] == [("split", "grouped"), ("dense", "grouped")]
    assert [r.value for r in ratios] == pytest.approx([ms[r.of] / ms["grouped"] for r in ratios])
    assert set(backend.seen) == {TARGET.batch}
    assert backend.open_now == set()


def test_beside_other_programs_one_is_chosen_all_the_same_and_no_ratio_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", 0.6)
    clock = Clock()
    monkeypatch.setitem(BACKENDS, "race", Racer(clock, {"grouped": 2.0, "split": 1.5, "dense": 3.0}))  # type: ignore[arg-type]
    monkeypatch.setattr(race, "TIMING", TimingSettings(runs=60, warm_up_ms=20, settle_runs=1, clock=clock))
    monkeypatch.setattr(
        "rrr_edge.compile.build.build", lambda order, lowering, out: (out / "engine").write_text(lowering)
    )
    bundle, out = write_bundle(tmp_path / "x.rrr"), tmp_path / "out"
    out.mkdir()
    built = build_fastest(BuildRequest(bundle, TARGET, IMAGES, Limits(), silent), LOWERINGS, out)
    assert (built.lowering, built.ratios) == ("split", ())
    (doubt,) = built.doubts
    assert "split was chosen by times that cannot be trusted, as other programs took 60% of the cores' time" in doubt


@pytest.mark.parametrize(
    ("refused", "winner", "ratios"), [(("grouped",), "dense", ["dense"]), (("grouped", "split"), "dense", [])]
)
def test_lowerings_that_are_refused_are_left_out_unless_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, refused: tuple[str, ...], winner: str, ratios: list[str]
) -> None:
    clock = Clock()
    monkeypatch.setitem(BACKENDS, "race", Racer(clock, {"split": 2.0, "dense": 1.0}))  # type: ignore[arg-type]
    timing = TimingSettings(runs=40, warm_up_ms=20, settle_runs=1, clock=clock)
    monkeypatch.setattr(race, "TIMING", timing)
    never = set(refused)

    def build(order: BuildRequest, lowering: Lowering, out: Path) -> None:
        (out / "engine").write_text(lowering)
        if lowering in never:
            raise GateFailed("It does not answer like the network.")

    monkeypatch.setattr("rrr_edge.compile.build.build", build)
    bundle, out = write_bundle(tmp_path / "x.rrr"), tmp_path / "out"
    out.mkdir()
    order = BuildRequest(bundle, TARGET, IMAGES, Limits(), silent)
    built = build_fastest(order, LOWERINGS, out)
    found, measured, left_out = built.lowering, built.ratios, built.left_out
    assert (found, [ratio.of for ratio in measured]) == (winner, ratios)
    assert left_out == tuple(
        f"The lowering {name} was left out: It does not answer like the network." for name in refused
    )
    assert {file.name: file.read_text() for file in out.iterdir()} == {"engine": winner}
    never.update(LOWERINGS)
    with pytest.raises(GateFailed):
        build_fastest(order, LOWERINGS, out)


def test_auto_measures_real_engines_and_says_which_it_kept(
    shared_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "TIMING", TimingSettings(runs=10, warm_up_ms=1, settle_runs=1))
    bundle = link_bundle(shared_bundle, tmp_path)
    engine = compile_bundle(bundle, Target(name="mine", backend="openvino", lowering="auto"))
    assert engine.lowering in LOWERINGS
    assert [ratio.of for ratio in engine.lowering_ratios] == ["split", "dense"]
    surely = [ratio.of for ratio in engine.lowering_ratios if ratio.interval[1] < 1]
    assert (engine.lowering == "grouped") == (not surely)
    assert bundle.engine(engine.target) == engine
    folder = bundle.engine_folder(engine.name)
    assert {file.name for file in folder.iterdir()} == {*(file.name for file in engine.files), "engine.json"}


def test_branches_may_be_faster_side_by_side_without_avx512(
    shared_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = Target(name="mine", backend="openvino", precision="int8")

    def may_be(*flags: str, **changes: object) -> bool:
        monkeypatch.setattr("rrr_edge.compile.build.cpu_info", lambda: ("a CPU", flags))
        return may_be_faster_split(shared_bundle, int8.model_copy(update=changes))

    assert may_be("avx2")
    assert may_be("avx2", "avx_vnni")
    assert not may_be("avx2", "avx512f", "avx512_vnni")
    assert not may_be("asimd")
    others = {"lowering": "auto", "precision": "fp32", "backend": "onnxruntime", "device": "GPU"}
    assert not any(may_be("avx2", **{name: value}) for name, value in others.items())


def test_int8_of_openvino_follows_the_lowering_that_is_asked(shared_bundle: Bundle, tmp_path: Path) -> None:
    import openvino

    bundle = link_bundle(shared_bundle, tmp_path)
    engine = compile_bundle(bundle, Target(name="mine", backend="openvino", precision="int8", lowering="split"))
    assert (engine.lowering, engine.lowering_ratios) == ("split", ())
    assert engine.precision_found["int8"] >= 0.99
    graph = openvino.Core().read_model(bundle.engine_folder(engine.name) / "model.xml")
    kinds = {op.get_type_name() for op in graph.get_ops()}
    assert "Concat" in kinds
    assert "GroupConvolution" not in kinds


def test_a_fastest_that_fails_its_verification_leaves_the_next_one(
    shared_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "TIMING", TimingSettings(runs=5, warm_up_ms=1, settle_runs=1))
    judged: list[BuildRequest] = []

    def require(order: BuildRequest, *_: object, **__: object) -> None:
        judged.append(order)
        if len(judged) == 1:
            raise GateFailed("It answers differently.")

    monkeypatch.setattr("rrr_edge.compile.require_answers", require)
    bundle = link_bundle(shared_bundle, tmp_path)
    engine = compile_bundle(bundle, Target(name="mine", backend="openvino", lowering="auto"))
    (ratio,) = engine.lowering_ratios
    (refused,) = set(LOWERINGS) - {ratio.of, ratio.to}
    assert engine.lowering in (ratio.of, ratio.to)
    assert engine.notes == (f"The lowering {refused} was left out: It answers differently.",)
    assert bundle.engine(engine.target) == engine
