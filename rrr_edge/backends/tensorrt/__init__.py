"""TensorRT 11: engines for the NVIDIA GPU at hand, from graphs that prescribe their own precision."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import GPUModel, Preparation
from rrr_edge.backends.tensorrt.build import build
from rrr_edge.backends.tensorrt.configure import Configuration, TensorRTLoading
from rrr_edge.backends.tensorrt.cuda import cuda, this_gpu
from rrr_edge.backends.tensorrt.layers import Products
from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.backends.tensorrt.loadable import require_fit, require_gpu
from rrr_edge.backends.tensorrt.run import ENGINE_FILE, PRODUCTS_FILE, TensorRTSession
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import scratch_folder, write_file
from rrr_edge.bundle.folder import PREPARED, timing_cache
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import CannotRunHere, MissingLibrary, pip_install
from rrr_edge.timing.progress import OnProgress

_OLDEST = 11
# The oldest compute capability that TensorRT 11 knows, and those that the smaller types need.
_NEEDED: dict[Precision, float] = {"fp32": 7.5, "fp16": 7.5, "int8": 7.5, "bf16": 8.0, "fp8": 8.9}


def find_libraries() -> Libraries:
    """Raises MissingLibrary."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: the bindings are there, the libraries that they load are not
        raise MissingLibrary("TensorRT", extra="tensorrt", purpose="The tensorrt backend") from error
    return Libraries(tensorrt, cuda())


@dataclass(frozen=True)
class TensorRT:
    files: ClassVar[tuple[str, ...]] = (ENGINE_FILE, PRODUCTS_FILE)
    caches: ClassVar[bool] = False
    libraries: Callable[[], Libraries] = find_libraries

    def preparation(self, target: Target) -> Preparation:
        return Preparation(target.precision)

    def versions(self) -> dict[str, str]:
        """Also of the GPU, its driver and the system: an engine is made for all of them."""
        libraries = self.libraries()
        gpu = this_gpu(libraries.cudart)
        return {
            "tensorrt": libraries.trt.__version__,
            "cuda-bindings": metadata.version("cuda-bindings"),
            "gpu": gpu.name,
            "compute capability": gpu.compute_capability,
            "cuda driver": gpu.driver,
            "os": gpu.os,
        }

    def check(self, target: Target) -> None:
        trt, cudart, _ = self.libraries()
        if int(trt.__version__.split(".")[0]) < _OLDEST:
            raise CannotRunHere(
                f"The tensorrt backend needs TensorRT {_OLDEST} or newer; this is {trt.__version__}.",
                advice=f"Run: {pip_install('tensorrt', upgrade=True)}",
            )
        if target.device != "GPU":
            raise CannotRunHere(
                f"The tensorrt backend runs on device 'GPU'; the target {target.name!r} asks {target.device!r}.",
                advice="Choose one of several GPUs with CUDA_VISIBLE_DEVICES.",
            )
        gpu = this_gpu(cudart)
        if target.gpu.lower() not in gpu.name.lower() and target.portability in ("none", "version"):
            raise CannotRunHere(f"The target {target.name!r} is a {target.gpu!r} GPU; this machine has {gpu.name}.")
        if float(gpu.compute_capability) < _NEEDED[target.precision]:
            able = [name for name, needed in _NEEDED.items() if float(gpu.compute_capability) >= needed]
            raise CannotRunHere(
                f"TensorRT needs compute capability {_NEEDED[target.precision]} for {target.precision}; "
                f"this {gpu.name} has {gpu.compute_capability}.",
                advice=f"Choose what it can with --precision: {', '.join(able)}." if able else "",
            )

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        require_fit(engine, self.versions(), repair=repair)

    def require_gpu(self, engine: Engine, gpu: GPUModel, *, repair: str) -> None:
        require_gpu(engine, gpu, repair=repair)

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        """Build from the prepared graph in `out`, or from one made of `model` for this once."""
        libraries = self.libraries()
        trt, gpu = libraries.trt, this_gpu(libraries.cudart)
        key = re.sub(r"[^\w.]+", "-", f"{gpu.name} {gpu.compute_capability} tensorrt {trt.__version__}")
        with scratch_folder() as scratch:
            prepared = out / PREPARED
            if not prepared.is_file():
                from rrr_edge.backends.tensorrt.prepare import prepare  # which runs ONNX Runtime, a backend itself

                prepared = scratch / PREPARED
                prepare(model, target.precision, calibration, prepared, on_progress)
            write_file(out / PRODUCTS_FILE, Products(products=tuple(Graph.load(prepared).products())).to_json())
            configuration = Configuration(trt, target, timing_cache(out, key))
            write_file(out / ENGINE_FILE, build(libraries, prepared, target, configuration, on_progress).plan)
            configuration.remember()

    def open(self, folder: Path, target: Target) -> TensorRTSession:
        return self._session(folder, target, profiled=False)

    def open_profiled(self, folder: Path, target: Target) -> TensorRTSession:
        return self._session(folder, target, profiled=True)

    def _session(self, folder: Path, target: Target, *, profiled: bool) -> TensorRTSession:
        repair = compiling(folder.parent.parent, target)
        libraries = self.libraries()
        loading = TensorRTLoading(libraries.trt, target, repair)
        return TensorRTSession(libraries, folder, loading, repair=repair, profiled=profiled)
