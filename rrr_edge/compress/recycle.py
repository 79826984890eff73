"""The method `rrr`: reuse weights, reduce blocks, recycle the tail into branches, train (Sun et al. 2023)."""

import torch

from rrr_edge.compress.method import Made, Material
from rrr_edge.compress.rrr import branch_widths, split
from rrr_edge.compress.weights import RANDOM, load_weights
from rrr_edge.networks import ResNetSpec, build
from rrr_edge.recipe import RRR
from rrr_edge.training import Examples, reestimate_stump, train

_FROM_SCRATCH = (
    "The weights are random, so the whole network was trained from scratch, on shared batches. "
    "The method reuses ImageNet's: with --weights imagenet fewer photos go further."
)


def spec_of(recipe: RRR, num_classes: int) -> ResNetSpec:
    """The network that `recipe` describes, as wide as equation 1 allows. Raises UsageError where nothing fits."""
    _, c4, c5 = branch_widths(recipe.depths, recipe.branches, num_classes)
    return ResNetSpec(depths=recipe.depths, branches=recipe.branches, branch_widths=(c4, c5), num_classes=num_classes)


def make_rrr(recipe: RRR, material: Material) -> Made:
    """Reuse, reduce, recycle and train; the stump keeps its weights, with batch statistics of the photos.

    Deviation where the weights are random: a stump of chance must learn too, so everything is trained, and all
    branches share each batch.
    """
    dataset, run = material.dataset, material.run
    spec = spec_of(recipe, len(dataset.labels))
    weights, info = load_weights(recipe.weights, depths=recipe.depths, seed=recipe.seed, report=run.report)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(spec)
    examples = Examples(dataset.train.images, dataset.train.labels)
    training = recipe.training
    if recipe.weights == RANDOM:
        training = training.model_copy(update={"shared_batches": True})
    else:
        network.load_state_dict(split(weights, spec, seed=recipe.seed))
        reestimate_stump(
            network, examples, training=training, preprocess=material.preprocess, seed=recipe.seed, run=run
        )
    trained = train(network, examples, training=training, preprocess=material.preprocess, seed=recipe.seed, run=run)
    return Made(network, info, trained, (_FROM_SCRATCH,) if recipe.weights == RANDOM else ())
