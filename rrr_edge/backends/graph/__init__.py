"""The ONNX graph: reading, rewriting and lowering it; writing needs no onnx package."""
