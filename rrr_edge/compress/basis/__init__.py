"""The method `basis` (Wong, Kashyap and Moradi 2021, arXiv 2108.02893): pruning without fine-tuning of weights.

Each convolution becomes one with an orthonormal basis as its filters and one that scales back, by a singular value
decomposition. One factor for each basis vector and the classifier learn; the vectors whose factors matter least to the
loss go, some after each training; what is left is delivered as pairs of convolutions, or as one where that is smaller.

The abstract and the patent tell the decomposition, the factors and the Taylor criterion. Everything else is ours: the
thin decomposition of the weights [K, C] without normalisation, frozen scales and shifts of normalisation, the schedule,
the normalisation of scores, and that each branch of a grouped convolution is decomposed and pruned alone.
"""

from dataclasses import replace
from functools import partial

from rrr_edge.bundle.basis import NOTHING_PRUNED, PATENT
from rrr_edge.bundle.factored import convolutions
from rrr_edge.bundle.folder import BASIS, BASIS_PLOT
from rrr_edge.bundle.recipe import RANDOM, BasisScaling
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec, ResNetSpec, TorchvisionSpec, source_spec
from rrr_edge.compress.basis.channels import most_slimmed, require_channels
from rrr_edge.compress.basis.decompose import deliver
from rrr_edge.compress.basis.pruning import most_removed
from rrr_edge.compress.basis.removals import Found, Removals
from rrr_edge.compress.basis.rows import notes_of, table_of
from rrr_edge.compress.chain import begin_with, doubts_of, inherit, name_of, start_of
from rrr_edge.compress.method import CompressedNetwork, Inputs, Method, begin
from rrr_edge.compress.nettailor.teacher import begin as begin_tailored
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.compress.slimming import require_sparsity
from rrr_edge.compress.stages import Stages
from rrr_edge.compress.validation import validation_photos
from rrr_edge.compress.weights import WeightsInfo, load_weights
from rrr_edge.errors import UsageError
from rrr_edge.networks import Network, cost
from rrr_edge.report.basis import draw_basis
from rrr_edge.training import Examples, Trained
from rrr_edge.training.batches import steps_of
from rrr_edge.training.schedule import cycles

_RANDOM = (
    "The weights are random, so the basis vectors compute random features. With --weights imagenet they mean more."
)


def _resolve(recipe: BasisScaling) -> BasisScaling:
    """Raises UsageError where the bundle to begin with holds pairs already."""
    start = start_of(recipe)
    if start and start.manifest.spec.kind == "factored":
        raise UsageError(
            f"{start.path} holds pairs of convolutions already, of which basis scaling makes no better ones.",
            advice="Begin with the bundle that it was made from, or go on with another method.",
        )
    return inherit(recipe)


def _spec_of(recipe: BasisScaling, num_classes: int) -> BaseSpec:
    """The network that is begun with. Raises UsageError where it cannot lose as much as is asked."""
    start = start_of(recipe)
    spec = start.manifest.spec if start else source_spec(num_classes, recipe.backbone)
    assert not isinstance(spec, FactoredSpec | TorchvisionSpec)
    if recipe.sparsity != "auto":
        by = "basis scaling, which leaves each convolution a basis vector,"
        require_sparsity(recipe.sparsity, most_removed(spec), by)
    if recipe.then == "channel":
        whole = require_channels(spec, name_of(recipe))
        require_sparsity(recipe.then_sparsity or 0.0, most_slimmed(whole), "double pruning")
    return spec


def _freeze(recipe: BasisScaling, network: Network) -> None:
    """Of the network before its decomposition the classifier alone learns."""
    network.requires_grad_(False)
    network.fc.requires_grad_(True)


def _check(recipe: BasisScaling, network: Network, images: int) -> None:
    """Raise UsageError where a training has too few steps for its schedule."""
    for epochs in (recipe.training.epochs, recipe.epochs_per_prune):
        cycles(recipe.training.schedule, epochs * steps_of(images, recipe.training.batch_size))


def _make(recipe: BasisScaling, inputs: Inputs) -> CompressedNetwork:
    network, info = _begin(recipe, inputs)
    base = network.spec
    stages = _stages(recipe, inputs)
    found = Removals(recipe, network, stages).run()
    made = deliver(found.network)
    learned = sum(parameter.numel() for parameter in found.network.parameters() if parameter.requires_grad)
    photos = len(stages.judged_by) if stages.judged_by else 0
    start = start_of(recipe)
    doubts = doubts_of(start, recipe, inputs.dataset) if start else ()
    random = recipe.weights == RANDOM and start is None
    notes = [
        _note(recipe, found, made, cost(base, recipe.image_size).params),
        *notes_of(recipe, found.rows, found.rows[found.taken], photos),
        PATENT,
    ]
    drawing = draw_basis(found.rows, taken=found.taken)
    return CompressedNetwork(
        made,
        info,
        Trained(found.history, found.stage.precision, found.stage.device),
        notes=(*notes, *doubts, *([_RANDOM] if random else [])),
        files={BASIS: table_of(found.rows), **({BASIS_PLOT: drawing} if drawing else {})},
        earlier_s=found.later_s,
        learned=learned,
    )


def _begin(recipe: BasisScaling, inputs: Inputs) -> tuple[Network, WeightsInfo]:
    if start := start_of(recipe):
        return begin_with(start)
    spec = source_spec(len(inputs.dataset.labels), recipe.backbone)
    if isinstance(spec, ResNetSpec):
        return begin(recipe, spec, inputs, fill=partial(reuse, spec=spec, seed=recipe.seed))
    trunk, info = load_weights(
        recipe.weights, backbone=recipe.backbone, seed=recipe.seed, on_progress=inputs.run.on_progress
    )
    return begin_tailored(spec, trunk, seed=recipe.seed), info


def _stages(recipe: BasisScaling, inputs: Inputs) -> Stages:
    """Where there are photos that may decide, these are judged after each training."""
    val = inputs.dataset.val
    judged_by = Examples(val.images, val.labels) if val else None
    if recipe.sparsity == "auto":
        judged_by = validation_photos(inputs.dataset)
    return Stages(replace(inputs, run=replace(inputs.run, validation=None)), recipe.seed, judged_by)


def _note(recipe: BasisScaling, found: Found, made: Network, before: int) -> str:
    taken, spec = found.rows[found.taken], made.spec
    assert isinstance(found.network.spec, FactoredSpec)
    pairs = len(spec.ranks) if isinstance(spec, FactoredSpec) else 0
    channels = ", some with whole channels" if recipe.then == "channel" else ""
    nothing = f"{NOTHING_PRUNED}. " if recipe.sparsity == "auto" and not taken.removals else ""
    return (
        f"{nothing}Basis scaling of {name_of(recipe)}: {taken.bases:,} of {found.rows[0].bases:,} basis vectors "
        f"are left, in {pairs} of {len(convolutions(found.network.spec.base, 32))} convolutions as pairs, and "
        f"{taken.sparsity:.1%} of the {before:,} parameters are gone{channels}. Weights were not fine-tuned."
    )


BASIS_SCALING: Method[BasisScaling] = Method(_resolve, _spec_of, _freeze, _make, check=_check)
