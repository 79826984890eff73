"""The time and the memory that a compression would take, from two steps of its training that are tried."""

import resource
import time

import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Recipe, Schedule, Selection, Training
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, FactoredSpec, NetworkSpec, TorchvisionSpec
from rrr_edge.compress.basis.decompose import decompose, let_learn
from rrr_edge.compress.basis.removals import trainings_of
from rrr_edge.images.dataset import Dataset
from rrr_edge.networks import Network, ResNet
from rrr_edge.training import CrossEntropy, Examples, Run, minimise, train

# A kept view of an image has 512 numbers of 16 bits for each 8x8 pixels of it.
_VIEW_BYTES = 2 * 512 / 64


class Estimate(Record):
    """`seconds` of all trainings, of the longest way where it `may_end_earlier`, and the most memory, `gpu_bytes` of a
    GPU's.

    What the teacher of a tailoring costs beside its student is left out, and so are reading, judging and exporting.
    """

    seconds: float
    memory_bytes: int
    gpu_bytes: int | None = None
    may_end_earlier: bool = False

    @property
    def words(self) -> str:
        gpu = f" and {self.gpu_bytes / 1e9:.1f} GB of the GPU's" if self.gpu_bytes else ""
        most = "at most " if self.may_end_earlier else ""
        return f"{most}about {_duration(self.seconds)} of training and {self.memory_bytes / 1e9:.1f} GB of memory{gpu}"


def estimate_of(recipe: Recipe, network: Network, dataset: Dataset, run: Run) -> Estimate | None:
    """Train `network`, frozen as it will be and in whatever state, for two steps on as many photos as a batch has.

    The second step tells the time. None where nothing is to be learned. Raises what a training raises; where one step
    runs out of memory, all would.
    """
    epochs, own = epochs_of(recipe, network.spec), recipe.training
    if not epochs:
        return None
    count = min(own.batch_size, len(dataset.train.labels))
    examples = Examples(dataset.train.images[:count], dataset.train.labels[:count])
    # Not the recipe's own class: every training has these fields.
    tried = Training(**own.model_dump() | _TRIED | {"feature_views": min(1, own.feature_views)})
    if isinstance(recipe, BasisScaling):
        decompose(network)
        let_learn(network, recipe.importance)
    begin, preprocess = time.perf_counter(), Preprocess.of(recipe)
    if isinstance(network, ResNet) and not isinstance(network.spec, FactoredSpec):
        trained = train(network, examples, training=tried, preprocess=preprocess, run=run)
    else:
        trained = minimise(CrossEntropy(network), examples, training=tried, preprocess=preprocess, run=run)
    once_s = time.perf_counter() - begin - sum(row.seconds for row in trained.history)
    passes = len(dataset.train.labels) / count
    seconds = passes * (epochs * trained.history[-1].seconds + own.feature_views * once_s)
    views = own.feature_views * len(dataset.train.labels) * recipe.image_size**2 * _VIEW_BYTES
    return Estimate(
        seconds=round(seconds, 1),
        memory_bytes=round(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + views),
        gpu_bytes=torch.cuda.max_memory_allocated() if trained.device == "cuda" else None,
        may_end_earlier=_may_end_earlier(recipe),
    )


_TRIED = {
    "epochs": 2,
    "ema_fraction": 0.0,
    "keep": "last",
    "patience_epochs": None,
    "balance": False,
    "schedule": Schedule(),
}


def _may_end_earlier(recipe: Recipe) -> bool:
    """Whether photos that are held out decide how long it goes on."""
    if isinstance(recipe, RRR) and recipe.selection and recipe.selection.stop:
        return True
    return (
        bool(recipe.training.patience_epochs)
        or (isinstance(recipe, NetTailor) and recipe.drop_blocks == "auto")
        or (isinstance(recipe, BasisScaling) and recipe.sparsity == "auto")
    )


def epochs_of(recipe: Recipe, spec: NetworkSpec) -> int:
    """Of all trainings, at most; `spec` is what is begun with."""
    epochs = recipe.training.epochs
    if isinstance(recipe, RRR) and recipe.depths == "auto":
        selection = recipe.selection or Selection()
        additions = min(selection.max_additions, sum(SOURCES[recipe.backbone].depths) - sum(SMALLEST_DEPTHS))
        return epochs + (1 + additions) * (selection.epochs_per_step or epochs) * (1 + selection.control)
    if isinstance(recipe, NetTailor):
        tunings = 1 + sum(SOURCES[recipe.backbone].depths) if recipe.drop_blocks == "auto" else 1
        taught = 0 if recipe.teacher else recipe.teacher_epochs or epochs
        return taught + epochs + tunings * (recipe.tune_epochs or epochs)
    if isinstance(recipe, BasisScaling):
        assert not isinstance(spec, FactoredSpec | TorchvisionSpec)
        return epochs + trainings_of(recipe, spec) * recipe.epochs_per_prune
    return epochs


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
