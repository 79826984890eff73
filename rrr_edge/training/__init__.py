"""The one training loop and the judge of what it made."""

from rrr_edge.training.batches import Examples
from rrr_edge.training.evaluate import accuracy, predict
from rrr_edge.training.loop import Run, Trained, reestimate_stump, train

__all__ = ["Examples", "Run", "Trained", "accuracy", "predict", "reestimate_stump", "train"]
