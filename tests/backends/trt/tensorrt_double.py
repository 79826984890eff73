"""Doubles of tensorrt and of CUDA's runtime that really answer: the engine is ONNX Runtime on the "device's" memory.

They have only names that the real modules have, with the same parameters; test_tensorrt_api.py holds that.
"""

import ctypes
import enum
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from rrr_edge.backends.onnxruntime import ONNXRuntimeSession

GPU = ("NVIDIA GeForce RTX 4090", 8, 9)


@dataclass
class Script:
    """What the doubles do, and what they were asked."""

    version: str = "11.4.0.106"
    gpu: tuple[str, int, int] = GPU
    driver: int = 13020
    precision: str = "Float"
    parser_errors: tuple[tuple[str, str, str], ...] = ()
    build_fails: str = ""
    load_fails: str = ""
    context_fails: str = ""
    invalid: int = 0
    cuda_fails: dict[str, str] = field(default_factory=dict)
    on_step: Callable[[], None] = lambda: None
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    live: dict[int, Any] = field(default_factory=dict)
    captured: int = 0

    def did(self, what: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.asked if entry[0] == what]


def make_tensorrt(script: Script) -> Any:
    """A module like `tensorrt`, which does as `script` says."""

    class ILogger:
        class Severity(enum.Enum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IProgressMonitor:
        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...
        def step_complete(self, phase_name: str, step: int) -> bool: ...
        def phase_finish(self, phase_name: str) -> None: ...

    class IProfiler:
        def report_layer_time(self, layer_name: str, ms: float) -> None: ...

    enums = {
        "DataType": "FLOAT HALF BF16 INT8 UINT8",
        "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED NONE",
        "HardwareCompatibilityLevel": "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY",
        "BuilderFlag": "TF32 VERSION_COMPATIBLE",
        "MemoryPoolType": "WORKSPACE",
        "TensorIOMode": "NONE INPUT OUTPUT",
        "LayerInformationFormat": "ONELINE JSON",
    }
    made = {name: enum.Enum(name, words) for name, words in enums.items()}
    onnx_types = {1: made["DataType"].FLOAT, 2: made["DataType"].UINT8, 10: made["DataType"].HALF}

    class ParserError:
        def __init__(self, told: tuple[str, str, str]) -> None:
            self._told = told

        def node(self) -> int:
            return 7

        def node_name(self) -> str:
            return self._told[0]

        def node_operator(self) -> str:
            return self._told[1]

        def desc(self) -> str:
            return self._told[2]

    class ITensor:
        def __init__(self, name: str, shape: tuple[int, ...]) -> None:
            self._name, self._shape = name, shape

        @property
        def name(self) -> str:
            return self._name

        @property
        def shape(self) -> tuple[int, ...]:
            return self._shape

    class INetworkDefinition:
        _model = b""

        def get_input(self, index: int) -> ITensor:
            import onnx

            value = onnx.load_from_string(self._model).graph.input[index]
            shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
            return ITensor(value.name, shape)

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network = network

        @property
        def num_errors(self) -> int:
            return len(script.parser_errors)

        def get_error(self, index: int) -> ParserError:
            return ParserError(script.parser_errors[index])

        def parse_from_file(self, model: str) -> bool:
            self._network._model = Path(model).read_bytes()
            return not script.parser_errors

    class IOptimizationProfile:
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes = [list(min), list(opt), list(max)]
            script.asked.append(("set_shape", input, min, opt, max))

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b"timed"

    class IBuilderConfig:
        _profile: Any
        _level = "NONE"

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)
            script.asked.append((name, value))

        def set_flag(self, flag: Any) -> None:
            script.asked.append(("set_flag", flag.name))

        def clear_flag(self, flag: Any) -> None:
            script.asked.append(("clear_flag", flag.name))

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            script.asked.append(("set_memory_pool_limit", pool.name, pool_size))

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profile = profile
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            script.asked.append(("create_timing_cache", serialized_timing_cache))
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return b"other" not in cache._content

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: Any) -> bytes | None:
            monitor = config.progress_monitor
            monitor.phase_start("Building", "", 4)
            for step in range(4):
                monitor.phase_start("Tactics", "Building", 5)
                for inner in range(5):
                    with suppress(BaseException):  # what Python raises does not come back through C++
                        script.on_step()
                    if not monitor.step_complete("Tactics", inner):
                        return None
                monitor.phase_finish("Tactics")
                monitor.step_complete("Building", step)
            monitor.phase_finish("Building")
            if script.build_fails:
                self._logger.log(ILogger.Severity.WARNING, "a warning that explains nothing")
                self._logger.log(ILogger.Severity.ERROR, script.build_fails)
                return None
            level = config.hardware_compatibility_level.name
            head = json.dumps({"level": level, "shapes": config._profile._shapes})
            return head.encode() + b"\n" + network._model

    class EngineInspector:
        execution_context: Any = None

        def __init__(self, names: list[str]) -> None:
            self._names = names

        def get_engine_information(self, format: Any) -> str:
            assert format is made["LayerInformationFormat"].JSON
            assert self.execution_context is not None
            return json.dumps({"Layers": [inspected(name, script.precision) for name in self._names]})

    class IExecutionContext:
        profiler: Any = None

        def __init__(self, engine: Any) -> None:
            self._engine = engine
            self._shape: tuple[int, ...] = ()
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert self._engine.get_tensor_mode(name) is made["TensorIOMode"].INPUT
            self._shape = shape
            smallest, _, largest = self._engine._shapes
            return smallest[0] <= shape[0] <= largest[0]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            dims = self._engine._tensors[name][1]
            return (self._shape[0], *dims[1:])

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            script.live[stream_handle].put(self._execute)
            return True

        def _execute(self) -> None:
            images = _view(self._addresses[self._engine._input], self._shape, np.uint8)
            for name, answer in self._engine._onnxruntime.run(images)._asdict().items():
                _view(self._addresses[name], answer.shape, np.float32)[:] = answer
            if self.profiler is not None:
                for name in self._engine._layers:
                    self.profiler.report_layer_time(name, 0.25)

    class ICudaEngine:
        def __init__(self, plan: bytes) -> None:
            import onnx

            head, _, self._model = plan.partition(b"\n")
            told = json.loads(head)
            self._shapes = told["shapes"]
            self._level = made["HardwareCompatibilityLevel"][told["level"]]
            graph = onnx.load_from_string(self._model).graph
            self._input = graph.input[0].name
            self._tensors = {
                value.name: (
                    onnx_types[value.type.tensor_type.elem_type],
                    tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
                )
                for value in (*graph.input, *graph.output)
            }
            with TemporaryDirectory() as folder:
                model = Path(folder) / "model.onnx"
                model.write_bytes(self._model)
                self._onnxruntime = ONNXRuntimeSession(model, threads=1)
            self._layers = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "Relu")]

        @property
        def hardware_compatibility_level(self) -> Any:
            return self._level

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return self._tensors[name][0]

        def get_tensor_mode(self, name: str) -> Any:
            return made["TensorIOMode"].INPUT if name == self._input else made["TensorIOMode"].OUTPUT

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            return list(self._shapes)

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
            script.asked.append(("create_execution_context",))
            return None if script.context_fails else IExecutionContext(self)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self._layers)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)
            script.asked.append((name, value))

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            script.asked.append(("deserialize_cuda_engine",))
            if script.load_fails:
                self._logger.log(ILogger.Severity.ERROR, script.load_fails)
                return None
            return ICudaEngine(serialized_engine)

    classes = (ILogger, IProgressMonitor, IProfiler, ParserError, ITensor, INetworkDefinition, OnnxParser)
    classes += (IOptimizationProfile, ITimingCache, IBuilderConfig, Builder, EngineInspector, IExecutionContext)
    classes += (ICudaEngine, Runtime)
    return SimpleNamespace(__version__=script.version, **{c.__name__: c for c in classes}, **made)


def inspected(name: str, precision: str) -> dict[str, Any]:
    """A layer as TensorRT 11's inspector tells it."""
    tensor = {"Name": "t", "Dimensions": [1], "Format": "Row major linear format", "Datatype": precision}
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "Weights": {"Type": precision, "Count": 9},
        "Metadata": f"[ONNX Layer: {name}]",
    }


def _view(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_byte * size).from_address(address)).view(dtype).reshape(shape)


class Stream:
    """Work is done at once, or kept while the stream is captured."""

    def __init__(self) -> None:
        self.capturing: list[Callable[[], None]] | None = None

    def put(self, work: Callable[[], None]) -> None:
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)


def make_cudart(script: Script) -> Any:
    """A module like `cuda.bindings.runtime` on the host's memory; what is not freed stays in `script.live`."""
    from cuda.bindings import runtime

    good = runtime.cudaError_t.cudaSuccess

    def hold(thing: Any) -> int:
        handle = ctypes.addressof(thing) if isinstance(thing, ctypes.Array) else id(thing)
        script.live[handle] = thing
        return handle

    def cudaGetDeviceCount() -> Any:
        return good, 1

    def cudaGetDeviceProperties(device: Any) -> Any:
        name, major, minor = script.gpu
        return good, SimpleNamespace(name=name.encode(), major=major, minor=minor)

    def cudaDriverGetVersion() -> Any:
        return good, script.driver

    def cudaMalloc(size: Any) -> Any:
        return good, hold((ctypes.c_byte * size)())

    def cudaHostAlloc(size: Any, flags: Any) -> Any:
        return good, hold((ctypes.c_byte * size)())

    def cudaFree(devPtr: Any) -> Any:
        del script.live[devPtr]
        return (good,)

    def cudaFreeHost(ptr: Any) -> Any:
        del script.live[ptr]
        return (good,)

    def cudaMemcpyAsync(dst: Any, src: Any, count: Any, kind: Any, stream: Any) -> Any:
        assert kind is not runtime.cudaMemcpyKind.cudaMemcpyDefault
        script.live[stream].put(lambda: ctypes.memmove(dst, src, count))
        return (good,)

    def cudaStreamCreateWithFlags(flags: Any) -> Any:
        return good, hold(Stream())

    def cudaStreamSynchronize(stream: Any) -> Any:
        assert script.live[stream].capturing is None, "a stream must not be waited for while it is captured"
        return (good,)

    def cudaStreamBeginCapture(stream: Any, mode: Any) -> Any:
        script.live[stream].capturing = []
        return (good,)

    def cudaStreamEndCapture(stream: Any) -> Any:
        graph, script.live[stream].capturing = script.live[stream].capturing, None
        script.captured += 1
        return good, hold(graph)

    def cudaGraphInstantiate(graph: Any, flags: Any) -> Any:
        return good, hold(list(script.live[graph]))

    def cudaGraphLaunch(graphExec: Any, stream: Any) -> Any:
        script.asked.append(("cudaGraphLaunch", len(script.live[graphExec])))
        for work in script.live[graphExec]:
            script.live[stream].put(work)
        return (good,)

    def cudaEventCreate() -> Any:
        return good, hold(["event"])

    def cudaEventRecord(event: Any, stream: Any) -> Any:
        return (good,)

    def cudaEventElapsedTime(start: Any, end: Any) -> Any:
        assert {start, end} <= set(script.live)
        return good, 1.5

    def destroy(handle: Any) -> Any:
        del script.live[handle]
        return (good,)

    def cudaGraphDestroy(graph: Any) -> Any:
        return destroy(graph)

    def cudaGraphExecDestroy(graphExec: Any) -> Any:
        return destroy(graphExec)

    def cudaEventDestroy(event: Any) -> Any:
        return destroy(event)

    def cudaStreamDestroy(stream: Any) -> Any:
        return destroy(stream)

    functions = {name: value for name, value in locals().items() if name.startswith("cuda")}
    for name, failure in script.cuda_fails.items():
        functions[name] = _failing(functions[name], getattr(runtime.cudaError_t, failure))
    names = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaHostAllocDefault", "cudaStreamNonBlocking")
    return SimpleNamespace(**functions, **{name: getattr(runtime, name) for name in names})


def _failing(function: Callable[..., Any], error: Any) -> Callable[..., Any]:
    return lambda *arguments: (error, None)
