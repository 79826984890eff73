"""ONNX Runtime: the portable backend, FP32 on the CPU; also the reference that exported graphs are checked against."""

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.backends.graph.parts import convolution_macs, part_of_node, product_macs
from rrr_edge.backends.protocols import Signature, require_not_older, require_ports
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.external_data import require_no_other_files
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.reference import Images, Outputs, in_batches
from rrr_edge.bundle.spec import PARTS, Part
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, MissingLibrary, is_lack_of_memory
from rrr_edge.timing.machine import threads_to_use
from rrr_edge.timing.progress import OnProgress

GRAPH = "model.onnx"
_LAYER, _RUN = "_kernel_time", "model_run"
_CONVOLUTIONS = ("Conv", "FusedConv")
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm")
_TYPES = {"tensor(float)": "fp32", "tensor(float16)": "fp16", "tensor(bfloat16)": "bf16"}


class ONNXRuntime:
    files = (GRAPH,)
    caches = False

    def preparation(self, target: Target) -> None:
        """It takes the bundle's own graph."""

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

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        require_not_older(engine, self.versions(), repair=repair)

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        shutil.copyfile(model, out / GRAPH)

    def open(self, folder: Path, target: Target) -> "ONNXRuntimeSession":
        return ONNXRuntimeSession(folder / GRAPH, threads=target.threads)

    def open_profiled(self, folder: Path, target: Target) -> "ONNXRuntimeSession":
        return ONNXRuntimeSession(folder / GRAPH, threads=target.threads, profiled=True)


class ONNXRuntimeSession:
    images_computed = 1

    def __init__(self, model: Path, *, threads: int = 0, profiled: bool = False) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads_to_use(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle workers that spin would disturb whatever else the app, or a measurement beside this one, computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._until_closed = ExitStack()
        if profiled:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._until_closed.enter_context(scratch_folder()) / "layers")
        require_no_other_files(model)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if is_lack_of_memory(error):
                raise
            raise CorruptArtifact(f"ONNX Runtime {onnxruntime.__version__} cannot load {model}: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        require_ports(model, [port.name for port in inputs], [port.name for port in outputs])
        shapes = (port.shape for port in (*inputs, *outputs))
        self.signature = Signature(*(tuple(s if isinstance(s, int) else None for s in shape) for shape in shapes))
        self._precision = _TYPES.get(outputs[0].type, outputs[0].type)

    def run(self, images: Images) -> Outputs:
        if self._session is None:
            raise RuntimeError("the session is closed")
        return Outputs(*self._session.run(None, {"images": np.ascontiguousarray(images)}))

    def precision_found(self) -> dict[str, float]:
        """The CPU provider computes in the graph's own type, and `compile` copies an FP32 graph."""
        return {self._precision: 1.0}

    def layers(self) -> tuple[LayerTime, ...]:
        totals: dict[str, LayerTime] = {}
        runs, part = 0, PARTS[0]
        with open(self._session.end_profiling(), encoding="utf-8") as log:
            for line in log:
                event = json.loads(line.strip("[],\n") or "{}")
                runs += event.get("name") == _RUN
                if str(event.get("name")).endswith(_LAYER):
                    layer = _layer(event, part)
                    part, before = layer.part, totals.get(layer.name)
                    ms = layer.ms + (before.ms if before else 0.0)
                    totals[layer.name] = layer.model_copy(update={"ms": ms})
        return tuple(layer.model_copy(update={"ms": layer.ms / runs}) for layer in totals.values() if layer.ms)

    def close(self) -> None:
        self._session = None  # it still writes its log when it goes
        self._until_closed.close()


def _layer(event: dict[str, Any], before: Part) -> LayerTime:
    """One event of the profiler's log, whose times are in microseconds."""
    name, about = event["name"].removesuffix(_LAYER), event["args"]
    (kind, output), *_ = about["output_type_shape"][0].items()
    inputs = [next(iter(shape.values())) for shape in about["input_type_shape"]]
    macs = 0
    if about["op_name"] in _CONVOLUTIONS:
        macs = convolution_macs(output, inputs[1])
    elif about["op_name"] in _PRODUCTS:
        macs = product_macs(output, inputs[0])
    return LayerTime(
        name=name,
        kind=about["op_name"],
        part=part_of_node(name, before),
        precision=_TYPES.get(f"tensor({kind})", kind),
        ms=event["dur"] / 1000,
        macs=macs,
    )


def run_model(model: Path, images: Images) -> Outputs:
    """Answer `images` in batches of 32 with the graph in the file `model`."""
    return in_batches(ONNXRuntimeSession(model).run, images, 32)


def _onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingLibrary("onnxruntime", extra="onnxruntime", purpose="The onnxruntime backend") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
