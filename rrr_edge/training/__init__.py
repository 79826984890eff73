"""The one training loop and the judge of what it made."""

from rrr_edge.training.batches import Examples
from rrr_edge.training.evaluate import accuracy, predict
from rrr_edge.training.loop import Device, Run, Trained, check_device, check_training, reestimate_stump, train

__all__ = [
    "Device",
    "Examples",
    "Run",
    "Trained",
    "accuracy",
    "check_device",
    "check_training",
    "predict",
    "reestimate_stump",
    "train",
]
