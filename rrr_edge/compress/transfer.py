"""Baselines [A] and [B] of Sun et al. 2023: a ResNet in one piece, of which the classifier or everything learns.

As in the authors' code, and unlike in the branches of `rrr`, normalisation keeps ImageNet's scales and shifts. All of
it runs in training mode, also where only the classifier learns: the batch statistics follow the photos, so that [A] is
not quite the frozen feature extractor that the paper's words suggest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from rrr_edge.bundle.recipe import RANDOM, FineTune, LinearProbe
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import ResNetSpec, SourceSpec
from rrr_edge.bundle.tailored import whole_network
from rrr_edge.compress.method import (
    FROM_SCRATCH,
    CompressedNetwork,
    Inputs,
    Method,
    as_it_is,
    begin,
    freeze_nothing,
    learn,
)
from rrr_edge.compress.nettailor.objective import Tailoring
from rrr_edge.compress.nettailor.teacher import begin as begin_tailored
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.compress.weights import load_weights
from rrr_edge.networks import Network
from rrr_edge.training import minimise

R = TypeVar("R", LinearProbe, FineTune)

_RANDOM_FEATURES = (
    "The weights are random, so the classifier reads random features. With --weights imagenet it means more."
)


def _spec_of(recipe: R, num_classes: int) -> ResNetSpec:
    return ResNetSpec(depths=recipe.depths, num_classes=num_classes)


def _tuned_spec(recipe: FineTune, num_classes: int) -> SourceSpec:
    basic = SOURCES[recipe.backbone].block == "basic"
    return whole_network(recipe.backbone, num_classes) if basic else _spec_of(recipe, num_classes)


def _freeze_all_but_the_head(recipe: LinearProbe, network: Network) -> None:
    network.requires_grad_(False)
    network.fc.requires_grad_(True)


def _make(freeze: Callable[[Any, Network], None], if_random: str, recipe: R, inputs: Inputs) -> CompressedNetwork:
    spec = _spec_of(recipe, len(inputs.dataset.labels))
    network, info = begin(recipe, spec, inputs, fill=partial(reuse, spec=spec, seed=recipe.seed))
    freeze(recipe, network)
    return CompressedNetwork(
        network, info, learn(network, recipe, inputs), (if_random,) if recipe.weights == RANDOM else ()
    )


def _fine_tune(recipe: FineTune, inputs: Inputs) -> CompressedNetwork:
    spec = _tuned_spec(recipe, len(inputs.dataset.labels))
    if isinstance(spec, ResNetSpec):
        return _make(freeze_nothing, FROM_SCRATCH, recipe, inputs)
    trunk, info = load_weights(
        recipe.weights, backbone=recipe.backbone, seed=recipe.seed, on_progress=inputs.run.on_progress
    )
    network = begin_tailored(spec, trunk, seed=recipe.seed)
    trained = minimise(
        Tailoring(network),
        inputs.examples,
        training=recipe.training,
        preprocess=inputs.preprocess,
        seed=recipe.seed,
        run=inputs.run,
    )
    return CompressedNetwork(network, info, trained, (FROM_SCRATCH,) if recipe.weights == RANDOM else ())


LINEAR_PROBE: Method[LinearProbe] = Method(
    as_it_is, _spec_of, _freeze_all_but_the_head, partial(_make, _freeze_all_but_the_head, _RANDOM_FEATURES)
)
FINE_TUNE: Method[FineTune] = Method(as_it_is, _tuned_spec, freeze_nothing, _fine_tune)
