"""The training loop, its objectives, and the evaluation of networks."""

from rrr_edge.training.batches import Examples
from rrr_edge.training.branches import reestimate_stump, require_branches
from rrr_edge.training.evaluate import predict
from rrr_edge.training.loop import minimise, train
from rrr_edge.training.objective import CrossEntropy
from rrr_edge.training.run import Device, Run, Trained, open_fabric, require_device, without_overruns

__all__ = [
    "CrossEntropy",
    "Device",
    "Examples",
    "Run",
    "Trained",
    "minimise",
    "open_fabric",
    "predict",
    "reestimate_stump",
    "require_branches",
    "require_device",
    "train",
    "without_overruns",
]
