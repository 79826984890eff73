from typing import Any

import numpy as np
import pytest
import torch

from rrr_edge.backends import Session
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.networks import build
from rrr_edge.networks.cuda import MODES, CudaSession, Mode
from rrr_edge.networks.eager import EagerSession

SPEC = ResNetSpec(depths=(1, 1, 1, 1), branches=4, branch_widths=(16, 16), num_classes=3)
PREPROCESS = Preprocess(image_size=32)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that PyTorch can use")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(SPEC).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


class CountedEvent:
    """An event of a device that has none: it notes its turn instead of the time."""

    turns = 0

    def __init__(self, device: Any, *, enable_timing: bool) -> None:
        assert enable_timing
        self.waited_for = False

    def record(self) -> None:
        CountedEvent.turns += 1
        self.turn = CountedEvent.turns

    def synchronize(self) -> None:
        self.waited_for = True

    def elapsed_time(self, end: "CountedEvent") -> float:
        assert end.waited_for, "times are known only after the device has been waited for"
        return float(end.turn - self.turn)


def assert_answers_as_on_the_cpu(session: CudaSession, network: Any, images: np.ndarray, atol: float) -> None:
    expected = EagerSession(network, PREPROCESS, threads=torch.get_num_threads())
    for count in (1, 3, 1, 5):
        for ours, theirs in zip(session.run(images[-count:]), expected.run(images[-count:]), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_it_answers_any_number_of_images(
    network: Any, images: np.ndarray, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, where torch.compile would only take its time."""
    monkeypatch.setattr(torch, "Event", CountedEvent)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    session = CudaSession(network, PREPROCESS, mode=mode, device="cpu")
    kept: Session = session
    assert_answers_as_on_the_cpu(session, network, images, 1e-6)
    assert session.device_ms == 1
    assert kept.precision_found() == {"fp32": 1.0}
    kept.close()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_the_gpu_it_answers_as_on_the_cpu_and_leaves_the_network_there(
    network: Any, images: np.ndarray, mode: Mode
) -> None:
    session = CudaSession(network, PREPROCESS, mode=mode)
    assert_answers_as_on_the_cpu(session, network, images, 1e-4)
    assert session.device_ms > 0
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    session.close()
