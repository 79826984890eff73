"""The search where plain int8 misses a limit: with a quantiser whose layers do harm as told, and with real ones."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fake_bundle import rewrite, write_bundle
from small_bundle import write_target
from tiny_network import LAYERS, write_tiny_bundle
from typer.testing import CliRunner

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import Fake
from rrr_edge.backends.openvino import OpenVINO
from rrr_edge.backends.protocols import QuantisedLayer, require_layers
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import MANIFEST, REFERENCE, Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import Measurement, Subject
from rrr_edge.bundle.quantisation import PLAIN, Quantisation
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.cli.app import app
from rrr_edge.compile import compile_bundle, explain_bundle
from rrr_edge.compile import searched as building
from rrr_edge.compile.request import BuildRequest
from rrr_edge.compile.search import find_quantisation
from rrr_edge.compile.sensitivity import Searched
from rrr_edge.errors import CannotRunHere, GateFailed, UsageError
from rrr_edge.timing.progress import Step

TARGET = Target(name="test", backend="fake", precision="int8")
QUANTILE = Quantisation(ranges="quantile")
NAMES = tuple("abcdefgh")
IMAGES = 200


def _answers(images: np.ndarray, wrong: int, noise: float = 0.0) -> Outputs:
    """The first `wrong` of a bundle's images, which carry their numbers, are taken for the second class."""
    number = images[:, 0, 0, 0].astype(int)
    first = np.where(number < wrong, 0.1, 0.8 - noise)
    rows = np.stack([first, 0.9 - first, np.full(len(images), 0.1)], 1).astype(np.float32)
    return Outputs(rows, rows[:, None])


@dataclass
class Harmful(Fake):
    """Int8 of equal layers, each of which makes `harms` answers wrong where it is quantised; with `better` none do."""

    answer: Callable[[np.ndarray], Outputs] = field(default=lambda images: _answers(images, 0))
    harms: dict[str, int] = field(default_factory=dict)
    better: Quantisation | None = None
    variants: ClassVar[tuple[Quantisation, ...]] = (QUANTILE,)
    quantised: ClassVar[list[Quantisation]] = []
    runs: ClassVar[list[tuple[str, ...]]] = []
    interrupted_at: ClassVar[int] = -1

    def open(self, folder: Path, target: Target) -> "Harmful":
        way = target.quantisation or PLAIN
        share = 1 - len(way.float_layers) / len(NAMES)
        return replace(
            self, answer=self._answering(way, way.float_layers), precision={"int8": share, "fp32": 1 - share}
        )

    def check(self, target: Target) -> None:
        Target.model_validate(target.model_dump())

    def quantise(self, model, target, calibration, quantisation, on_progress) -> "HarmfulLayers":
        self.quantised.append(quantisation)
        return HarmfulLayers(self, quantisation, target)

    def _answering(self, way: Quantisation, floats: Collection[str]) -> Callable[[np.ndarray], Outputs]:
        helped = self.better is not None and way.ranges == self.better.ranges
        wrong = 0 if helped else sum(self.harms.get(name, 0) for name in NAMES if name not in floats)
        noise = 0 if helped else 1e-3 * sum(name not in floats for name in NAMES)
        return lambda images: _answers(images, wrong, noise)


@dataclass
class HarmfulLayers:
    backend: Harmful
    way: Quantisation
    target: Target
    layers: tuple[QuantisedLayer, ...] = tuple(QuantisedLayer(name, 10) for name in NAMES)

    def run(self, float_layers: Collection[str], images: np.ndarray) -> Outputs:
        Harmful.runs.append(tuple(float_layers))
        if len(Harmful.runs) == Harmful.interrupted_at:
            raise KeyboardInterrupt
        return self.backend._answering(self.way, float_layers)(images)

    def write(self, float_layers: Collection[str], out: Path) -> None:
        self.backend.compile(Path(__file__), self.target, np.empty(0), out, lambda step: None)


def _untimed(engines: dict[str, object], images: np.ndarray, **_: object) -> dict[str, Measurement]:
    """bf16 takes 1.1 ms, fp16 1 ms, fp32 1.2 ms, and all int8 0.8 ms."""
    ms = {"bf16": 1.1, "fp16": 1.0, "fp32": 1.2}
    about = Subject(backend="fake", precision="int8", threads=1)
    return {name: Measurement(name=name, subject=about, samples_ms=(ms.get(name, 0.8),) * 4) for name in engines}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    Harmful.quantised.clear()
    Harmful.runs.clear()
    monkeypatch.setattr(Harmful, "interrupted_at", -1)
    monkeypatch.setattr(building, "measure_beside", _untimed)


@pytest.fixture
def clear(tmp_path: Path) -> Bundle:
    """200 images with their numbers in their first pixels, of which the reference is sure."""
    bundle = write_bundle(tmp_path / "clear.rrr", images=IMAGES)
    pixels = bundle.reference.images.copy()
    pixels[:, 0, 0, 0] = np.arange(IMAGES)
    for name, arrays in (
        (REFERENCE, {"labels": np.zeros(IMAGES, np.int64), **_answers(pixels, 0)._asdict()}),
        ("calibration.npz", {}),
    ):
        np.savez(bundle.path / name, images=pixels, **arrays)
    entries = [describe_file(bundle.path / file.name).model_dump(mode="json") for file in bundle.manifest.files]
    rewrite(bundle.path / MANIFEST, lambda manifest: manifest.update(files=entries))
    return Bundle.open(bundle.path)


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Harmful]:
    def put(better: Quantisation | None = None, **harms: int) -> Harmful:
        made = Harmful(harms=harms, better=better)
        monkeypatch.setitem(BACKENDS, "fake", made)
        return made

    return put


def found_in(engine: Engine) -> Quantisation:
    assert engine.search is not None
    assert engine.search.found is not None
    assert engine.search.found.quantisation == engine.target.quantisation
    return engine.target.quantisation


def test_where_plain_int8_passes_nothing_is_searched(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(a=2)  # 1%
    engine = compile_bundle(clear, TARGET)
    assert (engine.search, engine.target, Harmful.quantised) == (None, TARGET, [])
    assert not clear.search_state(engine.name).exists()


@pytest.mark.parametrize("ruined", ["b", "dg", "ace"])
def test_the_search_finds_the_layers_that_do_the_harm_and_no_others(
    clear: Bundle, harmful: Callable[..., Harmful], ruined: str
) -> None:
    harmful(**{name: 20 + 3 * place for place, name in enumerate(ruined)})
    engine = compile_bundle(clear, TARGET)
    way = found_in(engine)
    assert set(way.float_layers) == set(ruined)
    share = 1 - len(ruined) / len(NAMES)
    assert engine.search.found.share == pytest.approx(share)
    assert engine.precision_found["int8"] == pytest.approx(share)
    assert engine.verification.passed
    assert engine.verification.top1_agreement == 1
    assert [loss.name for loss in engine.search.layers][: len(ruined)] == [*reversed(ruined)]
    assert way.float_precision == "fp16"  # the fastest
    assert (engine.search.time_ratio.of, engine.search.time_ratio.to) == ("fp16", "all int8")
    assert engine.search.time_ratio.value == pytest.approx(1.25)
    assert f"INT8 for {share:.1%} of the MACs, {len(ruined)} layer" in engine.search.words("int8")
    assert clear.engine(TARGET) == engine
    assert engine.notes[-1].startswith(f"{len(engine.search.attempts)} ways to quantise were judged on the 200 photos")


def test_other_ranges_come_first_and_cost_nothing(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(better=QUANTILE, a=30, b=30)
    engine = compile_bundle(clear, TARGET)
    assert found_in(engine) == QUANTILE
    assert engine.precision_found["int8"] == 1
    assert engine.search.layers == ()
    assert engine.search.time_ratio is None
    assert "100.0% of the MACs, quantile ranges, fast bias correction; found" in engine.search.words("int8")


def test_fewer_layers_are_put_back_where_the_limit_allows_it(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    """Of 200, 60 wrong: a limit of 85% leaves 30, of 91% 15."""
    harmful(a=30, b=20, c=10)
    for least, layers in ((0.85, ("a",)), (0.91, ("a", "b")), (1.0, ("a", "b", "c"))):
        engine = compile_bundle(clear, TARGET, limits=Limits(min_agreement=least, max_drop=1))
        assert found_in(engine).float_layers == layers


@pytest.mark.parametrize(
    ("harms", "limits", "said", "advised", "not_advised"),
    [
        ({"a": 60}, {"search_minutes": 0}, "top-1 agrees", ["--search-minutes 10", "--calib-data"], ["--min-share"]),
        ({"a": 60}, {"search_minutes": 1e-9}, "ended with its time", ["--search-minutes 2e-09"], ["--min-share"]),
        ({"a": 60, "b": 60}, {"min_share": 0.8}, "--min-share", ["--min-share 0.7"], ["--search-minutes"]),
        ({"a": 60}, {"search_minutes": 0, "max_drop": 1.0}, "top-1", ["--min-agreement 0.7,"], ["--max-drop"]),
        ({"a": 60}, {"search_minutes": 0, "min_agreement": 0.1}, "accuracy", ["--max-drop 0.3,"], ["--min-agreement"]),
        (
            {"a": 60},
            {"search_minutes": 0, "max_drop": 0.1, "min_agreement": 0.9},
            "accuracy",
            ["--precision bf16 or fp16 or fp32"],
            ["--min-agreement", "--max-drop"],
        ),
    ],
    ids=["no search", "no time", "no share", "agreement", "drop", "both given"],
)
def test_the_refusal_says_what_failed_and_advises_what_was_not_said(
    clear: Bundle, harmful: Callable[..., Harmful], harms, limits: dict[str, float], said: str, advised, not_advised
) -> None:
    harmful(**harms)
    with pytest.raises(GateFailed, match=said) as caught:
        compile_bundle(clear, TARGET, limits=Limits(**limits))
    for option in advised:
        assert option in caught.value.advice
    for option in (*not_advised, "int8"):
        assert option not in caught.value.advice
    assert clear.engine_names() == []


def test_calibration_images_that_were_given_are_not_advised(
    clear: Bundle, harmful: Callable[..., Harmful], tmp_path: Path
) -> None:
    harmful(a=60)
    with pytest.raises(GateFailed) as caught:
        compile_bundle(clear, TARGET, calib_data="digits", limits=Limits(search_minutes=0))
    assert "--calib-data" not in caught.value.advice


def test_an_interrupted_search_goes_on_and_a_finished_one_is_remembered(
    clear: Bundle, harmful: Callable[..., Harmful], monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful(d=60)
    monkeypatch.setattr(Harmful, "interrupted_at", 6)  # two ways, the whole, a, b; then c
    with pytest.raises(KeyboardInterrupt):
        compile_bundle(clear, TARGET)
    monkeypatch.setattr(Harmful, "interrupted_at", -1)
    Harmful.runs.clear()
    steps: list[Step] = []
    engine = compile_bundle(clear, TARGET, on_progress=steps.append)
    assert found_in(engine).float_layers == ("d",)
    alone = [set(NAMES) - set(floats) for floats in Harmful.runs]
    assert {"c"} in alone
    assert {"a"} not in alone
    layers = [step for step in steps if step.stage == "layers"]
    assert (layers[0].done, layers[-1].done, layers[-1].total) == (0, len(NAMES), len(NAMES))
    Harmful.runs.clear()
    again = compile_bundle(clear, TARGET)
    assert Harmful.runs == []
    assert again.search.attempts == engine.search.attempts
    longer = compile_bundle(clear, TARGET, limits=Limits(search_minutes=20))
    assert (Harmful.runs, longer.search.attempts) == ([], engine.search.attempts)
    with pytest.raises(GateFailed):  # other limits are another question, of layers that are known
        compile_bundle(clear, TARGET, limits=Limits(min_share=0.95))
    assert not [floats for floats in Harmful.runs if len(floats) == len(NAMES) - 1]


def test_a_search_whose_time_was_up_goes_on_within_the_same_limits(
    clear: Bundle, harmful: Callable[..., Harmful]
) -> None:
    harmful(d=60)
    for _ in range(2):
        Harmful.runs.clear()
        with pytest.raises(GateFailed, match="ended with its time"):
            compile_bundle(clear, TARGET, limits=Limits(search_minutes=1e-9))
        assert Harmful.runs


def test_searches_of_several_lowerings_share_the_time_and_are_remembered_apart(
    clear: Bundle, harmful: Callable[..., Harmful], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way takes 40 s of the minute."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        Harmful, "quantise", lambda self, *a, plain=Harmful.quantise: now.__setitem__(0, now[0] + 40) or plain(self, *a)
    )
    harmful(d=60)
    limits = Limits(search_minutes=1)
    order = BuildRequest(clear, TARGET, clear.calibration, limits, lambda step: None)
    model = clear.model
    found = [find_quantisation(order, lowering, model) for lowering in ("grouped", "split")]
    assert [(len(result.attempts), result.stopped) for result in found] == [(2, "time"), (1, "time")]
    kept = [Searched(order, lowering).state.result for lowering in ("grouped", "split")]
    assert kept == found


def test_no_search_leaves_every_layer_a_float(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(**dict.fromkeys(NAMES, 20))
    limits = Limits(min_share=0, min_agreement=1, max_drop=1)
    with pytest.raises(GateFailed, match="floats in any layer did not help"):
        compile_bundle(clear, TARGET, limits=limits)


def test_a_damaged_record_of_a_search_only_costs_time(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(d=60)
    first = compile_bundle(clear, TARGET)
    clear.search_state(first.name).write_text("{")
    assert found_in(compile_bundle(clear, TARGET)).float_layers == ("d",)


def test_a_way_that_the_target_names_is_taken_as_it_is(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(a=60)
    with pytest.raises(GateFailed):
        compile_bundle(clear, TARGET.model_copy(update={"quantisation": QUANTILE}))
    pinned = Quantisation(float_layers=("a",), least_share=0.8)
    engine = compile_bundle(clear, TARGET.model_copy(update={"quantisation": pinned}))
    assert (engine.target.quantisation, engine.search, Harmful.quantised) == (pinned, None, [])


def test_few_photos_that_cannot_tell_start_no_search(tmp_path: Path, harmful: Callable[..., Harmful]) -> None:
    """Of 20 one is 5%: more than any limit, and nothing that is sure."""
    bundle = write_bundle(tmp_path / "few.rrr", images=20)
    pixels = bundle.reference.images.copy()
    pixels[:, 0, 0, 0] = np.arange(20)
    sure = _answers(pixels, 0)
    np.savez(bundle.path / REFERENCE, images=pixels, labels=np.zeros(20, np.int64), **sure._asdict())
    entries = [describe_file(bundle.path / file.name).model_dump(mode="json") for file in bundle.manifest.files]
    rewrite(bundle.path / MANIFEST, lambda manifest: manifest.update(files=entries))
    bundle = Bundle.open(bundle.path)
    harmful(a=1)
    engine = compile_bundle(bundle, TARGET)
    assert engine.search is None
    assert len(engine.verification.doubts) == 2
    with pytest.raises(GateFailed, match="limit 1.00%"):
        compile_bundle(bundle, TARGET, limits=Limits(max_drop=0.01, search_minutes=0))


def test_layers_are_explained_without_building_anything(clear: Bundle, harmful: Callable[..., Harmful]) -> None:
    harmful(c=60)
    losses = explain_bundle(clear, TARGET)
    assert losses[0].name == "c"
    assert losses[0].flipped == pytest.approx(60 / IMAGES, abs=0.02)  # of 64 of them
    assert sum(loss.macs_share for loss in losses) == pytest.approx(1)
    assert clear.engine_names() == []
    with pytest.raises(UsageError, match="explained for int8 and fp8"):
        explain_bundle(clear, TARGET, precision="fp32")


def test_the_command_says_what_was_found_and_explains_it(
    clear: Bundle, harmful: Callable[..., Harmful], tmp_path: Path
) -> None:
    harmful(b=60)
    target = write_target(tmp_path, "mine", backend="fake", precision="int8")
    asked = ["compile", str(clear.path), "--target", str(target), "--search-minutes", "1", "--explain"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0
    assert "INT8 for 87.5% of the MACs, 1 layer in FP16, +25.0% time" in said.stdout
    assert re.search(r"b +12\.5% +\d\.\d+ +\d+\.\d%", said.stdout)
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert document["search"]["stopped"] == "found"
    assert document["target"]["quantisation"]["float_layers"] == ["b"]
    assert document["layers"][0]["name"] == "b"
    wrong = CliRunner().invoke(app, [*asked, "--min-share", "2"])
    assert (wrong.exit_code, "--min-share is a share between 0 and 1" in wrong.stderr) == (2, True)


# Real quantisers


def test_layers_that_are_not_there_are_refused_with_the_nearest() -> None:
    layers = [QuantisedLayer(name, 1) for name in LAYERS]
    require_layers(LAYERS[:2], layers)
    with pytest.raises(UsageError, match=r"no quantised layer 'head/fc'; did you mean 'heads/fc'\?"):
        require_layers(["head/fc"], layers)


@pytest.mark.parametrize("ruined", [("conv4/b",), ("conv4/c", "conv5/e"), ("conv4/b", "conv5/d", "conv5/e")])
def test_openvino_finds_the_layers_of_a_network_that_plain_quantisation_ruins(
    tmp_path: Path, ruined: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(OpenVINO, "variants", ())
    bundle = write_tiny_bundle(tmp_path / "tiny.rrr", ruined)
    target = Target(name="tiny", backend="openvino", precision="int8", threads=1)
    engine = compile_bundle(bundle, target, limits=Limits(min_share=0, min_agreement=0.85, max_drop=0.2))
    assert not engine.search.attempts[0].passed
    assert set(found_in(engine).float_layers) == set(ruined)
    assert {loss.name for loss in engine.search.layers} == set(LAYERS)
    assert engine.verification.passed
    assert engine.precision_found["int8"] == pytest.approx(engine.search.found.share, abs=0.03)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_engines_of_a_hard_task_come_out_verified_with_their_ties_left_out(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is right on 30 to 60% of the photos, as sure as it is right, and decides by hairs."""
    pytest.importorskip("nncf")
    monkeypatch.setattr(OpenVINO, "variants", ())
    bundle = write_tiny_bundle(tmp_path / "hard.rrr", images=300, deviation=0.5)
    target = Target(name="hard", backend="openvino", precision=precision, threads=1)  # type: ignore[arg-type]
    try:
        BACKENDS["openvino"].check(target)
    except CannotRunHere as refusal:
        pytest.skip(str(refusal))
    engine = compile_bundle(bundle, target, limits=Limits(min_share=0))
    proof = engine.verification
    assert 0.3 < proof.accuracy_reference < 0.6
    assert proof.passed
    assert 0 < proof.ties < 100
    assert f"({proof.ties} tie{'s' if proof.ties > 1 else ''} left out)" in proof.words
    low, high = proof.drop_interval
    assert low <= proof.accuracy - proof.accuracy_reference <= high
    assert engine.precision_found[precision] > 0
