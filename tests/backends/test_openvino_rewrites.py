"""Graphs that were rewritten answer as OpenVINO answered before."""

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rrr_edge.backends.openvino.library import load_openvino
from rrr_edge.backends.openvino.rewrites import (
    fold_constants,
    fuse_residual_add,
    unit_quantisation_steps,
    use_fast_kernels,
)
from rrr_edge.bundle.folder import Bundle

openvino = load_openvino()
op = importlib.import_module("openvino.opset13")

CHANNELS, SIDE = 8, 6
STEP = 0.037


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answer(graph: Any, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(list(inputs))[0])


def kinds(graph: Any) -> Counter[str]:
    return Counter(layer.get_type_name() for layer in graph.get_ops())


def convolve(
    image: Any,
    *,
    groups: int = 1,
    answers: int = CHANNELS,
    kernel: int = 1,
    stride: int = 1,
    pad: int = 0,
    size: float = 1,
    seed: int,
) -> Any:
    channels = image.get_output_shape(0)[1]
    weights = size * numbers(groups, answers // groups, channels // groups, kernel, kernel, seed=seed)
    same = [stride] * 2, [pad] * 2, [pad] * 2, [1, 1]
    if groups > 1:
        return op.group_convolution(image, op.constant(weights), *same)
    return op.convolution(image, op.constant(weights[0]), *same)


def biased(convolution: Any, seed: int) -> Any:
    return op.add(convolution, op.constant(numbers(1, convolution.get_output_shape(0)[1], 1, 1, seed=seed)))


@pytest.mark.parametrize("axes", [[2, 3], [-2, -1]])
@pytest.mark.parametrize(
    ("groups", "side", "pad", "suited"),
    [(1, 16, 0, True), (4, 16, 0, True), (1, 15, 0, True), (1, 32, 0, False), (1, 14, 1, False)],
)
def test_a_strided_convolution_over_few_pixels_picks_them_first_and_answers_the_same(
    groups: int, side: int, pad: int, suited: bool, axes: list[int]
) -> None:
    image = op.parameter([1, CHANNELS, side, side], np.float32)
    convolution = convolve(image, groups=groups, stride=2, pad=pad, seed=0)
    graph = openvino.Model([op.reduce_mean(convolution, np.array(axes), keep_dims=True)], [image])
    pixels = numbers(1, CHANNELS, side, side)
    expected = answer(graph, pixels)
    use_fast_kernels(graph)
    assert ("MaxPool" in kinds(graph)) == suited
    assert kinds(graph)["AvgPool"] == 1
    assert "ReduceMean" not in kinds(graph)
    # Both are means of at most 256 sums of 8 products below 16: 264 additions of terms that come to 128 at most.
    np.testing.assert_allclose(answer(graph, pixels), expected, atol=2 * 264 * 128 * 2**-24)


def added(first: Any, second: Any) -> Any:
    return op.relu(op.add(biased(first, seed=3), biased(second, seed=4)))


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("odd", [0, 1])
def test_two_convolutions_that_are_added_become_one_and_answer_the_same(
    images: int, groups: int, strides: tuple[int, int], odd: int
) -> None:
    """Of different widths, as a block's last convolution and its skip are."""
    shapes = [(images, channels, *[3 * s - odd * (s - 1)] * 2) for channels, s in zip((12, 8), strides, strict=True)]
    inputs = [op.parameter(list(shape), np.float32) for shape in shapes]
    terms = [
        convolve(image, groups=groups, answers=16, stride=stride, seed=seed)
        for seed, (image, stride) in enumerate(zip(inputs, strides, strict=True))
    ]
    graph = openvino.Model([added(*terms)], inputs)
    pixels = [numbers(*shape, seed=9) for shape in shapes]
    expected = answer(graph, *pixels)
    fuse_residual_add(graph)
    found = kinds(graph)
    assert found["Convolution"] + found["GroupConvolution"] == 1
    assert found["MaxPool"] == strides.count(2)
    # Both are sums of 22 numbers below 16.
    np.testing.assert_allclose(answer(graph, *pixels), expected, atol=2 * 22 * 22 * 16 * 2**-24)


UNLIKE: dict[str, Callable[[Any], Any]] = {
    "one is grouped": lambda image: added(convolve(image, seed=0), convolve(image, groups=4, seed=1)),
    "one looks around": lambda image: added(convolve(image, seed=0), convolve(image, kernel=3, pad=1, seed=1)),
    "one has a frame": lambda image: added(
        convolve(image, stride=2, pad=1, seed=0), convolve(image, stride=2, pad=1, seed=1)
    ),
    "both look around": lambda image: added(convolve(image, kernel=3, seed=0), convolve(image, kernel=3, seed=1)),
    "one is a number for each channel": lambda image: added(
        convolve(image, seed=0), convolve(op.avg_pool(image, [1, 1], [0, 0], [0, 0], [SIDE, SIDE], True), seed=1)
    ),
    "one has weights eight times as large": lambda image: added(
        convolve(image, seed=0), convolve(image, seed=1, size=8)
    ),
    "one has a bias for each pixel": lambda image: op.add(
        biased(convolve(image, seed=0), seed=3),
        op.add(convolve(image, seed=1, kernel=1), op.constant(numbers(2, CHANNELS, SIDE, SIDE))),
    ),
    "one has no bias": lambda image: op.add(convolve(image, seed=0), biased(convolve(image, seed=1), seed=4)),
    "one is the image": lambda image: op.add(biased(convolve(image, seed=0), seed=3), image),
    "both are one": lambda image: (lambda term: op.add(term, term))(biased(convolve(image, seed=0), seed=3)),
}


@pytest.mark.parametrize("make", UNLIKE.values(), ids=UNLIKE.keys())
def test_other_sums_are_left_alone(make: Callable[[Any], Any]) -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    graph = openvino.Model([make(image)], [image])
    before = kinds(graph)
    fuse_residual_add(graph)
    assert kinds(graph) == before


def test_an_answer_that_is_needed_elsewhere_is_still_computed() -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    needed = biased(convolve(image, seed=0), seed=3)
    graph = openvino.Model([op.add(needed, biased(convolve(image, seed=1), seed=4)), needed], [image])
    before = kinds(graph)
    fuse_residual_add(graph)
    assert kinds(graph) == before


def whole_weights(*shape: int, seed: int = 5) -> Any:
    """Whole numbers and their scales, as NNCF leaves weights."""
    weights = numbers(*shape, seed=seed)
    scale = np.abs(weights).max((-3, -2, -1), keepdims=True) / 127
    whole = op.convert(op.constant(np.round(weights / scale).astype(np.int8)), "f32")
    return op.multiply(whole, op.constant(scale))


def rounded(answers: Any, low: float | list[float], step: float = STEP) -> Any:
    lowest = np.reshape(np.float32(low), (1, -1, 1, 1)) * np.float32(step)
    edges = (op.constant(lowest), op.constant(np.float32(lowest + 255 * step)))
    return op.fake_quantize(answers, *edges, *edges, 256)


def quantised(image: Any, *, groups: int = 1, weights: Any = None) -> Any:
    if weights is None:
        shape = (CHANNELS // groups, CHANNELS // groups, 1, 1)
        weights = whole_weights(groups, *shape) if groups > 1 else whole_weights(*shape)
    convolution = convolve(image, groups=groups, seed=0)
    convolution.input(1).replace_source_output(weights.output(0))
    return convolution


def lowest(rounding: Any) -> NDArray[np.float32]:
    return np.asarray(rounding.input_value(1).get_node().get_data())


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("low", "relu"), [(0, True), (-128, False), (-77, False)])
def test_convolutions_answer_in_steps_of_one_and_the_rounded_answers_stay(groups: int, low: int, relu: bool) -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    answers = biased(quantised(image, groups=groups), seed=3)
    rounding = rounded(op.relu(answers) if relu else answers, low)
    graph = openvino.Model([rounding], [image])
    pixels = numbers(1, CHANNELS, SIDE, SIDE)
    expected = answer(graph, pixels)
    assert len(np.unique(expected)) > 30
    unit_quantisation_steps(graph)
    assert (lowest(rounding).item(), rounding.input_value(2).get_node().get_data().item()) == (low, low + 255)
    found = answer(graph, pixels)
    assert (np.abs(found - expected) < STEP / 2).mean() > 0.99, "all but ties"
    np.testing.assert_allclose(found, expected, atol=1.01 * STEP)


@pytest.mark.parametrize("needed", ["convolution", "bias", "relu"])
def test_answers_that_are_needed_unrounded_too_keep_their_scale(needed: str) -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    convolution = quantised(image)
    answers = biased(convolution, seed=3)
    rectified = op.relu(answers)
    also = {"convolution": convolution, "bias": answers, "relu": rectified}[needed]
    graph = openvino.Model([op.relu(op.negative(also)), rounded(rectified, 0)], [image])
    pixels = numbers(1, CHANNELS, SIDE, SIDE)
    expected = answer(graph, pixels)
    unit_quantisation_steps(graph)
    np.testing.assert_array_equal(answer(graph, pixels), expected)


def test_weights_of_two_convolutions_keep_their_scale() -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    weights = whole_weights(CHANNELS, CHANNELS, 1, 1)
    roundings = [rounded(op.relu(biased(quantised(image, weights=weights), seed=seed)), 0) for seed in (3, 4)]
    graph = openvino.Model([op.concat(roundings, 1)], [image])
    pixels = numbers(1, CHANNELS, SIDE, SIDE)
    expected = answer(graph, pixels)
    unit_quantisation_steps(graph)
    np.testing.assert_array_equal(answer(graph, pixels), expected)


@pytest.mark.parametrize("low", [-77.4, [0.0] * CHANNELS], ids=["a zero between two steps", "a step for each channel"])
def test_other_roundings_are_left_alone(low: float | list[float]) -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    rounding = rounded(biased(quantised(image), seed=3), low)
    graph = openvino.Model([rounding], [image])
    before = lowest(rounding).copy()
    unit_quantisation_steps(graph)
    np.testing.assert_array_equal(lowest(rounding), before)


def test_weights_that_are_no_whole_numbers_are_left_alone() -> None:
    image = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    rounding = rounded(biased(convolve(image, seed=0), seed=3), -128)
    graph = openvino.Model([rounding], [image])
    unit_quantisation_steps(graph)
    assert lowest(rounding).item() == pytest.approx(-128 * STEP)


def test_an_int8_engines_convolutions_answer_in_steps_of_one(compiled: Bundle) -> None:
    graph = openvino.Core().read_model(compiled.engine_folder("openvino-int8") / "model.xml")
    rectified = [
        layer
        for layer in graph.get_ops()
        if layer.get_type_name() == "FakeQuantize" and layer.input_value(0).get_node().get_type_name() == "Relu"
    ]
    in_ones = [layer.input_value(2).get_node().get_data().item() == 255 for layer in rectified]
    assert len(in_ones) == 13, "a ReLU after each of 3 convolutions in each of 4 blocks, and after the first"
    assert in_ones.count(False) == 1, "after conv4_x's sum"


@pytest.mark.parametrize(("precision", "where"), [("fp32", ["conv4", "conv5", "stump", "stump"]), ("int8", ["conv4"])])
def test_an_int8_engine_adds_only_what_no_convolution_can_sum(
    compiled: Bundle, precision: str, where: list[str]
) -> None:
    """In conv4_x the skip is not grouped, for all branches read the same."""
    graph = openvino.Core().read_model(compiled.engine_folder(f"openvino-{precision}") / "model.xml")
    fold_constants(graph)
    additions = [layer for layer in graph.get_ops() if layer.get_type_name() == "Add"]
    sums = [layer for layer in additions if layer.input_value(1).get_node().get_type_name() != "Constant"]
    assert sorted(layer.get_friendly_name().partition("/")[0] for layer in sums) == where
