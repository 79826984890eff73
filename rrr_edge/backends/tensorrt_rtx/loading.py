"""Loading an engine of TensorRT for RTX: its kernels are compiled for the GPU at hand, and kept for the next time."""

import hashlib
from pathlib import Path
from typing import Any

from rrr_edge.backends.tensorrt.layers import Layer, read_layers, read_list
from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.bundle.files import write_file
from rrr_edge.errors import CannotRunHere


class CompilingLoading:
    """`cache` is the file of the compiled kernels, or None where there is no place for it.

    `listed` are the engine's layers as the builder listed them, for an inspector that tells less.
    """

    def __init__(self, libraries: Libraries, cache: Path | None, listed: str, repair: str) -> None:
        self._libraries, self._file, self._listed, self._repair = libraries, cache, listed, repair
        self._kernels: Any = None
        self._kept = 0

    def load(self, runtime: Any, plan: bytes) -> Any:
        """What is wrong is told by the plan's header alone."""
        trt = self._libraries.trt
        validity, found = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        if validity == trt.EngineValidity.INVALID:
            reasons = trt.EngineInvalidityDiagnostics.__members__
            named = [name.lower().replace("_", " ") for name, reason in reasons.items() if int(reason) & int(found)]
            raise CannotRunHere(
                f"{self._libraries.compiler} finds the engine invalid on this machine: "
                f"{', '.join(named) or 'it gave no reason'}.",
                advice=f"Run: {self._repair}",
            )
        return runtime.deserialize_cuda_engine(plan)

    def context(self, engine: Any) -> Any:
        """Kernels are compiled for the shapes at hand before they run, never beside it: a CUDA graph keeps them."""
        trt, runtime_config = self._libraries.trt, engine.create_runtime_config()
        if self._kernels is None:
            self._kernels = runtime_config.create_runtime_cache()
            kept = self._read_kept()
            if kept and self._kernels.deserialize(kept):  # else they are another machine's, and compiled anew
                self._kept = len(kept)
        runtime_config.set_runtime_cache(self._kernels)
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
        return engine.create_execution_context(runtime_config=runtime_config)

    def ready(self) -> None:
        """Keep the kernels, if there are more than were kept."""
        if self._file is None:
            return
        kernels = bytes(self._kernels.serialize())
        if len(kernels) > self._kept:
            try:
                write_file(self._file, kernels)
                write_file(_digest_of(self._file), hashlib.sha256(kernels).hexdigest())
            except (CannotRunHere, OSError):  # a cache is a convenience: without one they are compiled each time
                self._file = None
            self._kept = len(kernels)

    def _read_kept(self) -> bytes:
        """The kept kernels; nothing where there are none, or they are not, byte for byte, what was kept."""
        if self._file is None:
            return b""
        try:
            kept, digest = self._file.read_bytes(), _digest_of(self._file).read_text("ascii")
        except (OSError, ValueError):
            return b""
        return kept if hashlib.sha256(kept).hexdigest() == digest else b""

    def layers(self, information: str) -> list[Layer]:
        inspected, listed = read_layers(information), read_list(self._listed)
        told = {node for layer in inspected if layer.data != "unknown" for node in layer.nodes}
        return inspected if all(node in told for layer in listed for node in layer.nodes) else listed


def _digest_of(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.sha256")
