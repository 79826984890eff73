"""An ONNX graph to read and to rewrite, with nothing but onnx and numpy."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from rrr_edge.backends.graph.parts import convolution_macs, product_macs
from rrr_edge.bundle.files import writing_to
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.target import Precision
from rrr_edge.errors import CorruptArtifact, MissingLibrary

Weights = NDArray[Any]

LAYERS_WITH_MACS = ("Conv", "Gemm", "MatMul")
_PRECISIONS: dict[str, Precision] = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
    "FLOAT8E4M3FN": "fp8",
}


class Tensor(NamedTuple):
    """ONNX's name of the `type` ("FLOAT16", ...) and the `shape`, where 0 is a free dimension."""

    type: str
    shape: tuple[int, ...]


class Convolution(NamedTuple):
    """A Conv with constant `kernel` [K, C / groups, h, w] and, unless it is None, `bias` [K]."""

    node: Any
    groups: int
    kernel: Weights
    bias: Weights | None


class Product(Record):
    """A node that multiplies: its `macs` for one image, in the `precision` that its types prescribe."""

    name: str
    macs: int
    precision: Precision


class Graph:
    """The `nodes` of an ONNX model, in the order of execution, and its `weights` by name; both may be changed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.weights: dict[str, Weights] = {w.name: onnx().numpy_helper.to_array(w) for w in model.graph.initializer}

    @classmethod
    def load(cls, path: Path) -> "Graph":
        """Raises MissingLibrary, and CorruptArtifact where `path` is no ONNX graph."""
        library = onnx()
        try:
            return cls(library.load_model(str(path)))
        except Exception as error:
            raise CorruptArtifact(f"{path} cannot be read as an ONNX graph: {error}.") from error

    def save(self, path: Path) -> None:
        """Check the graph and write it, without weights that nothing reads."""
        self._write_back()
        onnx().checker.check_model(self.model)
        with writing_to(path):
            onnx().save_model(self.model, str(path))

    def readers(self, tensor: str) -> list[Any]:
        return [node for node in self.nodes if tensor in node.input]

    def writer(self, tensor: str) -> Any | None:
        """None for weights and for an input of the graph."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def convolution(self, node: Any) -> Convolution | None:
        """`node`, if it is a convolution with constant weights."""
        if node.op_type != "Conv" or any(name not in self.weights for name in node.input[1:]):
            return None
        kernel, *bias = (self.weights[name] for name in node.input[1:])
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        return Convolution(node, groups, kernel, bias[0] if bias else None)

    def tensors(self) -> dict[str, Tensor]:
        """Type and shape of every tensor, inferred from the inputs'."""
        self._write_back()
        inferred = onnx().shape_inference.infer_shapes(self.model, strict_mode=True, data_prop=True).graph
        name_of = onnx().TensorProto.DataType.Name
        found = {w.name: Tensor(name_of(w.data_type), tuple(w.dims)) for w in inferred.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            found[value.name] = Tensor(name_of(kind.elem_type), tuple(d.dim_value for d in kind.shape.dim))
        return found

    def precision_shares(self) -> dict[str, float]:
        """The share of the MACs that computes in each precision; sums to 1."""
        macs = self.macs()
        return {precision: count / macs.total() for precision, count in macs.items()}

    def macs(self) -> Counter[str]:
        """The MACs of convolutions and matrix products for one image, by the precision that they compute in."""
        macs = Counter[str]()
        for product in self.products():
            macs[product.precision] += product.macs
        return macs

    def products(self) -> list[Product]:
        """The convolutions and matrix products: in 8 bits where DequantizeLinears write both data and weights."""
        tensors, found = self.tensors(), []
        for node in self.nodes:
            if node.op_type in LAYERS_WITH_MACS:
                data, kernel = (tensors[name] for name in node.input[:2])
                sources = [self.writer(name) for name in node.input[:2]]
                quantised = all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
                kind = tensors[sources[0].input[0]].type if quantised and sources[0] else data.type
                output = tensors[node.output[0]].shape
                found.append(
                    Product(
                        name=node.name,
                        macs=convolution_macs(output, kernel.shape)
                        if node.op_type == "Conv"
                        else product_macs(output, data.shape),
                        precision=_PRECISIONS[kind],
                    )
                )
        return found

    def _write_back(self) -> None:
        """Make the model what nodes and weights are; shapes that it was told before may no longer hold."""
        used = {name for node in self.nodes for name in node.input}
        weights = [onnx().numpy_helper.from_array(w, name) for name, w in self.weights.items() if name in used]
        nodes = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        for field, values in ((self.model.graph.node, nodes), (self.model.graph.initializer, weights)):
            del field[:]
            field.extend(values)
        del self.model.graph.value_info[:]


def onnx() -> Any:
    """Raises MissingLibrary."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise MissingLibrary("onnx", extra="onnxruntime", purpose="Rewriting a graph") from error
    return onnx


def make_node(kind: str, name: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    return onnx().helper.make_node(kind, inputs, [output], name, **attributes)


def node_like(node: Any, name: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    """A copy of `node` with another name, inputs and output, and `attributes` in place of its own."""
    copy = make_node(node.op_type, name, inputs, output, **attributes)
    copy.attribute.extend(attribute for attribute in node.attribute if attribute.name not in attributes)
    return copy
