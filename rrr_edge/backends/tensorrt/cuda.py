"""CUDA memory, streams, events and graphs for an engine. Status codes become errors."""

import ctypes
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rrr_edge.errors import CannotRunHere, MissingLibrary

_MEANING = {
    "cudaErrorNoDevice": "this machine shows no NVIDIA GPU",
    "cudaErrorInsufficientDriver": "this machine has no NVIDIA driver, or one that is too old",
}
_ADVICE = {
    "cudaErrorNoDevice": "An NVIDIA GPU is needed; nvidia-smi lists those that the driver sees.",
    "cudaErrorInsufficientDriver": "Install or update the NVIDIA driver: CUDA 13 needs 580 or newer.",
    "cudaErrorMemoryAllocation": "Free memory on the GPU (nvidia-smi shows who holds it), or lower `max_batch`.",
}


class GPU(NamedTuple):
    """`driver` is the newest CUDA version that the driver runs."""

    name: str
    compute_capability: str
    driver: str
    os: str


def cuda(extra: str = "tensorrt") -> Any:
    """NVIDIA's Python bindings of the CUDA runtime. Raises MissingLibrary, which names the `extra` to install."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingLibrary("cuda-bindings", extra=extra, purpose=f"The {extra} backend") from error
    return runtime


def done(answer: tuple[Any, ...]) -> Any:
    """What a call answered beside its status. Raises CannotRunHere, with CUDA's own name of the failure."""
    status, *values = answer
    if status.value:
        meaning = f" ({_MEANING[status.name]})" if status.name in _MEANING else ""
        raise CannotRunHere(f"CUDA failed: {status.name}{meaning}.", advice=_ADVICE.get(status.name, ""))
    return values[0] if values else None


def this_gpu(cudart: Any) -> GPU:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves. Raises CannotRunHere where there is none."""
    done(cudart.cudaGetDeviceCount())
    properties = done(cudart.cudaGetDeviceProperties(0))
    driver = done(cudart.cudaDriverGetVersion())
    return GPU(
        name=properties.name.decode(),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver=f"{driver // 1000}.{driver % 1000 // 10}",
        os=f"{platform.system()} {platform.machine()}",
    )


class Buffer:
    """One tensor twice: pinned on the host, where `array` shows it, and on the device at `address`."""

    def __init__(self, cudart: Any, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._cudart = cudart
        self._row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        size = shape[0] * self._row_bytes
        self._host = done(cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault))
        try:
            self.address: int = done(cudart.cudaMalloc(size))
        except CannotRunHere:
            done(cudart.cudaFreeHost(self._host))
            raise
        memory = (ctypes.c_byte * size).from_address(self._host)
        self.array: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def upload(self, rows: int, stream: Any) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        done(self._cudart.cudaMemcpyAsync(self.address, self._host, rows * self._row_bytes, kind, stream))

    def download(self, rows: int, stream: Any) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        done(self._cudart.cudaMemcpyAsync(self._host, self.address, rows * self._row_bytes, kind, stream))

    def free(self) -> None:
        done(self._cudart.cudaFree(self.address))
        done(self._cudart.cudaFreeHost(self._host))


class Stream:
    """A stream with two events around what runs on it."""

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self.handle = done(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self._start, self._end = done(cudart.cudaEventCreate()), done(cudart.cudaEventCreate())

    def capture(self, work: Callable[[], None]) -> Any:
        """The graph of what `work` puts on the stream, ready to be launched."""
        cudart = self._cudart
        done(cudart.cudaStreamBeginCapture(self.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        try:
            work()
        except BaseException:
            cudart.cudaStreamEndCapture(self.handle)
            raise
        graph = done(cudart.cudaStreamEndCapture(self.handle))
        try:
            return done(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            done(cudart.cudaGraphDestroy(graph))

    def launch(self, graph: Any) -> None:
        done(self._cudart.cudaGraphLaunch(graph, self.handle))

    def time_ms(self, work: Callable[[], None]) -> float:
        """Run what `work` puts on the stream to its end; returns the time that it took on the device."""
        done(self._cudart.cudaEventRecord(self._start, self.handle))
        work()
        done(self._cudart.cudaEventRecord(self._end, self.handle))
        self.wait()
        return float(done(self._cudart.cudaEventElapsedTime(self._start, self._end)))

    def wait(self) -> None:
        done(self._cudart.cudaStreamSynchronize(self.handle))

    def forget(self, graph: Any) -> None:
        done(self._cudart.cudaGraphExecDestroy(graph))

    def free(self) -> None:
        for event in (self._start, self._end):
            done(self._cudart.cudaEventDestroy(event))
        done(self._cudart.cudaStreamDestroy(self.handle))
