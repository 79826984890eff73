"""Settings of TensorRT's builder from a target, and the check that a loaded engine is what was asked."""

from pathlib import Path
from typing import Any

from rrr_edge.backends.tensorrt.layers import Layer, read_layers
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere


class Configuration:
    """Sets up TensorRT's builder; kernels that were timed before are not timed again."""

    def __init__(self, trt: Any, target: Target, timing_cache: Path) -> None:
        self._library, self._target, self._file = trt, target, timing_cache
        self._timings: Any = None

    def __call__(self, config: Any) -> None:
        trt, target = self._library, self._target
        config.builder_optimization_level = target.optimization_level
        config.hardware_compatibility_level = hardware_compatibility(trt, target)
        if target.portability == "version":
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if target.workspace_mb:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mb * 2**20)
        self._timings = _timings(config, self._file)

    def remember(self) -> None:
        """Keep the times that the builder took."""
        write_file(self._file, bytes(self._timings.serialize()))


class TensorRTLoading:
    """As `target` asks: its portability is read back."""

    def __init__(self, trt: Any, target: Target, repair: str) -> None:
        self._library, self._target, self._repair = trt, target, repair

    def load(self, runtime: Any, plan: bytes) -> Any:
        # An engine for later versions carries a runtime of its own; only a target that asks for one lets it run.
        runtime.engine_host_code_allowed = self._target.portability == "version"
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return None
        asked, found = hardware_compatibility(self._library, self._target), engine.hardware_compatibility_level
        if found != asked:
            raise CannotRunHere(
                f"An engine has the hardware compatibility {found.name}, but portability "
                f"{self._target.portability!r} was asked.",
                advice=f"Run: {self._repair}",
            )
        return engine

    def context(self, engine: Any) -> Any:
        return engine.create_execution_context()

    def ready(self) -> None:
        """TensorRT compiles nothing when it runs."""

    def layers(self, information: str) -> list[Layer]:
        return read_layers(information)


def hardware_compatibility(trt: Any, target: Target) -> Any:
    levels = trt.HardwareCompatibilityLevel
    return {"same-cc": levels.SAME_COMPUTE_CAPABILITY, "ampere+": levels.AMPERE_PLUS}.get(
        target.portability, levels.NONE
    )


def _timings(config: Any, file: Path) -> Any:
    """What `file` remembers, or nothing where that is of another GPU or version."""
    timings = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if timings is None or not config.set_timing_cache(timings, False):
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, False)
    return timings
