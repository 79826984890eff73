from pathlib import Path

import numpy as np
import onnx
import pytest

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import ENGINE_FILE, Fake
from rrr_edge.backends.openvino import OpenVINO
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import LayerTime, Measurement, Subject, sum_up
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import GateFailed, MissingLibrary, pip_install
from rrr_edge.profile.ceiling import large_convolutions
from rrr_edge.profile.layer_times import CEILING, LAYERS, LayerTimes, profiling_layers
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.progress import silent

TARGET = Target(name="openvino", backend="openvino", precision="int8", threads=1)
IMAGES = np.zeros((1, 8, 8, 3), np.uint8)


def layer(part: str, ms: float, macs: int, precision: str = "int8") -> LayerTime:
    return LayerTime(name=f"{part}/x", kind="Conv", part=part, precision=precision, ms=ms, macs=macs)


class Clock:
    """Nanoseconds that pass only while an engine runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def engine(self, ms: float, *profiled: LayerTime) -> Fake:
        answer = Fake.always([0.5, 0.5]).answer

        def take_time(images: np.ndarray) -> Outputs:
            self.now_ns += round(ms * 1e6)
            return answer(images)

        return Fake(take_time, profiled=profiled)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rrr_edge.profile.timed.time", clock)
    return clock


def run(layer_times: LayerTimes, times: int = 3) -> None:
    for rival in layer_times.baselines:
        for _ in range(times):
            rival.session.run(IMAGES)


def convolutions(*samples_ms: float) -> Measurement:
    subject = Subject(backend="fake", precision="int8", threads=1)
    return Measurement(name=CEILING, subject=subject, samples_ms=samples_ms)


def test_layers_are_shares_of_the_runs_in_which_they_were_clocked(clock: Clock) -> None:
    """Half of a clocked run of 4 ms is half of an unclocked one of 2, and the rest lies between layers."""
    layer_times = LayerTimes(clock.engine(4, layer("stump", 2.0, 6)), clock.engine(1), TARGET)
    run(layer_times)
    (found,) = layer_times.layers(2.0)
    assert found.ms == pytest.approx(1.0)
    assert {part.part: part.ms for part in sum_up([found], 2.0, 6)}["between layers"] == pytest.approx(1.0)


def test_the_ceiling_is_the_best_rate_in_the_precision_that_was_asked(clock: Clock) -> None:
    profiled = (layer("stump", 1.0, 10**9), layer("stump", 2.0, 3 * 10**9), layer("stump", 1.0, 10**12, "fp32"))
    layer_times = LayerTimes(clock.engine(1), clock.engine(4, *profiled), TARGET)
    run(layer_times)
    ceiling = layer_times.ceiling(convolutions(3.9, 4.0, 4.1, 4.0))
    assert ceiling is not None
    assert ceiling.gmacs_per_s == pytest.approx(1500)
    assert ceiling.interval == pytest.approx((1500 * 4 / 4.1, 1500 * 4 / 3.9), rel=0.02)


def test_no_clock_no_ceiling(clock: Clock) -> None:
    layer_times = LayerTimes(clock.engine(1), clock.engine(1), TARGET)
    run(layer_times)
    assert layer_times.ceiling(convolutions(1.0, 1.0)) is None


def test_parts_are_summed_and_compared_with_the_ceiling(clock: Clock) -> None:
    layer_times = LayerTimes(clock.engine(1), clock.engine(1, layer("stump", 1.0, 10**9)), TARGET)
    run(layer_times)
    ceiling = layer_times.ceiling(convolutions(1.0, 1.0))
    half = 500_000_000
    # Of what was computed a half were zeros.
    layers = [layer("conv4", 0.5, half), layer("conv4", 0.5, half)]
    parts = {part.part: part for part in sum_up(layers, 4.0, half, ceiling)}
    assert parts["conv4"].share == pytest.approx(1.0)
    assert parts["whole run"].share == pytest.approx(0.125)
    assert (parts["between layers"].ms, parts["between layers"].share) == (3.0, None)
    assert parts["heads"].ms == 0


def test_the_large_convolutions_are_a_valid_graph_of_a_few_billion_macs() -> None:
    model = onnx.load_from_string(large_convolutions(TARGET))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model)
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    for node in inferred.graph.node:
        if node.op_type == "Conv" and " to " in node.name:
            inputs, outputs, side = (int(word.partition("x")[0]) for word in node.name.split() if word[0].isdigit())
            assert sides[node.output[0]][1:] == [outputs, side, side]
            assert sides[node.input[0]][1:] == [inputs, side, side]
            assert inputs * outputs * side**2 > 5e8


def test_an_engine_is_dissected_beside_a_ceiling_in_its_own_precision(compiled: Bundle) -> None:
    folder = compiled.engine_folder("openvino-int8")
    with profiling_layers(OpenVINO(), folder, TARGET, silent) as layer_times:
        engine, ceiling_engine = layer_times.baselines
        assert (engine.name, ceiling_engine.name) == (LAYERS, CEILING)
        assert ceiling_engine.session.precision_found() == pytest.approx({"int8": 1.0})
        images = compiled.reference.images[:1]
        candidates = {rival.name: lambda _, rival=rival: rival.session.run(images) for rival in layer_times.baselines}
        found = interleave(candidates, timing=TimingSettings(runs=2, settle_runs=0, warm_up_ms=0, warm_up_runs=2))
        layers = layer_times.layers(1.0)
        ceiling = layer_times.ceiling(convolutions(*found.samples_ms[CEILING]))
    assert 0 < sum(layer.ms for layer in layers) < 1.1
    assert ceiling is not None
    assert ceiling.precision == "int8"
    assert "channels at" in ceiling.how


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    backend = Fake.always([0.5, 0.5])
    monkeypatch.setitem(BACKENDS, "openvino", backend)
    (tmp_path / ENGINE_FILE).write_text("an engine")
    return backend


def test_a_ceiling_in_another_precision_is_refused(tmp_path: Path, backend: Fake) -> None:
    refused = pytest.raises(GateFailed, match="int8 was asked, but the machine's ceiling computes 100% fp32")
    with refused, profiling_layers(backend, tmp_path, TARGET, silent):
        pass


def test_where_the_ceiling_cannot_be_built_the_layers_are_still_clocked(
    tmp_path: Path, backend: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*arguments: object, **options: object) -> None:
        raise MissingLibrary("modelopt", extra="tensorrt", purpose="INT8")

    monkeypatch.setattr("rrr_edge.profile.ceiling.build_unproven", lacking)
    with profiling_layers(backend, tmp_path, TARGET, silent) as layer_times:
        assert [rival.name for rival in layer_times.baselines] == [LAYERS]
        assert layer_times.ceiling(None) is None
    assert pip_install("tensorrt") in layer_times.notes[0]
