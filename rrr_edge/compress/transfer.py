"""Baselines [A] and [B] of Sun et al. 2023: a network in one piece, of which the classifier or everything learns.

As in the authors' code, and unlike in the branches of `rrr`, normalisation keeps ImageNet's scales and shifts. All of
it runs in training mode, also where only the classifier learns: the batch statistics follow the photos, so that [A] is
not quite the frozen feature extractor that the paper's words suggest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from rrr_edge.bundle.recipe import RANDOM, FineTune, LinearProbe
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import ResNetSpec, SourceSpec, TorchvisionSpec, source_spec
from rrr_edge.compress.method import (
    FROM_SCRATCH,
    CompressedNetwork,
    Inputs,
    Method,
    as_it_is,
    begin,
    digest_of,
    freeze_nothing,
    learn,
)
from rrr_edge.compress.nettailor.teacher import begin as begin_tailored
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.compress.weights import WeightsInfo, load_weights
from rrr_edge.networks import Network, ResNet, Torchvision, build
from rrr_edge.training import CrossEntropy, minimise

R = TypeVar("R", LinearProbe, FineTune)

_RANDOM_FEATURES = (
    "The weights are random, so the classifier reads random features. With --weights imagenet it means more."
)


def _spec_of(recipe: R, num_classes: int) -> SourceSpec:
    if recipe.depths is not None and SOURCES[recipe.backbone].block == "bottleneck":
        return ResNetSpec(depths=recipe.depths, num_classes=num_classes)
    return source_spec(num_classes, recipe.backbone)


def _freeze_all_but_the_head(recipe: LinearProbe, network: Network) -> None:
    network.requires_grad_(False)
    head = network.head if isinstance(network, Torchvision) else network.fc
    head.requires_grad_(True)


def _make(freeze: Callable[[Any, Network], None], if_random: str, recipe: R, inputs: Inputs) -> CompressedNetwork:
    network, info = _begin(recipe, inputs)
    freeze(recipe, network)
    if isinstance(network, ResNet):
        trained = learn(network, recipe, inputs)
    else:
        trained = minimise(
            CrossEntropy(network),
            inputs.examples,
            training=recipe.training,
            preprocess=inputs.preprocess,
            seed=recipe.seed,
            run=inputs.run,
        )
    return CompressedNetwork(network, info, trained, (if_random,) if recipe.weights == RANDOM else ())


def _begin(recipe: R, inputs: Inputs) -> tuple[Network, WeightsInfo]:
    """The network with the recipe's weights and a new classifier."""
    spec = _spec_of(recipe, len(inputs.dataset.labels))
    if isinstance(spec, ResNetSpec):
        return begin(recipe, spec, inputs, fill=partial(reuse, spec=spec, seed=recipe.seed))
    if isinstance(spec, TorchvisionSpec):
        return _begin_classifier(recipe, spec, inputs)
    trunk, info = load_weights(
        recipe.weights, backbone=recipe.backbone, seed=recipe.seed, on_progress=inputs.run.on_progress
    )
    return begin_tailored(spec, trunk, seed=recipe.seed), info


def _begin_classifier(recipe: R, spec: TorchvisionSpec, inputs: Inputs) -> tuple[Torchvision, WeightsInfo]:
    """Drawn as torchvision draws it, from the recipe's seed; weights take the place of all but the last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(spec)
    if recipe.weights == RANDOM:
        return network, WeightsInfo(RANDOM, digest_of(network))
    trunk, info = load_weights(recipe.weights, backbone=recipe.backbone, on_progress=inputs.run.on_progress)
    network.load_state_dict({**network.state_dict(), **trunk})
    return network, info


LINEAR_PROBE: Method[LinearProbe] = Method(
    as_it_is, _spec_of, _freeze_all_but_the_head, partial(_make, _freeze_all_but_the_head, _RANDOM_FEATURES)
)
FINE_TUNE: Method[FineTune] = Method(as_it_is, _spec_of, freeze_nothing, partial(_make, freeze_nothing, FROM_SCRATCH))
