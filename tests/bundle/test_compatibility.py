"""A bundle that version 0.1.0's first layout wrote (schema 1) still opens, predicts the same, compiles and profiles.

`fixtures/bundle-0.1.0.tar.xz` holds a network of two narrow branches, its FP32 engines for OpenVINO and ONNX Runtime.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from rrr_edge import Bundle, Classifier
from rrr_edge.compile import compile_bundle
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.request import Extras
from rrr_edge.timing.interleave import TimingSettings

ARCHIVE = Path(__file__).parent / "fixtures" / "bundle-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Bundle.open(folder / "shapes-0.1.0.rrr")


def test_it_opens_with_all_files_as_they_were(old: Bundle) -> None:
    old.check()
    assert old.manifest.labels == ("circle", "cross", "square")
    assert old.engine_names() == ["onnxruntime-fp32", "openvino-fp32"]
    assert old.manifest.spec.branches == 2


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_its_engines_give_the_answers_that_torch_gave(old: Bundle, target: str) -> None:
    reference = old.reference
    with Classifier.open(old.path, target, precision="fp32") as classifier:
        answers = list(classifier.predict_many(reference.images))
    for answer, expected, branches in zip(
        answers, reference.probabilities, reference.branch_probabilities, strict=True
    ):
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-4)
        np.testing.assert_allclose(answer.branch_probabilities, branches, atol=1e-4)


def test_its_graph_whose_bytes_are_reshaped_first_is_built_for_rtx_gpus(old: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = compile_bundle(old, "rtx-turing", precision="fp32")
    assert (engine.verified_by, engine.verification.passed) == ("graph", True)


def test_it_compiles_and_profiles(old: Bundle) -> None:
    engine = compile_bundle(old, "openvino", precision="fp32")
    assert engine.verification.passed
    settings = TimingSettings(runs=3, settle_runs=0, warm_up_ms=0, warm_up_limit_ms=0)
    profile = profile_bundle(old, engine.target, timing=settings, extras=Extras())
    assert profile.bundle == old.manifest.name
    assert len(profile.engine.samples_ms) == 3
