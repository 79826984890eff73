"""Every backend clocks its own layers, and each is found again in the network."""

import time
from collections import Counter
from pathlib import Path

import pytest

from rrr_edge.backends import BACKENDS
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.spec import PARTS
from rrr_edge.bundle.structure import layers as convolutions
from rrr_edge.bundle.structure import part_of_layer
from rrr_edge.bundle.target import Target

ENGINES = [("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32")]
RUNS = 50


@pytest.fixture(scope="module", params=ENGINES, ids=" ".join)
def profiled(request: pytest.FixtureRequest, compiled: Bundle) -> tuple[Target, tuple[LayerTime, ...], float]:
    """The target, its layers, and the mean ms of the very runs in which they were clocked."""
    name, precision = request.param
    target = Target(name=name, backend=name, precision=precision, threads=1)
    session = BACKENDS[name].open_profiled(compiled.engine_folder(target.engine_name), target)
    start = time.perf_counter()
    for _ in range(RUNS):
        session.run(compiled.reference.images[:1])
    ms = (time.perf_counter() - start) * 1000 / RUNS
    layers = session.layers()
    session.close()
    session.close()
    return target, layers, ms


def test_every_part_of_the_network_takes_its_time_in_its_turn(profiled) -> None:
    target, layers, _ = profiled
    assert min(layer.ms for layer in layers) > 0
    # In so small a network OpenVINO's whole microseconds are too coarse for the small parts.
    seen = PARTS if target.backend == "onnxruntime" else ("stump", "conv4", "conv5")
    assert {layer.part for layer in layers} >= set(seen)
    where = [PARTS.index(layer.part) for layer in layers if layer.macs]
    assert where == sorted(where)


def test_the_macs_of_each_part_are_those_of_its_convolutions(profiled, compiled: Bundle) -> None:
    _, layers, _ = profiled
    manifest = compiled.manifest
    expected: Counter[str] = Counter()
    for layer in convolutions(manifest.spec, manifest.preprocess.image_size):
        expected[part_of_layer(layer.name)] += layer.conv.macs(layer.size)
    expected["heads"] = manifest.cost.macs - expected.total()
    found: Counter[str] = Counter()
    for layer in layers:
        found[layer.part] += layer.macs
    # ONNX Runtime fills channels up to a multiple of sixteen.
    assert {part: found[part] for part in expected} == pytest.approx(dict(expected), rel=0.1)
    assert all(found[part] >= count for part, count in expected.items())


def test_the_layers_take_no_longer_than_the_run(profiled) -> None:
    _, layers, ms = profiled
    assert 0.1 * ms < sum(layer.ms for layer in layers) < ms + len(layers) * 0.001


def test_the_precision_of_a_layer_is_the_one_it_runs_in(profiled) -> None:
    target, layers, _ = profiled
    assert {layer.precision for layer in layers if layer.macs} == {target.precision}


def test_a_profiler_leaves_no_file_behind(compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = Target(name="onnxruntime", backend="onnxruntime", threads=1)
    session = BACKENDS["onnxruntime"].open_profiled(compiled.engine_folder("onnxruntime-fp32"), target)
    session.run(compiled.reference.images[:1])
    assert list(tmp_path.iterdir())
    session.close()
    assert not list(tmp_path.iterdir())
