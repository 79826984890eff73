"""The ONNX graph: reading, rewriting, lowering and writing it without the onnx package."""
