"""NVIDIA's two compilers, TensorRT and TensorRT for RTX, by their Python modules."""

from typing import Any, NamedTuple


class Libraries(NamedTuple):
    """A compiler's module, `cuda.bindings.runtime`, and what to call the compiler."""

    trt: Any
    cudart: Any
    name: str = "TensorRT"

    @property
    def compiler(self) -> str:
        return f"{self.name} {self.trt.__version__}"
