import inspect
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.errors import GateFailed, MissingLibrary, pip_install
from rrr_edge.networks import build
from rrr_edge.networks.export import export_onnx, verify_onnx

SIDE = 32
SPEC = ResNetSpec(depths=(1, 1, 1, 1), branches=2, branch_widths=(16, 24), num_classes=4)
PREPROCESS = Preprocess(image_size=SIDE)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.zeros(len(IMAGES), np.int64)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Its batch statistics are no longer the initial ones."""
    torch.manual_seed(0)
    network = build(SPEC).train()
    with torch.no_grad():
        network(torch.randn(16, 3, SIDE, SIDE))
    return network.eval()


@pytest.fixture(scope="module")
def before(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def model(network: torch.nn.Module, before: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traced for this network alone. What was printed meanwhile lies beside its folder."""
    folder = tmp_path_factory.mktemp("export")
    stdout = os.dup(1)
    try:
        with (folder.parent / "printed.txt").open("w") as printed, pytest.MonkeyPatch.context() as patch:
            os.dup2(printed.fileno(), 1)
            patch.setattr(torch.onnx, "export", inspect.unwrap(torch.onnx.export))
            export_onnx(network, PREPROCESS, folder / "model.onnx")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def expected(network: torch.nn.Module) -> Outputs:
    """What the definition says: normalise as ImageNet's users do, softmax each branch, average."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        branches = network((pixels - mean) / std).softmax(2)
    return Outputs(branches.mean(1).numpy(), branches.numpy())


def test_the_graph_takes_bytes_and_gives_what_torch_would(model: Path, expected: Outputs) -> None:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [SIDE, SIDE, 3])
    ]
    assert [o.name for o in session.get_outputs()] == ["probabilities", "branch_probabilities"]
    for count in (1, 5):
        probabilities, branches = session.run(None, {"images": IMAGES[:count]})
        assert branches.shape == (count, 2, 4)
        assert np.abs(probabilities - expected.probabilities[:count]).max() < 1e-5
        assert np.abs(branches - expected.branch_probabilities[:count]).max() < 1e-5


def test_the_batch_is_free_and_the_file_is_whole(model: Path) -> None:
    graph = onnx.load(str(model), load_external_data=False)
    onnx.checker.check_model(graph)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    assert [file.name for file in model.parent.iterdir()] == ["model.onnx"]


def test_normalisations_are_folded_and_branches_are_groups(model: Path) -> None:
    graph = onnx.load(str(model)).graph
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    groups = [next((a.i for a in n.attribute if a.name == "group"), 1) for n in graph.node if n.op_type == "Conv"]
    assert set(groups) == {1, 2}


def test_the_network_is_left_as_it_was_and_nothing_is_printed(
    network: torch.nn.Module, before: dict[str, torch.Tensor], model: Path
) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert (model.parent.parent / "printed.txt").read_text() == ""


def test_a_true_graph_passes(model: Path, expected: Outputs) -> None:
    verification = verify_onnx(model, IMAGES, LABELS, expected)
    assert verification.passed
    assert verification.images == 5
    assert verification.max_abs_diff < 1e-5


def test_a_graph_that_answers_otherwise_is_refused(model: Path, expected: Outputs) -> None:
    wrong = Outputs(expected.probabilities + 2e-4, expected.branch_probabilities)
    with pytest.raises(GateFailed, match=r"model.onnx does not answer like torch: a probability differs by 0\.0002"):
        verify_onnx(model, IMAGES, LABELS, wrong)


def test_a_simplifier_that_changed_the_answers_is_noticed(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxsim.simplify", lambda model: (model, False))
    with pytest.raises(GateFailed, match="onnxsim changed the network's answers"):
        export_onnx(network, PREPROCESS, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxsim"])
def test_a_missing_library_is_named_with_its_pip_line(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=f"needs {library}, which is not installed") as caught:
        export_onnx(network, PREPROCESS, tmp_path / "model.onnx")
    assert caught.value.advice == pip_install("compress")


def test_every_node_says_where_in_the_network_it_lies(model: Path) -> None:
    graph = onnx.load(model).graph
    parts = [node.name.partition("/")[0] for node in graph.node]
    order = ["input", "stump", "conv4", "conv5", "heads", "vote"]
    convolutions = {node.name.split("/")[1]: node.name.split("/")[0] for node in graph.node if node.op_type == "Conv"}
    assert set(parts) == set(order)
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert [convolutions[name] for name in ("conv1", "layer2.0.conv3", "layer3.0.downsample.0", "layer4.0.conv1")] == [
        "stump",
        "stump",
        "conv4",
        "conv5",
    ]
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    assert softmax.name.startswith("vote/")
