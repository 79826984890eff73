"""torch.onnx.export that traces each structure of network once in a run of the tests, in whatever process.

Tracing takes seconds, and depends on the network's structure alone. Another network of the same structure gets the
graph that was traced, with its own weights under their names; only then is the graph optimised, as torch does. Every
bundle's graph is still compared with torch by `verify_onnx`: a weight in a wrong place would fail there.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from onnxscript import ir

Export = Callable[..., Any]

# Names the folder of the graphs, for the processes that the tests start.
FOLDER = "TRACED_GRAPHS"


def trace_once() -> None:
    """Let torch.onnx.export keep what it traces; tests/networks/test_export.py does without."""
    if not hasattr(torch.onnx.export, "__wrapped__"):
        torch.onnx.export = traced_once(torch.onnx.export, Path(os.environ[FOLDER]))


def traced_once(export: Export, folder: Path) -> Export:
    """`export` for modules with a `network` that has a `spec`."""

    def exported(deployed: Any, inputs: tuple[torch.Tensor], **options: Any) -> torch.onnx.ONNXProgram:
        state = {name: tensor.detach() for name, tensor in deployed.state_dict().items()}
        shapes = [(name, tensor.dtype, tensor.shape) for name, tensor in state.items()]
        key = repr((type(deployed.network), deployed.network.spec, inputs[0].shape, shapes, sorted(options)))
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        if not path.exists():
            program = export(deployed, inputs, optimize=False, **options)
            _keep(program.model_proto, state, path)
        model = ModelProto.FromString(path.read_bytes())
        for tensor in model.graph.initializer:
            if tensor.name in state:
                tensor.raw_data = state[tensor.name].contiguous().numpy().tobytes()
        program = torch.onnx.ONNXProgram(ir.from_proto(model), None)
        program.optimize()
        return program

    exported.__wrapped__ = export  # type: ignore[attr-defined]
    return exported


def _keep(model: ModelProto, state: dict[str, torch.Tensor], path: Path) -> None:
    """Without the weights that each network brings."""
    for tensor in model.graph.initializer:
        if tensor.name in state:
            tensor.ClearField("raw_data")
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(model.SerializeToString())
    partial.replace(path)
