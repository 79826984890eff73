"""Compress a ResNet152 for a small task, compile it for the box it must run on, and measure what was gained."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrr_edge.bundle.folder import Bundle as Bundle
    from rrr_edge.bundle.target import Target as Target
    from rrr_edge.errors import RRREdgeError as RRREdgeError
    from rrr_edge.runtime.classifier import Classifier as Classifier
    from rrr_edge.runtime.classifier import Prediction as Prediction

__version__ = "0.1.0"

# ONNX Runtime and the libraries that import it write a device's id into the home and call their maker as soon as they
# are imported, unless they find these.
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

_HOME = {
    "Bundle": "rrr_edge.bundle.folder",
    "Classifier": "rrr_edge.runtime.classifier",
    "Prediction": "rrr_edge.runtime.classifier",
    "RRREdgeError": "rrr_edge.errors",
    "Target": "rrr_edge.bundle.target",
}
__all__ = ["Bundle", "Classifier", "Prediction", "RRREdgeError", "Target", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rrr_edge' has no attribute {name!r}")
