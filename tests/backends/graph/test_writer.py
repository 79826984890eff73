"""Judged by the onnx package, which the device does not have."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from rrr_edge.backends.graph.writer import FLOAT, UINT8, Node, Port, encode

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(200, 3, 1, 1)).astype(np.float32)
PORTS = [Port("images", UINT8, ("batch", 3, 5, 5))], [Port("sums", FLOAT, ("batch", 200))]
NODES = [
    Node("Cast", ("images",), "numbers", {"to": FLOAT}),
    Node("Conv", ("numbers", "weights"), "convolved", {"strides": (2, 2)}),
    Node("ReduceSum", ("convolved", "places"), "sums", {"keepdims": 0}),
]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    data = encode(NODES, {"weights": WEIGHTS, "places": np.array([2, -1])}, *PORTS)
    return onnx.load_from_string(data)


def test_onnx_finds_it_valid_to_the_last_shape(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node] == [
        (node.kind, list(node.inputs), [node.output]) for node in NODES
    ]


def test_constants_and_ports_are_read_back(model: onnx.ModelProto) -> None:
    weights, places = map(numpy_helper.to_array, model.graph.initializer)
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(places, [2, -1])
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, 5, 5]


def test_it_computes_what_it_says(model: onnx.ModelProto) -> None:
    images = RNG.integers(0, 256, (2, 3, 5, 5), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    expected = np.einsum("oc,nchw->no", WEIGHTS[:, :, 0, 0], images[:, :, ::2, ::2].astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
