from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from fake_bundle import write_bundle
from torch.utils.flop_counter import FlopCounterMode

from rrr_edge.bundle.baseline import BaselineCard, Point, obstacle_of
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import NetTailor
from rrr_edge.bundle.spec import ResNetSpec, source_spec
from rrr_edge.compress import baselines
from rrr_edge.compress.baselines import RandomNetworks, pytorch_baselines, random_network, write_baseline
from rrr_edge.errors import UsageError
from rrr_edge.networks import build, cuda
from rrr_edge.networks.cuda import CudaSession
from rrr_edge.networks.eager import EagerSession

SMALL = ResNetSpec(depths=(1, 1, 1, 1), num_classes=3)
PREPROCESS = Preprocess(image_size=32)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Its baseline is a ResNet_1_1_1_1: the export of ResNet152 takes ten seconds."""
    monkeypatch.setattr(baselines, "source_spec", lambda num_classes, backbone: SMALL)
    return write_bundle(tmp_path / "fakes.rrr", image_size=32)


def test_the_baseline_is_torchvisions_resnet152_for_the_same_classes() -> None:
    with torch.device("meta"):
        ours, theirs = build(source_spec(20)), torchvision.models.resnet152(num_classes=20)
    shapes = [{name: tuple(t.shape) for name, t in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_activations_of_the_random_resnet152_are_sane(images: np.ndarray) -> None:
    network = random_network(source_spec(3), PREPROCESS, images)
    assert not network.training
    smallest = torch.finfo(torch.float32).tiny
    denormal, spreads = [], {}

    def look(name: str):
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            magnitudes = output.abs()
            denormal.append(bool(((magnitudes > 0) & (magnitudes < smallest)).any()))
            spreads[name] = float(output.std())

        return hook

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(look(name))
    others = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    probabilities = EagerSession(network, PREPROCESS, threads=1).run(others).probabilities
    assert len(spreads) == 2 * 155
    assert not any(denormal)
    assert all(0.1 < spread < 100 for spread in spreads.values()), spreads
    assert np.isfinite(probabilities).all()


def test_the_seed_decides_and_torchs_own_generator_is_left_alone(images: np.ndarray) -> None:
    state = torch.random.get_rng_state()
    a, b, c = (random_network(SMALL, PREPROCESS, images, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_the_file_runs_in_onnx_runtime_as_the_eager_session_does(bundle: Bundle) -> None:
    path = write_baseline(bundle)
    assert path == bundle.baseline
    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = graph.run(["probabilities"], {"images": bundle.reference.images})
    rival, *others = pytorch_baselines(bundle, threads=1)
    assert bool(others) == torch.cuda.is_available()
    np.testing.assert_allclose(rival.session.run(bundle.reference.images).probabilities, expected, atol=1e-4)
    assert rival.name == "ResNet152, PyTorch"
    assert "random weights" in rival.subject.note


def test_it_is_the_network_that_the_bundle_came_from(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(baselines, "source_spec", lambda classes, backbone: asked.append(backbone) or SMALL)
    recipe = bundle.manifest.recipe.model_copy(update={"backbone": "resnet50"})
    bundle = Bundle(bundle.path, bundle.manifest.model_copy(update={"recipe": recipe}))
    assert write_baseline(bundle) == bundle.baseline == bundle.path / "baselines" / "resnet50.onnx"
    assert BaselineCard.read(bundle.baseline).name == "ResNet50"
    assert pytorch_baselines(bundle, threads=1)[0].name == "ResNet50, PyTorch"
    assert set(asked) == {"resnet50"}


def test_a_network_of_basic_blocks_is_compared_with_its_own_source_and_not_pruned_by_channels(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "fakes.rrr", image_size=32)
    manifest = bundle.manifest.model_copy(update={"recipe": NetTailor(backbone="resnet18")})
    bundle = Bundle(bundle.path, manifest)
    (whole, *_), workshop = pytorch_baselines(bundle, threads=1), RandomNetworks(bundle)
    theirs = torchvision.models.resnet18(num_classes=3)
    assert (whole.name, whole.subject.params) == ("ResNet18, PyTorch", sum(p.numel() for p in theirs.parameters()))
    for granularity in ("channel", "block"):
        point = Point(granularity, 0.5, "resnet18")
        workshop.write(point)
        assert "ResNet18 has none" in obstacle_of(bundle.alternative(point.stem)).read_text()
    masked = workshop.open(Point("element", 0.5, "resnet18"), "pytorch fp32", threads=1)
    assert masked.subject.sparsity == pytest.approx(0.5, abs=1e-3)


def test_where_there_is_a_gpu_pytorch_runs_it_there_in_three_ways_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "is_usable", lambda: True)
    monkeypatch.setattr(baselines, "CudaSession", partial(CudaSession, device="cpu"))
    rivals = pytorch_baselines(bundle, threads=1)
    modes = ["PyTorch", "PyTorch CUDA eager", "PyTorch CUDA graph", "PyTorch CUDA compile"]
    assert [rival.name for rival in rivals] == [f"ResNet152, {mode}" for mode in modes]
    assert [rival.subject.runtime for rival in rivals] == [f"{mode.lower()} fp32" for mode in modes]
    assert RandomNetworks(bundle).runtimes == tuple(rival.subject.runtime for rival in rivals)


def test_its_card_counts_as_torch_does(bundle: Bundle) -> None:
    card = BaselineCard.read(write_baseline(bundle))
    network = build(SMALL).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert card.params == sum(p.numel() for p in network.parameters())
    assert card.macs == counter.get_total_flops() / 2
    assert (card.spec, card.preprocess) == (SMALL, bundle.manifest.preprocess)
    assert (card.granularity, card.sparsity, card.sparsity_asked) == ("baseline", 0, 0)


def test_it_is_written_once(bundle: Bundle) -> None:
    before = write_baseline(bundle).stat().st_mtime_ns
    assert write_baseline(bundle).stat().st_mtime_ns == before
    assert sorted(file.name for file in bundle.baseline.parent.iterdir()) == ["resnet152.json", "resnet152.onnx"]


def test_it_is_written_again_for_another_size_and_when_damaged(bundle: Bundle) -> None:
    path = write_baseline(bundle)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    write_baseline(bundle)
    assert path.stat().st_size == whole

    larger = bundle.manifest.model_copy(update={"preprocess": Preprocess(image_size=64)})
    other = Bundle(bundle.path, larger)
    other.__dict__["calibration"] = np.zeros((6, 64, 64, 3), np.uint8)
    write_baseline(other)
    assert BaselineCard.read(path).preprocess.image_size == 64


def test_activations_of_a_nearly_empty_network_are_sane_too(images: np.ndarray) -> None:
    deep = ResNetSpec(depths=(1, 1, 20, 1), branch_widths=(64, 64), num_classes=3)
    network = random_network(deep, PREPROCESS, images, zeroed=0.9)
    kernels = [p for p in network.parameters() if p.ndim > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert zeros / sum(p.numel() for p in network.parameters()) == pytest.approx(0.9, abs=1e-5)
    outputs: list[torch.Tensor] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda *seen: outputs.append(seen[2].abs()))
    EagerSession(network, PREPROCESS, threads=1).run(images)
    assert len(outputs) == 2 * (1 + 3 * 23 + 4)
    assert all(output.max() < 1000 for output in outputs)
    assert not any(((output > 0) & (output < torch.finfo(torch.float32).tiny)).any() for output in outputs)


@pytest.mark.parametrize("granularity", ["element", "channel", "block"])
def test_pruned_networks_are_files_with_cards_and_run_in_pytorch(bundle: Bundle, granularity: Any) -> None:
    """As a ResNet_1_1_1_1 has no block to lose, its blocks are out of reach."""
    workshop, point = RandomNetworks(bundle), Point(granularity, 0.3)
    workshop.write(point)
    path = bundle.alternative(f"{granularity}-30")
    if granularity == "block":
        assert not path.exists()
        assert obstacle_of(path).read_text().startswith("A sparsity of 30.0% is out of reach of block-wise")
        with pytest.raises(UsageError, match="out of reach"):
            workshop.open(point, "pytorch fp32", threads=1)
        return
    card = BaselineCard.read(path)
    whole = sum(p.numel() for p in build(SMALL).parameters())
    assert (card.name, card.granularity, card.sparsity_asked) == (f"{granularity} 30 %", granularity, 0.3)
    assert card.sparsity == pytest.approx(0.3, abs=0.005)
    rival = workshop.open(point, "pytorch fp32", threads=1)
    assert (rival.subject.sparsity, rival.subject.params) == (card.sparsity, card.params)
    if granularity == "channel":
        assert card.sparsity == 1 - card.params / whole
        assert build(card.spec).conv1.out_channels < 64
    else:
        assert card.params == whole
    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = graph.run(["probabilities"], {"images": bundle.reference.images})
    np.testing.assert_allclose(rival.session.run(bundle.reference.images).probabilities, expected, atol=1e-4)
    before = path.stat().st_mtime_ns
    workshop.write(point)
    assert path.stat().st_mtime_ns == before
