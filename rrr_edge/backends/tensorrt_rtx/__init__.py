"""TensorRT for RTX: an engine for several generations of GPUs, built on any machine, finished where it is loaded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from rrr_edge.backends.cache import cache_folder, forget_oldest
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import GPUModel, Preparation
from rrr_edge.backends.tensorrt.build import build
from rrr_edge.backends.tensorrt.cuda import cuda, this_gpu
from rrr_edge.backends.tensorrt.layers import Products, precision_shares, read_list, share_out
from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.backends.tensorrt.run import ENGINE_FILE, PRODUCTS_FILE, TensorRTSession
from rrr_edge.backends.tensorrt_rtx.gpus import SUPPORTED, capabilities, require_capabilities, unsupported
from rrr_edge.backends.tensorrt_rtx.loading import CompilingLoading
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import scratch_folder, write_file
from rrr_edge.bundle.folder import PREPARED
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, MissingLibrary
from rrr_edge.timing.progress import OnProgress

# The builder's list of the engine's layers, with their types.
LAYERS_FILE = "layers.txt"
_VERSION = "tensorrt-rtx"


def find_libraries() -> Libraries:
    """Raises MissingLibrary."""
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:  # OSError: the bindings are there, the libraries that they load are not
        raise MissingLibrary("TensorRT for RTX", extra="tensorrt-rtx", purpose="The tensorrt-rtx backend") from error
    return Libraries(tensorrt_rtx, cuda("tensorrt-rtx"), "TensorRT for RTX")


@dataclass(frozen=True)
class TensorRTRTX:
    files: ClassVar[tuple[str, ...]] = (ENGINE_FILE, PRODUCTS_FILE, LAYERS_FILE)
    caches: ClassVar[bool] = True
    libraries: Callable[[], Libraries] = find_libraries

    def preparation(self, target: Target) -> Preparation:
        require_capabilities(target)
        return Preparation(target.precision, turing="7.5" in capabilities(target))

    def builder_versions(self) -> dict[str, str]:
        return {
            _VERSION: self.libraries().trt.__version__,
            "cuda-bindings": metadata.version("cuda-bindings"),
        }

    def versions(self) -> dict[str, str]:
        """Also of the GPU, its driver and the system, for which an engine is finished."""
        gpu = this_gpu(self.libraries().cudart)
        return {
            **self.builder_versions(),
            "gpu": gpu.name,
            "compute capability": gpu.compute_capability,
            "cuda driver": gpu.driver,
            "os": gpu.os,
        }

    def check_build(self, target: Target) -> None:
        self.libraries()
        if target.device != "GPU":
            raise CannotRunHere(
                f"The tensorrt-rtx backend builds for device 'GPU'; the target {target.name!r} asks {target.device!r}.",
                advice="Choose one of several GPUs with CUDA_VISIBLE_DEVICES.",
            )
        self.preparation(target)

    def check(self, target: Target) -> None:
        self.check_build(target)
        _require_gpu(target, self._gpu_here())

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        self.require_gpu(engine, self._gpu_here(), repair=repair)

    def require_gpu(self, engine: Engine, gpu: GPUModel, *, repair: str) -> None:
        """Engines are for one version of the compiler; one that is not installed here cannot be compared."""
        built, here = engine.versions.get(_VERSION, "unknown"), self._installed
        if here not in (built, None):
            raise CannotRunHere(
                f"The engine {engine.name} was built by TensorRT for RTX {built}; this machine has {here}, which "
                "cannot load it.",
                advice=f"Run: {repair}",
            )
        _require_gpu(engine.target, gpu)

    def _gpu_here(self) -> GPUModel:
        gpu = this_gpu(self.libraries().cudart)
        return GPUModel(gpu.name, gpu.compute_capability)

    @property
    def _installed(self) -> str | None:
        try:
            return str(self.libraries().trt.__version__)
        except MissingLibrary:
            return None

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        """Build from the prepared graph in `out`, or from one made of `model` for this once."""
        libraries = self.libraries()
        with scratch_folder() as scratch:
            prepared = out / PREPARED
            if not prepared.is_file():
                from rrr_edge.backends.tensorrt.prepare import prepare  # which runs ONNX Runtime, a backend itself

                prepared = scratch / PREPARED
                precision, turing = self.preparation(target)
                prepare(model, precision, calibration, prepared, on_progress, turing=turing)
            write_file(out / PRODUCTS_FILE, Products(products=tuple(Graph.load(prepared).products())).to_json())
            built = build(libraries, prepared, target, _for_gpus(libraries.trt, target), on_progress)
            write_file(out / ENGINE_FILE, built.plan)
            write_file(out / LAYERS_FILE, built.layers)

    def precision_built(self, folder: Path) -> dict[str, float]:
        products = Products.from_json_file(folder / PRODUCTS_FILE).products
        return precision_shares(share_out(products, read_list((folder / LAYERS_FILE).read_text("utf-8"))))

    def first_load(self, folder: Path) -> str:
        cache = self._cache(folder)
        return "" if cache is not None and cache.is_file() else "compiling kernels for this GPU"

    def open(self, folder: Path, target: Target) -> TensorRTSession:
        return self._session(folder, target, profiled=False)

    def open_profiled(self, folder: Path, target: Target) -> TensorRTSession:
        return self._session(folder, target, profiled=True)

    def _session(self, folder: Path, target: Target, *, profiled: bool) -> TensorRTSession:
        libraries, cache, repair = self.libraries(), self._cache(folder), compiling(folder.parent.parent, target)
        if cache is not None:
            forget_oldest(cache.parent.glob("*.bin"))
        listed = (folder / LAYERS_FILE).read_text("utf-8")
        loading = CompilingLoading(libraries, cache, listed, repair)
        return TensorRTSession(libraries, folder, loading, repair=repair, profiled=profiled)

    def _cache(self, folder: Path) -> Path | None:
        """The file for the kernels of the engine in `folder`: on this GPU, with this driver and this compiler."""
        place = cache_folder(_VERSION)
        if place is None:
            return None
        here = "\n".join(self.versions().values())
        return place / f"{hashlib.sha256((folder / ENGINE_FILE).read_bytes() + here.encode()).hexdigest()[:32]}.bin"


def _require_gpu(target: Target, gpu: GPUModel) -> None:
    """Raise CannotRunHere where `gpu` is none of the target's."""
    if gpu.compute_capability not in SUPPORTED:
        raise unsupported(gpu.words)
    asked = f"{target.gpu!r} GPUs" if target.gpu else f"compute capability {', '.join(capabilities(target))}"
    if gpu.compute_capability not in capabilities(target) or not (
        target.gpu.lower() in gpu.name.lower() or not gpu.name
    ):
        raise CannotRunHere(
            f"The target {target.name!r} is for {asked}, not for {gpu.words}.",
            advice="Compile for --target tensorrt-rtx, which is for all RTX GPUs.",
        )


def _for_gpus(trt: Any, target: Target) -> Callable[[Any], None]:
    """What the builder is told: kernels are chosen where the engine is loaded, so there is nothing to time."""

    def configure(config: Any) -> None:
        config.builder_optimization_level = target.optimization_level
        # Nothing is allocated while it runs, so that a CUDA graph can hold it.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        asked = capabilities(target)
        config.num_compute_capabilities = len(asked)
        for index, capability in enumerate(asked):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
        if target.workspace_mb:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mb * 2**20)

    return configure
