"""OpenVINO and NNCF as libraries, and the settings of a session."""

import logging
import sys
from typing import Any

from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import MissingLibrary
from rrr_edge.timing.machine import threads_to_use
from rrr_edge.timing.progress import quiet

# What the layers that are not quantised run in; unset, OpenVINO chooses bf16 by itself where the CPU has it.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def settings(target: Target, *, profiled: bool = False) -> dict[str, Any]:
    """For one inference request in one stream: the latency of a single camera."""
    precision = target.precision
    if precision == "int8":
        precision = target.quantisation.float_precision if target.quantisation else "fp32"
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads_to_use(target.threads),
        # Pinned, two sessions of one thread each would share the first core, and threads wait for whatever else
        # runs on theirs. On a quiet machine of two cores both ways are equally fast.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERF_COUNT": profiled,
    }


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rstrip(".")


def load_openvino() -> Any:
    # Both OpenVINO and NNCF load Intel's telemetry when they are imported; where its import fails they do without.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary("openvino", extra="openvino", purpose="The openvino backend") from error
    return openvino


def load_nncf() -> Any:
    """NNCF, which tells of errors only."""
    # Where torch is installed NNCF loads it, and torch would report on a CUDA that nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with quiet():
            import nncf
    except ImportError as error:
        raise MissingLibrary("nncf", extra="quantize", purpose="INT8 for OpenVINO") from error
    nncf.set_log_level(logging.ERROR)
    return nncf
