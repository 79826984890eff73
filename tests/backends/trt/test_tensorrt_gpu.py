"""The whole path on a GPU with the real TensorRT."""

from pathlib import Path

import numpy as np
import pytest
from small_bundle import link_bundle

from rrr_edge.backends.tensorrt import TensorRT
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import CannotRunHere, RRREdgeError
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.doctor import examine

TARGET = Target(name="tensorrt", backend="tensorrt", device="GPU", precision="fp32", max_batch=4, optimization_level=1)

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def built(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    try:
        TensorRT().check(TARGET)
    except RRREdgeError as error:
        pytest.skip(str(error))
    bundle = link_bundle(shared_bundle, tmp_path_factory.mktemp("gpu"))
    compile_bundle(bundle, TARGET)
    return bundle


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_it_answers_as_torch_did(built: Bundle, count: int) -> None:
    session = TensorRT().open(built.engine_folder(TARGET.engine_name), TARGET)
    reference = built.reference
    for _ in range(2):  # captured, then launched again
        answers = session.run(reference.images[:count])
        np.testing.assert_allclose(answers.probabilities, reference.probabilities[:count], atol=1e-4)
        np.testing.assert_allclose(answers.branch_probabilities, reference.branch_probabilities[:count], atol=1e-4)
    assert 0 < session.device_ms < 1000
    session.close()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_what_was_asked_is_what_runs(built: Bundle, precision: Precision) -> None:
    pytest.importorskip("modelopt")
    target = TARGET.model_copy(update={"precision": precision})
    try:
        TensorRT().check(target)
    except CannotRunHere as error:
        pytest.skip(str(error))
    engine = compile_bundle(built, target, limits=Limits(max_drop=0.05))
    assert engine.verification.passed
    assert engine.precision_found[precision] >= 0.95


def test_the_app_and_the_doctor_find_it_sound(built: Bundle) -> None:
    with Classifier.open(built.path, TARGET) as classifier:
        answer = classifier.predict(built.reference.images[0])
    assert answer.index == int(built.reference.probabilities[0].argmax())
    assert {finding.verdict for finding in examine(built.path)} == {"load"}


def test_its_layers_are_clocked_and_hold_all_macs(built: Bundle) -> None:
    session = TensorRT().open_profiled(built.engine_folder(TARGET.engine_name), TARGET)
    for image in built.reference.images[:5]:
        session.run(image[None])
    layers = session.layers()
    session.close()
    assert all(layer.ms > 0 for layer in layers)
    assert sum(layer.macs for layer in layers) == built.manifest.cost.macs
    assert {"stump", "conv4", "conv5", "heads"} <= {layer.part for layer in layers}


@pytest.mark.parametrize("portability", ["same-cc", "version"])
def test_a_portable_engine_is_built_and_loads(built: Bundle, portability: str, tmp_path: Path) -> None:
    target = TARGET.model_copy(update={"portability": portability, "name": portability})
    compile_bundle(built, target)
    with Classifier.open(built.path, target) as classifier:
        assert classifier.predict(built.reference.images[0]).probability > 0
