"""ONNX Runtime: the portable backend, FP32 on the CPU; also the witness that judges every exported graph."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.backends.protocols import Images, Outputs
from rrr_edge.errors import CannotRunHere, CorruptArtifact, MissingLibrary
from rrr_edge.machine import usable_cores
from rrr_edge.progress import Report
from rrr_edge.target import Target

GRAPH = "model.onnx"
_TYPES = {"tensor(float)": "fp32", "tensor(float16)": "fp16", "tensor(bfloat16)": "bf16"}


class ONNXRuntime:
    def versions(self) -> dict[str, str]:
        return {"onnxruntime": _onnxruntime().__version__}

    def check(self, target: Target) -> None:
        _onnxruntime()
        if target.precision != "fp32":
            raise CannotRunHere(
                f"The onnxruntime backend runs fp32; {target.precision} was asked.",
                advice="Use --precision fp32, or --target openvino for int8 and bf16.",
            )
        if target.device != "CPU":
            raise CannotRunHere(
                f"The onnxruntime backend runs on the CPU; the target {target.name!r} asks {target.device!r}."
            )

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, report: Report) -> None:
        shutil.copyfile(model, out / GRAPH)

    def open(self, folder: Path, target: Target) -> "ONNXRuntimeSession":
        return ONNXRuntimeSession(folder / GRAPH, threads=target.threads)


class ONNXRuntimeSession:
    def __init__(self, model: Path, *, threads: int = 0) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle workers that spin would disturb whatever else the app, or a measurement beside this one, computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CorruptArtifact(f"ONNX Runtime {onnxruntime.__version__} cannot load {model}: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._precision = _TYPES[self._session.get_outputs()[0].type]

    def run(self, images: Images) -> Outputs:
        return Outputs(*self._session.run(None, {self._input: np.ascontiguousarray(images)}))

    def precision_found(self) -> dict[str, float]:
        """The CPU provider computes in the graph's own type, and `compile` copies an FP32 graph."""
        return {self._precision: 1.0}

    def close(self) -> None:
        self.__dict__.clear()


def run_model(model: Path, images: Images) -> Outputs:
    """Answer `images` in batches of 32 with the graph in the file `model`."""
    session = ONNXRuntimeSession(model)
    parts = [session.run(images[start : start + 32]) for start in range(0, len(images), 32)]
    return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingLibrary("onnxruntime", extra="onnxruntime", purpose="The onnxruntime backend") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
