"""The types of a method of compression, and the steps that methods share."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from rrr_edge.bundle.manifest import Ancestor, Cost, Preprocess
from rrr_edge.bundle.recipe import RANDOM, Recipe
from rrr_edge.bundle.spec import ChannelSpec, NetworkSpec, ResNetSpec
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.compress.weights import WeightsInfo, load_weights
from rrr_edge.errors import UsageError
from rrr_edge.images.dataset import Dataset
from rrr_edge.networks import Network, ResNet, build, cost
from rrr_edge.training import Examples, Run, Trained, minimise, require_branches, train
from rrr_edge.training.batches import steps_of
from rrr_edge.training.schedule import cycles
from rrr_edge.training.whole import CrossEntropy

R = TypeVar("R", bound=Recipe)

FROM_SCRATCH = "The weights are random, so the whole network was trained from scratch."


@dataclass(frozen=True)
class Inputs:
    """The photos at network size, how their pixels are normalised, and how to carry out a training.

    `examples` are what is learned from: as a rule, the dataset's training photos.
    """

    dataset: Dataset
    examples: Examples
    preprocess: Preprocess
    run: Run


@dataclass(frozen=True)
class CompressedNetwork:
    """A trained network.

    `notes` are what a user must know of how it came about, `files` what the bundle is to hold beside the usual, by
    name, and `earlier_s` the seconds of trainings before the last. `learned` counts the parameters that learned, where
    the network no longer tells. `chain` are the bundles that it was made from.
    """

    network: Network
    weights: WeightsInfo
    trained: Trained
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    earlier_s: float = 0.0
    learned: int | None = None
    chain: tuple[Ancestor, ...] = ()

    def cost(self, image_size: int) -> Cost:
        found = cost_of(self.network, image_size)
        return found if self.learned is None else found.model_copy(update={"trainable_params": self.learned})


def require_steps(recipe: Recipe, network: Network, images: int) -> None:
    """Raise UsageError where the frozen network cannot be trained as the recipe says on that many images."""
    training = recipe.training
    if isinstance(network, ResNet) and isinstance(network.spec, ResNetSpec | ChannelSpec):
        require_branches(network, training, images=images)
        return
    if training.feature_views:
        raise UsageError(
            "feature_views are of a frozen stump, which this network has not.", advice="Use --feature-views 0."
        )
    cycles(training.schedule, training.epochs * steps_of(images, training.batch_size))


class Method(NamedTuple, Generic[R]):
    """`spec` is the network for a number of classes, `freeze` keeps what must not learn, `make` does it all.

    `resolve` writes into a recipe what follows from its other settings; `make` takes none but resolved ones. It raises
    UsageError where they contradict each other, and MissingLibrary. `spec` raises UsageError where there is no such
    network. `check` raises UsageError where the frozen network cannot be trained so on a number of images.
    """

    resolve: Callable[[R], R]
    spec: Callable[[R, int], NetworkSpec]
    freeze: Callable[[R, Network], None]
    make: Callable[[R, Inputs], CompressedNetwork]
    check: Callable[[R, Network, int], None] = require_steps


def begin(
    recipe: Recipe, spec: ResNetSpec, inputs: Inputs, *, fill: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> tuple[ResNet, WeightsInfo]:
    """The network of `spec` with the recipe's weights, as `fill` puts them into its places; random ones are its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(spec)
    if recipe.weights == RANDOM:
        return network, WeightsInfo(RANDOM, digest_of(network))
    weights, info = load_weights(
        recipe.weights, backbone=recipe.backbone, depths=spec.depths, on_progress=inputs.run.on_progress
    )
    network.load_state_dict(fill(weights))
    return network, info


def as_it_is(recipe: R) -> R:
    """A recipe in which nothing is left open."""
    return recipe


def freeze_nothing(recipe: Recipe, network: Network) -> None:
    """Everything learns."""


def learn(network: Network, recipe: Recipe, inputs: Inputs) -> Trained:
    """Train `network` in place by the recipe's training and seed; of other families than ResNets all branches together.

    Raises what `train` raises.
    """
    how: dict[str, Any] = {"preprocess": inputs.preprocess, "seed": recipe.seed, "run": inputs.run}
    if isinstance(network, ResNet) and isinstance(network.spec, ResNetSpec | ChannelSpec):
        return train(network, inputs.examples, training=recipe.training, **how)
    shared = recipe.training.model_copy(update={"shared_batches": True})
    return minimise(CrossEntropy(network), inputs.examples, training=shared, **how)


def cost_of(network: Network, image_size: int) -> Cost:
    """The network's cost, with those parameters as trainable that learn; they are the network's own."""
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    update = {"trainable_params": learning}
    if isinstance(network.spec, TailoredSpec) and network.conv1.weight.requires_grad:
        update |= {"shared_params": 0, "shared_bytes": 0}
    return cost(network.spec, image_size).model_copy(update=update)


def digest_of(network: Network) -> str:
    """The SHA-256 of the bytes of all its tensors."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
