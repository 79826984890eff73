"""Classifiers of torchvision as backbones: their weights, their trainings, their graphs and engines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import FineTune, LinearProbe, Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.bundle.sources import CLASSIFIERS
from rrr_edge.bundle.spec import TorchvisionSpec
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import compress
from rrr_edge.compress.classifier_files import read_classifier
from rrr_edge.compress.own_network import open_own
from rrr_edge.compress.published import PUBLISHED, _expected_digits
from rrr_edge.compress.weights import check_weights, load_weights
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.networks import build, cost
from rrr_edge.networks.stored import load_network
from rrr_edge.runtime import Classifier
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import silent
from rrr_edge.training import predict
from rrr_edge.training.batches import normalise

SMALL = "shufflenet_v2_x0_5"
HEAD = ("fc.weight", "fc.bias")
SHORT = Training(epochs=1, batch_size=12, ema_fraction=0)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    found: dict[str, Tensor] = get_model(SMALL, weights=None, num_classes=7).state_dict()
    return found


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in half.items()}}, path)
    return path


@pytest.fixture(scope="module")
def bundle(shapes: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    recipe = FineTune(backbone=SMALL, weights=str(file), image_size=32, training=SHORT)
    return compress(shapes, tmp_path_factory.mktemp("bundles") / "shuffle.rrr", recipe=recipe)


# Weights


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_the_published_files_are_torchvisions_and_their_hashes_are_known(name: str) -> None:
    versions = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}
    known = get_model_weights(name).__members__
    assert {ours: one.url for ours, one in PUBLISHED[name].items()} == {
        ours: known[theirs].url for ours, theirs in versions.items() if theirs in known
    }
    assert all(len(_expected_digits(one)) >= 8 for one in PUBLISHED[name].values())


def test_a_file_is_read_under_its_prefix_with_its_last_layer(file: Path, state: dict[str, Tensor]) -> None:
    found = read_classifier(file, SMALL)
    assert found.trunk.keys() == state.keys() - set(HEAD)
    assert all(torch.equal(found.trunk[name], state[name].half().to(state[name].dtype)) for name in found.trunk)
    assert found.head is not None
    assert torch.equal(found.head.weight, state["fc.weight"].half().float())
    words = "holds a ShuffleNetV2-x0.5 for 7 classes, in torchvision's names after `state_dict.model.`."
    assert check_weights(str(file), SMALL) == f"{file} {words}"


def saved(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in state.items()}, path := tmp_path / "other.safetensors")
    return path


def test_a_file_of_another_network_is_refused_by_its_name(tmp_path: Path, file: Path) -> None:
    with pytest.raises(BadInput, match=r"of a ShuffleNetV2-x0\.5, and a MobileNetV2 is asked for") as caught:
        load_weights(file, backbone="mobilenet_v2")
    assert caught.value.advice.startswith("Add --backbone shufflenet_v2_x0_5, or")
    with pytest.raises(BadInput, match=r"of a ShuffleNetV2-x0\.5, and a ResNet is asked for") as caught:
        load_weights(file)
    assert caught.value.advice.startswith("Add --method finetune --backbone shufflenet_v2_x0_5, or")
    resnet = saved(tmp_path, get_model("resnet18", weights=None).state_dict())
    with pytest.raises(BadInput, match="of a ResNet18, and a MobileNetV2 is asked for") as caught:
        load_weights(resnet, backbone="mobilenet_v2")
    assert caught.value.advice.startswith("Add --backbone resnet18, or")


def test_a_deeper_relative_with_the_same_names_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    more = {name.replace("stage3.7", "stage3.8"): tensor for name, tensor in state.items() if "stage3.7" in name}
    assert more
    with pytest.raises(BadInput, match=r"stage3\.8\.\S+, .* are not among its tensors"):
        load_weights(saved(tmp_path, state | more), backbone=SMALL)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "conv5.0.weight"}, r"conv5\.0\.weight is missing"),
        (lambda s: s | {"conv5.0.weight": torch.zeros(3)}, r"conv5\.0\.weight \[3\] instead of \[1024, 192, 1, 1\]"),
        (lambda s: s | {"conv5.1.bias": torch.full((1024,), torch.nan)}, r"conv5\.1\.bias is not finite"),
        (lambda s: {f"{p}.{k}": v for p in "ab" for k, v in s.items()}, "2 ShuffleNetV2-x0.5s, after `a.`"),
        (lambda s: {"x": torch.zeros(1)}, "missing"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, state: dict[str, Tensor], spoil: Any, said: str) -> None:
    path = saved(tmp_path, spoil(state))
    with pytest.raises(BadInput, match=said) as caught:
        load_weights(path, backbone=SMALL)
    assert str(path) in str(caught.value)
    assert "ShuffleNetV2-x0.5" in str(caught.value)


def test_names_of_weights_are_those_of_the_network() -> None:
    with pytest.raises(UsageError, match="There are no weights 'timm' of MobileNetV2") as caught:
        check_weights("timm", "mobilenet_v2")
    assert caught.value.advice.startswith("Give one of imagenet, imagenet-v2, random, or")
    with pytest.raises(
        UsageError, match="There are no weights 'imagenet-v2' of ConvNeXt-Tiny. Did you mean 'imagenet'"
    ):
        check_weights("imagenet-v2", "convnext_tiny")


def test_an_own_network_answers_as_torchvisions(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path, preprocess = saved(tmp_path, state), Preprocess(image_size=32)
    own = open_own(path, "folder-order", tuple("abcdefg"), preprocess=preprocess)
    theirs = get_model(SMALL, weights=None, num_classes=7).eval()
    theirs.load_state_dict(state)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = theirs(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), preprocess)).softmax(1)
    assert np.allclose(own.answer(pixels, silent), expected, atol=1e-6)
    assert (own.about.network, own.about.params) == ("ShuffleNetV2-x0.5", sum(p.numel() for p in theirs.parameters()))
    assert own.about.macs == cost(TorchvisionSpec(backbone=SMALL, num_classes=7), 32).macs


# Recipes


@pytest.mark.parametrize("recipe", [FineTune(backbone="convnext_tiny"), LinearProbe(backbone="mobilenet_v2")])
def test_a_recipe_has_no_depths_and_comes_back(recipe: FineTune | LinearProbe) -> None:
    assert recipe.depths is None
    assert type(recipe).model_validate_json(recipe.to_json()) == recipe
    assert read_recipe(None, method=recipe.method, backbone=recipe.backbone) == recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "mobilenet_v2", "depths": (1, 1, 1, 1)}, "MobileNetV2 is used whole: leave depths out"),
        ({"backbone": "resnet34", "depths": (1, 1, 1, 1)}, "ResNet34 is used whole: leave depths out"),
        ({"backbone": "mobilenetv2"}, "no backbone 'mobilenetv2'. Did you mean 'mobilenet_v2'"),
        ({"backbone": "mobilenet_v2", "method": "rrr"}, "The method rrr has no backbone mobilenet_v2"),
        ({"backbone": "convnext_tiny", "method": "nettailor"}, "The method nettailor has no backbone convnext_tiny"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_recipe(None, **{"method": "finetune", **options})


# Bundles


def test_finetuning_trains_all_of_the_files_weights(bundle: Bundle, file: Path) -> None:
    bundle.check()
    manifest = bundle.manifest
    assert manifest.spec == TorchvisionSpec(backbone=SMALL, num_classes=3)
    assert manifest.provenance.weights == "own.pth"
    # ImageNet's 1,366,792 without 997 of its 1000 outputs of 1024 weights and a bias.
    assert manifest.cost.params == manifest.cost.trainable_params == 1_366_792 - 997 * 1025
    before, after = read_classifier(file, SMALL).trunk, load_file(bundle.weights)
    assert after.keys() == before.keys() | set(HEAD)
    assert not [name for name in before if torch.equal(before[name], after[name])]
    theirs = get_model(SMALL, weights=None, num_classes=3)
    theirs.load_state_dict(after)
    reference = bundle.reference
    found = predict(load_network(bundle), reference.images, preprocess=manifest.preprocess)
    assert np.allclose(found.probabilities, reference.probabilities, atol=1e-6)


def test_a_linear_probe_trains_the_last_layer_alone(shapes: Path, file: Path, tmp_path: Path) -> None:
    recipe = LinearProbe(backbone=SMALL, weights=str(file), image_size=32, training=SHORT)
    bundle = compress(shapes, tmp_path / "probe.rrr", recipe=recipe)
    assert bundle.manifest.cost.trainable_params == 3 * 1025
    before, after = read_classifier(file, SMALL).trunk, load_file(bundle.weights)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "running" in name or name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["convnext_tiny", "shufflenet_v2_x0_5"])
def test_the_deployed_network_is_the_same(name: Any) -> None:
    network = build(TorchvisionSpec(backbone=name, num_classes=3)).eval()
    deployed, images = network.deployed(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(deployed(images), network(images), atol=1e-5)
    assert [m.out_features for m in deployed.modules() if isinstance(m, nn.Linear)] == [3]


def test_the_graph_tells_every_layer_its_part(bundle: Bundle) -> None:
    graph = Graph.load(bundle.model)
    parts = [node.name.partition("/")[0] for node in graph.nodes if node.op_type in ("Conv", "Split", "Gemm")]
    order = ["stump", "conv4", "conv5", "heads"]
    assert list(dict.fromkeys(parts)) == order
    assert parts == sorted(parts, key=order.index)
    assert sum(graph.macs().values()) == bundle.manifest.cost.macs


@pytest.mark.parametrize(
    ("backend", "precision"), [("openvino", "int8"), ("openvino", "bf16"), ("onnxruntime", "fp32")]
)
def test_its_engines_are_verified_and_embedded(bundle: Bundle, backend: str, precision: Any) -> None:
    if precision == "bf16" and not {"avx512_bf16", "amx_bf16"} & set(cpu_info()[1]):
        pytest.skip("this CPU has no bf16 arithmetic")
    engine = compile_bundle(bundle, backend, precision=precision)
    assert engine.verification.passed
    assert engine.precision_found[precision] > 0.9
    with Classifier.open(bundle.path, backend, precision=precision) as classifier:
        answer = classifier.predict(bundle.reference.images[0])
    assert answer.label in bundle.manifest.labels
