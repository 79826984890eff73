"""The one training loop and the judge of what it made."""

from rrr_edge.training.batches import Examples
from rrr_edge.training.evaluate import accuracy, predict
from rrr_edge.training.loop import Device, Run, Trained, reestimate_stump, require_device, require_training, train

__all__ = [
    "Device",
    "Examples",
    "Run",
    "Trained",
    "accuracy",
    "predict",
    "reestimate_stump",
    "require_device",
    "require_training",
    "train",
]
