from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from rrr_edge.backends import Session
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.networks import build
from rrr_edge.networks.eager import EagerSession
from rrr_edge.networks.export import export_onnx

SPEC = ResNetSpec(depths=(1, 1, 1, 1), branches=4, branch_widths=(16, 16), num_classes=3)
PREPROCESS = Preprocess(image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(SPEC).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_it_answers_as_torchvision_normalises_and_torch_votes(network: torch.nn.Module, images: np.ndarray) -> None:
    session: Session = EagerSession(network, PREPROCESS, threads=1)
    probabilities, branch_probabilities = session.run(images)
    prepare = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESS.mean, PREPROCESS.std)])
    with torch.no_grad():
        expected = network(prepare(torch.from_numpy(images).permute(0, 3, 1, 2))).softmax(-1)
    assert branch_probabilities.shape == (3, 4, 3)
    np.testing.assert_allclose(branch_probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities, expected.mean(1), atol=1e-5)
    assert session.precision_found() == {"fp32": 1.0}
    session.close()


def test_it_answers_as_the_exported_graph_in_onnx_runtime(
    network: torch.nn.Module, images: np.ndarray, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(network, PREPROCESS, tmp_path / "model.onnx")
    graph = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = graph.run(["probabilities", "branch_probabilities"], {"images": images})
    for ours, theirs in zip(EagerSession(network, PREPROCESS, threads=1).run(images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_it_computes_without_dropout_and_with_the_threads_it_was_given(images: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        torch.manual_seed(0)
        training = build(SPEC.model_copy(update={"dropout": 0.5})).train()
        session = EagerSession(training, PREPROCESS, threads=1)
        assert torch.get_num_threads() == 1
        np.testing.assert_array_equal(session.run(images).probabilities, session.run(images).probabilities)
    finally:
        torch.set_num_threads(before)
