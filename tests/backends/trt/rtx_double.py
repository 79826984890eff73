"""A double of tensorrt_rtx: that of tensorrt, with engines whose kernels are compiled when a context is made."""

import enum
from types import SimpleNamespace
from typing import Any

from tensorrt_double import Script, make_tensorrt

from rrr_edge.backends.graph.rewrite import Graph

KERNELS = b"kernels for "


def make_tensorrt_rtx(script: Script) -> Any:
    """A module like `tensorrt_rtx`, which does as `script` says; `invalid` are the bits of what ails an engine."""
    trt = make_tensorrt(script)
    device = f"{script.gpu[0]} {script.driver}".encode()

    class BuilderFlag(enum.Enum):
        TF32 = 0
        REQUIRE_USER_ALLOCATION = 1

    strategies = "DynamicShapesKernelSpecializationStrategy"
    made: tuple[Any, ...] = (
        enum.Enum("ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121"),
        enum.Enum(strategies, "LAZY EAGER NONE"),
    )

    class EngineValidity(enum.Enum):
        VALID = 0
        SUBOPTIMAL = 1
        INVALID = 2

    class EngineInvalidityDiagnostics(enum.IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4
        MALFORMED_ENGINE = 32

    class IBuilderConfig(trt.IBuilderConfig):  # type: ignore[misc]
        hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE

        def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
            script.asked.append(("set_compute_capability", compute_capability.name, index))
            return True

    class Builder(trt.Builder):  # type: ignore[misc]
        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            import onnx

            tensor = (
                f"[ {{ Name: t, Dimensions: [1,4], Strides: [4,1], Datatype: {script.precision}, Format: (NHWC) }}]"
            )
            listed = [
                f"Name: {product.name}_myl0_1, LayerType: correlation, Inputs: {tensor}, Constants: {tensor}, "
                f"Outputs: {tensor}, TacticName: , StreamId: 0, Metadata: [ONNX Layer: {product.name}]"
                for product in Graph(onnx.load_from_string(network._model)).products()
            ]
            self._logger.log(None, "Layers:\n" + "\n".join(listed))
            plan: bytes | None = super().build_serialized_network(network, config)
            return plan

    class IRuntimeCache:
        def __init__(self) -> None:
            self._kernels = b""

        def serialize(self) -> bytes:
            return self._kernels

        def deserialize(self, blob: bytes) -> bool:
            script.asked.append(("deserialize", blob))
            if not blob.startswith(KERNELS + device):
                return False
            self._kernels = blob
            return True

    class IRuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy: Any = None
        _cache: IRuntimeCache

        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
            self._cache = cache
            return True

    class ICudaEngine(trt.ICudaEngine):  # type: ignore[misc]
        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_execution_context(self, runtime_config: Any = None) -> Any:
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
            if not runtime_config._cache._kernels:
                script.asked.append(("compiled",))
                runtime_config._cache._kernels = KERNELS + device
            return super().create_execution_context()

    class Runtime(trt.Runtime):  # type: ignore[misc]
        @property
        def engine_header_size(self) -> int:
            return 64

        def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
            assert len(buffer) == 64
            return (EngineValidity.INVALID if script.invalid else EngineValidity.VALID), script.invalid

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            found = super().deserialize_cuda_engine(serialized_engine)
            return None if found is None else ICudaEngine(serialized_engine)

    own = (*made, BuilderFlag, EngineValidity)
    own += (EngineInvalidityDiagnostics, IBuilderConfig, Builder, IRuntimeCache, IRuntimeConfig, ICudaEngine, Runtime)
    return SimpleNamespace(**{**vars(trt), **{c.__name__: c for c in own}})
