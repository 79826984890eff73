"""Classifiers of torchvision are torchvision's own: names, initialisation, answers, parameters and MACs."""

import re
from typing import Any, get_args

import pytest
import torch
from torch import fx, nn
from torchvision.models import get_model, get_model_weights

from rrr_edge.bundle.sources import CLASSIFIERS, SOURCES, AnyBackbone
from rrr_edge.bundle.spec import TorchvisionSpec, source_spec
from rrr_edge.networks import build, cost

NAMES = sorted(CLASSIFIERS)


def layers_in_sequence(network: nn.Module) -> int:
    """Convolutions and linear layers on the longest way, through the graph that torch.fx traces."""
    modules, longest = dict(network.named_modules()), {}
    for node in fx.symbolic_trace(network).graph.nodes:
        own = node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d | nn.Linear)
        longest[node] = own + max((longest[before] for before in node.all_input_nodes), default=0)
    return max(longest.values())


def test_the_table_has_every_backbone_that_is_no_resnet() -> None:
    assert set(get_args(AnyBackbone)) == {*SOURCES, *CLASSIFIERS}
    assert source_spec(3, "mobilenet_v2") == TorchvisionSpec(backbone="mobilenet_v2", num_classes=3)


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_is_the_published_one(name: Any) -> None:
    """Of ImageNet's networks at 224 pixels torchvision tells the parameters, and billions of MACs to three digits."""
    published = get_model_weights(name).DEFAULT.meta
    found = cost(TorchvisionSpec(backbone=name, num_classes=1000), 224)
    assert found.params == found.trainable_params == published["num_params"]
    assert round(found.macs / 1e9, 3) == published["_ops"]
    assert found.shared_params == 0


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_x_400mf"])
def test_it_is_torchvisions_network(name: Any) -> None:
    networks = []
    for make in (
        lambda: build(TorchvisionSpec(backbone=name, num_classes=5)),
        lambda: get_model(name, weights=None, num_classes=5),
    ):
        torch.manual_seed(0)
        networks.append(make().eval())
    ours, theirs = networks
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images)[:, None])
    assert ours.spec.layers == layers_in_sequence(theirs)
    assert ours.head is ours.get_submodule(CLASSIFIERS[name].head)
    assert ours.head.out_features == 5


@pytest.mark.parametrize("name", NAMES)
def test_its_parts_are_told_by_the_resolution_of_what_they_answer(name: Any) -> None:
    network = build(TorchvisionSpec(backbone=name, num_classes=5)).eval()
    sides: dict[str, int] = {}

    def noting(layer: str) -> Any:
        return lambda module, inputs, answer: sides.update({layer: answer.shape[-1]})

    for layer, module in network.named_modules():
        # Not those within blocks, of which the first one answers at the resolution before, or at a single pixel.
        if re.fullmatch(r"features\.\d+|(conv1|stage\d|conv5)|stem|trunk_output\.block\d", layer):
            module.register_forward_hook(noting(layer))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert len(sides) >= 5
    parts = {4: "conv4", 2: "conv5"}
    for layer, side in sides.items():
        for inner, _ in network.get_submodule(layer).named_modules(prefix=layer):
            assert network.part_of_layer(inner) == parts.get(side, "stump")
    assert {network.part_of_layer(layer) for layer in ("avgpool", CLASSIFIERS[name].head)} == {"heads"}


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny"])
def test_the_others_have_its_layers(name: Any) -> None:
    with torch.device("cpu"):
        theirs = get_model(name, weights=None)
    assert layers_in_sequence(theirs) == CLASSIFIERS[name].layers
    assert isinstance(theirs.get_submodule(CLASSIFIERS[name].head), nn.Linear)
