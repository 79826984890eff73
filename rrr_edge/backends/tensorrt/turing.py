"""Quantised convolutions and fp32 matrix products, rewritten for GPUs of compute capability 7.5 (Turing).

TensorRT for RTX 1.7.1 has no INT8 convolutions for them, and computes quantised ones in fp32 without a warning; nor has
it matrix products in fp32. It has INT8 matrix products between fp16 tensors, and fp32 convolutions.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from rrr_edge.backends.graph.rewrite import Graph, Tensor, Weights, make_node, onnx

_LARGEST_FP16 = 65504.0
_LARGEST_INT8 = 127


def suit_turing(graph: Graph) -> None:
    """Write quantised convolutions as matrix products, and fp32 Gemms as convolutions of one pixel; the sums stay."""
    tensors, nodes = graph.tensors(), []
    for node in graph.nodes:
        quantised = _quantised(graph, node)
        if quantised is not None:
            nodes += _as_product(graph, quantised, tensors)
        elif node.op_type == "Gemm" and tensors[node.input[0]].type == "FLOAT" and node.input[1] in graph.weights:
            nodes += _as_convolution(graph, node)
        else:
            nodes.append(node)
    graph.nodes = nodes


class _Quantised(NamedTuple):
    """A convolution of quantised data and weights: `weights` [K, C / groups, h, w] int8, a scale for each row."""

    node: Any
    quantise: Any
    weights: Weights
    scales: Weights
    groups: int
    strides: tuple[int, ...]
    pads: tuple[int, ...]


def _quantised(graph: Graph, node: Any) -> _Quantised | None:
    if node.op_type != "Conv":
        return None
    data, kernel = (_quantiser(graph, name) for name in node.input[:2])
    if data is None or kernel is None or kernel.input[0] not in graph.weights:
        return None
    of = {attribute.name: onnx().helper.get_attribute_value(attribute) for attribute in node.attribute}
    if set(of.get("dilations", [1])) != {1} or of.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    floats, scale = (graph.weights[name] for name in kernel.input[:2])
    scales = np.broadcast_to(scale.astype(np.float32), (len(floats),))
    steps = np.rint(floats / scales.reshape(-1, 1, 1, 1))
    return _Quantised(
        node=node,
        quantise=data,
        weights=np.clip(steps, -_LARGEST_INT8 - 1, _LARGEST_INT8).astype(np.int8),
        scales=scales,
        groups=of.get("group", 1),
        strides=tuple(of.get("strides", (1, 1))),
        pads=tuple(of.get("pads", (0, 0, 0, 0))),
    )


def _quantiser(graph: Graph, tensor: str) -> Any | None:
    """The QuantizeLinear to int8 behind the DequantizeLinear that writes `tensor`."""
    back = graph.writer(tensor)
    there = graph.writer(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    if there is None or there.op_type != "QuantizeLinear" or len(there.input) < 3:
        return None
    return there if graph.weights[there.input[2]].dtype == np.int8 else None


def _as_product(graph: Graph, of: _Quantised, tensors: dict[str, Tensor]) -> list[Any]:
    """im2col (Chellapilla et al. 2006): each place of the answer is a row of all numbers that its sum reads.

    With G groups, C channels, K rows of weights and P places: [N, G, P, C / G h w] times [G, C / G h w, K / G].
    The product is in fp16 only as whole numbers times a power of two that keeps the largest possible sum finite.
    """
    node, name, groups = of.node, of.node.name, of.groups
    rows, channels, height, width = of.weights.shape
    output = tensors[node.output[0]].shape
    summed = channels * height * width
    step = math.floor(math.log2(_LARGEST_FP16 / (summed * _LARGEST_INT8**2)))
    own, data_step = f"{name}.product", step // 2
    constants: dict[str, Weights] = {
        f"{own}.pads": np.array([0, 0, *of.pads[:2], 0, 0, *of.pads[2:]], np.int64),
        f"{own}.axes": np.array([2, 3], np.int64),
        f"{own}.strides": np.array(of.strides, np.int64),
        f"{own}.split": np.array([0, groups, channels, output[2] * output[3]], np.int64),
        f"{own}.shape": np.array([0, rows, *output[2:]], np.int64),
        f"{own}.data_step": np.array(2.0**data_step, np.float16),
        f"{own}.weights_step": np.array(2.0 ** (step - data_step), np.float16),
        f"{own}.zero": np.zeros((), np.int8),
        f"{own}.weights": of.weights.reshape(groups, rows // groups, channels, -1)
        .transpose(0, 3, 2, 1)
        .reshape(groups, summed, -1),
        f"{own}.scales": (of.scales * np.float32(graph.weights[of.quantise.input[1]]) * np.float32(2.0**-step)).reshape(
            groups, 1, -1
        ),
    }
    for corner in ((i, j) for i in range(height) for j in range(width)):
        ends = [at + (side - 1) * stride + 1 for at, side, stride in zip(corner, output[2:], of.strides, strict=True)]
        constants[f"{own}.from.{corner[0]}.{corner[1]}"] = np.array(corner, np.int64)
        constants[f"{own}.to.{corner[0]}.{corner[1]}"] = np.array(ends, np.int64)
    graph.weights |= constants
    return [*_columns(of, own), *_product(graph, of, own)]


def _columns(of: _Quantised, own: str) -> list[Any]:
    """Int8 [N, G, P, h w C / G], in the order in which the weights lie."""
    data, (scale, zero) = of.quantise.input[0], of.quantise.input[1:3]
    nodes = []
    if any(of.pads):
        nodes.append(make_node("Pad", f"{own}.pad", [data, f"{own}.pads"], f"{own}.padded"))
        data = f"{own}.padded"
    nodes.append(make_node("QuantizeLinear", f"{own}.quantise", [data, scale, zero], f"{own}.int8"))
    parts = []
    for i in range(of.weights.shape[2]):
        for j in range(of.weights.shape[3]):
            at, part = f"{i}.{j}", f"{own}.part.{i}.{j}"
            where = [f"{own}.from.{at}", f"{own}.to.{at}", f"{own}.axes", f"{own}.strides"]
            nodes.append(make_node("Slice", f"{own}.slice.{at}", [f"{own}.int8", *where], f"{part}.image"))
            nodes.append(make_node("Reshape", f"{own}.row.{at}", [f"{part}.image", f"{own}.split"], part))
            parts.append(part)
    nodes.append(make_node("Concat", f"{own}.join", parts, f"{own}.rows", axis=2))
    return [*nodes, make_node("Transpose", f"{own}.turn", [f"{own}.rows"], f"{own}.columns", perm=[0, 1, 3, 2])]


def _product(graph: Graph, of: _Quantised, own: str) -> list[Any]:
    """The product itself has the convolution's name; then scales and bias, and the order of an image again."""
    zero, answer, bias = f"{own}.zero", f"{own}.scaled", list(of.node.input[2:])
    nodes = [
        make_node("DequantizeLinear", f"{own}.data", [f"{own}.columns", f"{own}.data_step", zero], f"{own}.left"),
        make_node("DequantizeLinear", f"{own}.kernel", [f"{own}.weights", f"{own}.weights_step", zero], f"{own}.right"),
        make_node("MatMul", of.node.name, [f"{own}.left", f"{own}.right"], f"{own}.sums"),
        make_node("Cast", f"{own}.cast", [f"{own}.sums"], f"{own}.floats", to=onnx().TensorProto.FLOAT),
        make_node("Mul", f"{own}.scale", [f"{own}.floats", f"{own}.scales"], f"{own}.scaled"),
    ]
    if bias:
        graph.weights[f"{own}.bias"] = graph.weights[bias[0]].reshape(of.groups, 1, -1)
        nodes.append(make_node("Add", f"{own}.add", [answer, f"{own}.bias"], f"{own}.biased"))
        answer = f"{own}.biased"
    return [
        *nodes,
        make_node("Transpose", f"{own}.back", [answer], f"{own}.turned", perm=[0, 1, 3, 2]),
        make_node("Reshape", f"{own}.image", [f"{own}.turned", f"{own}.shape"], of.node.output[0]),
    ]


def _as_convolution(graph: Graph, node: Any) -> list[Any]:
    """A Gemm [N, C] x [C, K] with constant weights as a convolution of one pixel."""
    of = {attribute.name: onnx().helper.get_attribute_value(attribute) for attribute in node.attribute}
    own, (data, kernel, *bias) = f"{node.name}.pixel", node.input
    weights = graph.weights[kernel] * np.float32(of.get("alpha", 1.0))
    rows = weights if of.get("transB", 0) else weights.T
    graph.weights[f"{own}.weights"] = np.ascontiguousarray(rows)[:, :, None, None]
    graph.weights[f"{own}.sides"] = np.array([2, 3], np.int64)
    if bias:
        graph.weights[f"{own}.bias"] = graph.weights[bias[0]].reshape(-1) * np.float32(of.get("beta", 1.0))
    inputs = [f"{own}.image", f"{own}.weights", *([f"{own}.bias"] if bias else [])]
    return [
        make_node("Unsqueeze", f"{own}.make", [data, f"{own}.sides"], f"{own}.image"),
        make_node("Conv", node.name, inputs, f"{own}.answer"),
        make_node("Squeeze", f"{own}.undo", [f"{own}.answer", f"{own}.sides"], node.output[0]),
    ]
