"""The method `rrr`: reuse weights, reduce blocks, recycle the tail into branches, train (Sun et al. 2023)."""

from dataclasses import replace
from functools import partial

from rrr_edge.bundle.recipe import RANDOM, RRR
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, ResNetSpec
from rrr_edge.compress.method import CompressedNetwork, Inputs, Method, begin, learn, require_steps
from rrr_edge.compress.rrr.ensembles import train_ensemble, training_of
from rrr_edge.compress.rrr.selection import select_depths
from rrr_edge.compress.rrr.slicing import branch_widths, split
from rrr_edge.compress.weights import WeightsInfo
from rrr_edge.errors import UsageError
from rrr_edge.networks import Network, ResNet
from rrr_edge.training import reestimate_stump

__all__ = ["RECYCLE", "branch_widths"]

_FROM_SCRATCH = (
    "The weights are random, so the whole network was trained from scratch, on shared batches. "
    "The method reuses ImageNet's: with --weights imagenet fewer photos go further."
)


def _resolve(recipe: RRR) -> RRR:
    """Where random weights let several branches train one stump, they share each batch."""
    training = recipe.training
    if recipe.weights != RANDOM or recipe.branches == 1 or training.shared_batches:
        return recipe
    if "shared_batches" in training.model_fields_set:
        raise UsageError(
            f"With random weights the {recipe.branches} branches train the stump that they share, so they cannot each "
            "have their own batches.",
            advice="Set shared_batches = true in [training] of a --recipe, or give --weights imagenet.",
        )
    return recipe.model_copy(update={"training": training.model_copy(update={"shared_batches": True})})


def _spec_of(recipe: RRR, num_classes: int) -> ResNetSpec:
    """The network that `recipe` describes, as wide as equation 1 allows; the smallest where its depths are "auto".

    Raises UsageError where nothing fits.
    """
    depths = SMALLEST_DEPTHS if isinstance(recipe.depths, str) else recipe.depths
    _, c4, c5 = branch_widths(depths, recipe.branches, num_classes)
    return ResNetSpec(
        depths=depths,
        branches=recipe.branches,
        branch_widths=(c4, c5),
        num_classes=num_classes,
        dropout=recipe.dropout,
        dropout_kind=recipe.dropout_kind,
        vote="logits" if recipe.ensemble == "fge" else "probabilities",
    )


def _freeze(recipe: RRR, network: Network) -> None:
    """The stump stays as it is, unless it is one of chance, which must learn too."""
    if recipe.weights != RANDOM:
        assert isinstance(network, ResNet)
        network.freeze_stump()


def _make(recipe: RRR, inputs: Inputs) -> CompressedNetwork:
    """Choose the depths where they are "auto", then reuse, reduce, recycle and train."""
    if recipe.depths != "auto":
        return _recycle(recipe, inputs)
    selected = select_depths(recipe, inputs)
    made = _recycle(recipe.model_copy(update={"depths": selected.depths}), inputs)
    return replace(made, notes=(*selected.notes, *made.notes), files=selected.files, earlier_s=selected.seconds)


def _recycle(recipe: RRR, inputs: Inputs) -> CompressedNetwork:
    """The stump keeps its weights, with batch statistics of the photos; the branches learn.

    Deviation where the weights are random: everything learns, and so `_resolve` lets all branches share each batch.
    """
    spec = _spec_of(recipe, len(inputs.dataset.labels))
    if recipe.weights == RANDOM:
        network, info = begin(recipe, spec, inputs, fill=dict)
        return CompressedNetwork(network, info, learn(network, recipe, inputs), (_FROM_SCRATCH,))

    def start(spec: ResNetSpec) -> tuple[ResNet, WeightsInfo]:
        fill = partial(split, spec=spec, seed=recipe.seed, how=recipe.split)
        network, info = begin(recipe, spec, inputs, fill=fill)
        reestimate_stump(
            network,
            inputs.examples,
            training=recipe.training,
            preprocess=inputs.preprocess,
            seed=recipe.seed,
            run=inputs.run,
        )
        return network, info

    return train_ensemble(recipe, spec, inputs, start=start)


def _check(recipe: RRR, network: Network, images: int) -> None:
    require_steps(recipe.model_copy(update={"training": training_of(recipe)}), network, images)


RECYCLE: Method[RRR] = Method(_resolve, _spec_of, _freeze, _make, _check)
