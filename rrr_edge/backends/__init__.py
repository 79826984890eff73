"""The backends by the name that a target gives. Vendor libraries are imported when one is used, not before."""

from rrr_edge.backends.onnxruntime import ONNXRuntime
from rrr_edge.backends.openvino import OpenVINO
from rrr_edge.backends.protocols import Backend, DeviceTimed, ProfiledSession, Session
from rrr_edge.backends.tensorrt import TensorRT
from rrr_edge.backends.tensorrt_rtx import TensorRTRTX
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere

BACKENDS: dict[str, Backend] = {
    "openvino": OpenVINO(),
    "onnxruntime": ONNXRuntime(),
    "tensorrt": TensorRT(),
    "tensorrt-rtx": TensorRTRTX(),
}

__all__ = ["BACKENDS", "Backend", "DeviceTimed", "Images", "Outputs", "ProfiledSession", "Session", "backend_of"]


def backend_of(target: Target) -> Backend:
    """Raises CannotRunHere where this version has no such backend."""
    if target.backend not in BACKENDS:
        raise CannotRunHere(
            f"This version of rrr-edge has no {target.backend} backend, which the target {target.name!r} needs.",
            advice=f"Backends here: {', '.join(sorted(BACKENDS))}.",
        )
    return BACKENDS[target.backend]
