"""torch.onnx.export that traces each structure of network once.

Tracing takes seconds, and depends on the network's structure alone. Another network of the same structure gets the
graph that was traced, with its own weights under their names; only then is the graph optimised, as torch does. Every
bundle's graph is still compared with torch by `verify_onnx`: a weight in a wrong place would fail there.
"""

from collections.abc import Callable
from typing import Any

import torch
from onnx import ModelProto
from onnxscript import ir

Export = Callable[..., Any]


def traced_once(export: Export) -> Export:
    """`export` for modules with a `network` that has a `spec`."""
    graphs: dict[tuple[object, ...], bytes] = {}

    def exported(deployed: Any, inputs: tuple[torch.Tensor], **options: Any) -> torch.onnx.ONNXProgram:
        state = {name: tensor.detach() for name, tensor in deployed.state_dict().items()}
        shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in state.items())
        key = (type(deployed.network), deployed.network.spec, inputs[0].shape, shapes)
        if key not in graphs:
            program = export(deployed, inputs, optimize=False, **options)
            graphs[key] = program.model_proto.SerializeToString()
        model = ModelProto.FromString(graphs[key])
        for tensor in model.graph.initializer:
            if tensor.name in state:
                tensor.raw_data = state[tensor.name].contiguous().numpy().tobytes()
        program = torch.onnx.ONNXProgram(ir.from_proto(model), None)
        program.optimize()
        return program

    exported.__wrapped__ = export  # type: ignore[attr-defined]
    return exported
