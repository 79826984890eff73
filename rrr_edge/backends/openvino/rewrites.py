"""Rewrites of an OpenVINO graph into equivalent layers that its CPU plugin runs faster."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pixels. RRR-Net at 128x128, batch 1, 2 cores of an AMD EPYC (Zen 5): at 4 and 8 INT8 gains 2% and BF16 5%, at 16
# the picking costs more than it saves.
_SHORT_ROW = 8
# How many times larger the weights of a convolution may be that is merged with another. With inputs as many times
# smaller, 8 bits of what both share leave the smaller ones 6.
_LIKE = 4
# How far from a whole number of steps a zero may lie: what comes of numbers with 24 bits.
_WHOLE = 1e-3
CONVOLUTIONS = ("Convolution", "GroupConvolution")
_CHANNELS_LAST, _CHANNELS_FIRST = np.array([0, 2, 3, 1]), np.array([0, 3, 1, 2])


def use_fast_kernels(graph: Any) -> None:
    """Put layers into `graph` that compute the same but for roundings, and that the CPU plugin has faster kernels for.

    It walks through a 1x1 convolution of stride 2 row by row, loading all weights for each. Where rows are short it is
    faster to pick every other pixel first, which is a pooling of single pixels. An image's mean it takes faster by
    pooling than by a reduction. All shapes must be known.
    """
    from openvino import opset13

    for layer in graph.get_ordered_ops():
        kind, name = layer.get_type_name(), layer.get_friendly_name()
        if kind in CONVOLUTIONS and _is_slow(layer):
            same = _pointwise(layer, _picked(layer), layer.input_value(1))
        elif kind == "ReduceMean" and _means_an_image(layer):
            side = shape_of(layer.input(0))[2:]
            same = opset13.avg_pool(layer.input_value(0), [1, 1], [0, 0], [0, 0], side, exclude_pad=True)
        else:
            continue
        same.set_friendly_name(name)
        layer.output(0).replace(same.output(0))


def fold_constants(graph: Any) -> None:
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)


def fuse_residual_add(graph: Any) -> None:
    """Make one of two 1x1 convolutions whose answers are added: over the channels of both.

    Such are the end of a residual block and its convolved skip (He et al. 2016, section 3.3, option B). In INT8 it
    takes longer to round the first of the answers, to write and to read them, than to copy the inputs together; in BF16
    it does not, and in FP32 hardly (2 cores of an AMD EPYC, Zen 5). The inputs will share the steps to which they are
    rounded, and so will the weights of a channel: convolutions whose weights are of other sizes stay apart. All shapes
    must be known and the constants folded.
    """
    from openvino import opset13

    for addition in graph.get_ordered_ops():
        if addition.get_type_name() != "Add":
            continue
        first, second = (_Term.of(addition.input_value(side)) for side in (0, 1))
        if first is None or second is None or not first.is_like(second):
            continue
        name = first.convolution.get_friendly_name()
        images, _, height, width = shape_of(addition.output(0))
        # As rows of bytes, for the CPU plugin is slow to join images along their channels.
        rows = [
            opset13.reshape(
                opset13.transpose(term.pixels(), _CHANNELS_LAST), [images, -1, term.weights.shape[-3]], False
            )
            for term in (first, second)
        ]
        joined = opset13.concat(rows, 2)
        joined.set_friendly_name(f"{name}/join")
        pixels = opset13.reshape(joined, [images, height, width, -1], False)
        weights = opset13.constant(np.concatenate([first.weights, second.weights], -3))
        merged = _pointwise(first.convolution, opset13.transpose(pixels, _CHANNELS_FIRST), weights)
        merged.set_friendly_name(name)
        biased = opset13.add(merged, opset13.constant(first.bias + second.bias))
        biased.set_friendly_name(addition.get_friendly_name())
        addition.output(0).replace(biased.output(0))


def unit_quantisation_steps(graph: Any) -> None:
    """Let the convolutions of a quantised `graph` answer in the steps to which they are rounded, which are then 1.

    Their scales and biases are divided by the step, so that the CPU plugin has one product less to take of each answer;
    a ReLU in between does not mind, for the step is positive. What becomes of the rounded answers stays as it was. Left
    alone is what has a step for each channel, or a zero between two steps.
    """
    from openvino import opset13

    for rounding in graph.get_ordered_ops():
        if rounding.get_type_name() != "FakeQuantize":
            continue
        relu = rounding.input_value(0).get_node()
        rectified = relu.get_type_name() == "Relu" and _is_unshared(relu.output(0))
        found = _convolved(relu.input_value(0) if rectified else rounding.input_value(0))
        edges = [rounding.input_value(edge).get_node() for edge in (1, 2)]
        if found is None or not all(_is_constant(edge) and edge.get_data().size == 1 for edge in edges):
            continue
        scaled = found.convolution.input_value(1).get_node()
        whole = scaled.get_type_name() == "Multiply" and _is_constant(scaled.input_value(1).get_node())
        if not whole or not _is_unshared(scaled.output(0)):
            continue
        low, high = (float(edge.get_data().item()) for edge in edges)
        steps = rounding.get_attributes()["levels"] - 1
        step = (high - low) / steps
        if step <= 0 or abs(low / step - round(low / step)) > _WHOLE:
            continue
        for layer in (scaled, found.biased):
            constant = layer.input_value(1).get_node().get_data() / np.float32(step)
            layer.input(1).replace_source_output(opset13.constant(constant).output(0))
        lowest = round(low / step)
        for number, edge, bound in zip((1, 2), edges, (lowest, lowest + steps), strict=True):
            same = np.full(edge.get_data().shape, bound, np.float32)
            rounding.input(number).replace_source_output(opset13.constant(same).output(0))


class _Term(NamedTuple):
    """A 1x1 convolution and the addition of its bias, whose answers go one way."""

    convolution: Any
    biased: Any
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, answers: Any) -> "_Term | None":
        found = _convolved(answers)
        if found is None or not _is_pointwise(found.convolution):
            return None
        weights = found.convolution.input_value(1).get_node()
        if not _is_constant(weights):
            return None
        return cls(*found, weights.get_data(), found.biased.input_value(1).get_node().get_data())

    def is_like(self, other: "_Term") -> bool:
        """Whether both answer with as many numbers, in as many groups, from weights of about the same size."""
        alike = shape_of(self.biased.output(0)) == shape_of(other.biased.output(0))
        small, large = sorted(np.median(np.abs(term.weights).max((-3, -2, -1))) for term in (self, other))
        return alike and self.weights.shape[:-3] == other.weights.shape[:-3] and bool(large <= _LIKE * small)

    def pixels(self) -> Any:
        strided = self.convolution.get_attributes()["strides"] != [1, 1]
        return _picked(self.convolution) if strided else self.convolution.input_value(0)


class _Convolved(NamedTuple):
    convolution: Any
    biased: Any


def _convolved(answers: Any) -> _Convolved | None:
    """The layers that made `answers`, where these are a convolution and the addition of its bias, and go one way."""
    biased = answers.get_node()
    if biased.get_type_name() != "Add" or not _is_constant(biased.input_value(1).get_node()):
        return None
    convolution = biased.input_value(0).get_node()
    if convolution.get_type_name() not in CONVOLUTIONS or shape_of(convolution.output(0)) != shape_of(answers):
        return None
    return _Convolved(convolution, biased) if _is_unshared(answers) and _is_unshared(convolution.output(0)) else None


def _is_constant(layer: Any) -> bool:
    return bool(layer.get_type_name() == "Constant")


def _is_unshared(answers: Any) -> bool:
    return len(answers.get_target_inputs()) == 1


def _pointwise(like: Any, pixels: Any, weights: Any) -> Any:
    """A 1x1 convolution of stride 1, grouped where the one that it is `like` is."""
    from openvino import opset13

    convolve = opset13.group_convolution if like.get_type_name() == "GroupConvolution" else opset13.convolution
    return convolve(pixels, weights, [1, 1], [0, 0], [0, 0], [1, 1])


def _picked(convolution: Any) -> Any:
    """The pixels that a 1x1 convolution of stride 2 looks at, by a pooling of single ones."""
    from openvino import opset13

    picked = opset13.max_pool(convolution.input_value(0), [2, 2], [1, 1], [0, 0], [0, 0], [1, 1])
    picked.set_friendly_name(f"{convolution.get_friendly_name()}/pick")
    return picked.output(0)


def _is_pointwise(convolution: Any) -> bool:
    """A 1x1 convolution of stride 1 or 2 without a frame of zeros."""
    of = convolution.get_attributes()
    unpadded = not any(of["pads_begin"]) and not any(of["pads_end"]) and of["auto_pad"] == "explicit"
    return unpadded and of["strides"] in ([1, 1], [2, 2]) and shape_of(convolution.input(1))[-2:] == [1, 1]


def _is_slow(convolution: Any) -> bool:
    strided = convolution.get_attributes()["strides"] == [2, 2]
    return strided and _is_pointwise(convolution) and shape_of(convolution.output(0))[-1] <= _SHORT_ROW


def _means_an_image(mean: Any) -> bool:
    axes, rank = mean.input_value(1).get_node(), len(shape_of(mean.input(0)))
    if rank != 4 or not mean.get_attributes()["keep_dims"] or not _is_constant(axes):
        return False
    return sorted(int(axis) % rank for axis in axes.get_data()) == [2, 3]


def shape_of(port: Any) -> list[int]:
    return [int(side) for side in port.get_partial_shape().to_shape()]
