"""The time and the memory that a compression would take, from two steps of its training that are tried."""

import math
import resource
import time

import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Recipe, Schedule, Selection, Training
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import SMALLEST_DEPTHS
from rrr_edge.images.dataset import Dataset
from rrr_edge.networks import Network, ResNet
from rrr_edge.training import CrossEntropy, Examples, Run, minimise, train

# A kept view of an image has 512 numbers of 16 bits for each 8x8 pixels of it.
_VIEW_BYTES = 2 * 512 / 64


class Estimate(Record):
    """`seconds` of all trainings, at most where a search may end earlier, and the most memory, `gpu_bytes` of a GPU's.

    What the teacher of a tailoring costs beside its student is left out, and so are reading, judging and exporting.
    """

    seconds: float
    memory_bytes: int
    gpu_bytes: int | None = None

    @property
    def words(self) -> str:
        gpu = f" and {self.gpu_bytes / 1e9:.1f} GB of the GPU's" if self.gpu_bytes else ""
        return f"about {_duration(self.seconds)} and {self.memory_bytes / 1e9:.1f} GB of memory{gpu}"


def estimate_of(recipe: Recipe, network: Network, dataset: Dataset, run: Run) -> Estimate:
    """Train `network`, frozen as it will be and in whatever state, for two steps on as many photos as a batch has.

    The second step tells the time. Raises what a training raises; where one step runs out of memory, all would.
    """
    own = recipe.training
    count = min(own.batch_size, len(dataset.train.labels))
    examples = Examples(dataset.train.images[:count], dataset.train.labels[:count])
    # Not the recipe's own class: every training has these fields.
    tried = Training(**own.model_dump() | _TRIED | {"feature_views": min(1, own.feature_views)})
    begin, preprocess = time.perf_counter(), Preprocess.of(recipe)
    if isinstance(network, ResNet):
        trained = train(network, examples, training=tried, preprocess=preprocess, run=run)
    else:
        trained = minimise(CrossEntropy(network), examples, training=tried, preprocess=preprocess, run=run)
    once_s = time.perf_counter() - begin - sum(row.seconds for row in trained.history)
    passes = len(dataset.train.labels) / count
    seconds = passes * (_epochs_of(recipe) * trained.history[-1].seconds + own.feature_views * once_s)
    views = own.feature_views * len(dataset.train.labels) * recipe.image_size**2 * _VIEW_BYTES
    return Estimate(
        seconds=round(seconds, 1),
        memory_bytes=round(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + views),
        gpu_bytes=torch.cuda.max_memory_allocated() if trained.device == "cuda" else None,
    )


_TRIED = {
    "epochs": 2,
    "ema_fraction": 0.0,
    "keep": "last",
    "patience_epochs": None,
    "balance": False,
    "schedule": Schedule(),
}


def _epochs_of(recipe: Recipe) -> int:
    """Of all trainings, at most."""
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
        gone = 0.9 if recipe.sparsity == "auto" else recipe.sparsity
        return epochs + math.ceil(math.log(1 - gone) / math.log(1 - recipe.prune_share)) * recipe.epochs_per_prune
    return epochs


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
