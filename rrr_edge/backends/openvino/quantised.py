"""INT8 graphs for OpenVINO: quantised by NNCF, with layers put back to floats."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.backends.graph.parts import convolution_macs, product_macs
from rrr_edge.backends.openvino.library import last_line, load_nncf, load_openvino, settings
from rrr_edge.backends.openvino.rewrites import (
    CONVOLUTIONS,
    fold_constants,
    fuse_residual_add,
    shape_of,
    unit_quantisation_steps,
)
from rrr_edge.backends.protocols import QuantisedLayer, require_layers
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.reference import Images, Outputs, in_batches
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere
from rrr_edge.timing.progress import OnProgress, Step, quiet

GRAPH = "model.xml"
VARIANTS = (Quantisation(ranges="quantile"), Quantisation(bias_correction="full"))
_PRODUCTS = ("MatMul",)
# Layers that pass their first input on, or means of it.
_PASSING = ("MaxPool", "AvgPool", "ReduceMean", "Reshape", "Transpose")


class OpenVINOQuantised:
    """NNCF scales grouped kernels that are still a Reshape by column too; OpenVINO would run those in fp32.

    So constants are folded first. What is quantised are the layers as they will run, after the rewrites.
    """

    def __init__(
        self, graph: Any, target: Target, calibration: Images, quantisation: Quantisation, on_progress: OnProgress
    ) -> None:
        self._target = target
        fold_constants(graph)
        if target.device == "CPU":
            fuse_residual_add(graph)
        self._floats = {_name(layer): _constants(layer) for layer in _multiplying(graph)}
        self._graph = _quantise(graph, calibration, target.batch, quantisation, on_progress)

    @property
    def layers(self) -> tuple[QuantisedLayer, ...]:
        return tuple(
            QuantisedLayer(_name(layer), _macs(layer) // self._target.batch)
            for layer in _multiplying(self._graph)
            if not _is_constant(layer.input_value(1).get_node())
        )

    def run(self, float_layers: Collection[str], images: Images) -> Outputs:
        openvino = load_openvino()
        target = self._target.model_copy(update={"quantisation": None})
        compiled = openvino.Core().compile_model(self._finished(float_layers), target.device, settings(target))
        request, batch = compiled.create_infer_request(), target.batch

        def infer(chunk: Images) -> Outputs:
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), 0)])
            request.infer({0: filled})
            return Outputs(*(request.get_output_tensor(i).data[: len(chunk)] for i in range(2)))

        return in_batches(infer, images, batch)

    def write(self, float_layers: Collection[str], out: Path) -> None:
        require_layers(float_layers, self.layers)
        write_graph(self._finished(float_layers), out / GRAPH)

    def _finished(self, float_layers: Collection[str]) -> Any:
        graph = self._graph.clone()
        for layer in _multiplying(graph):
            if _name(layer) in float_layers:
                _restore(layer, self._floats[_name(layer)])
        if self._target.device == "CPU":
            unit_quantisation_steps(graph)
        return graph


def write_graph(graph: Any, path: Path) -> None:
    try:
        load_openvino().save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise CannotRunHere(
            f"OpenVINO cannot write {path}: {last_line(error)}.",
            advice="See that the disk has room and the folder may be written, and run again.",
        ) from error


def _quantise(graph: Any, calibration: Images, batch: int, quantisation: Quantisation, on_progress: OnProgress) -> Any:
    nncf = load_nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    samples = [np.repeat(image[None], batch, 0) for image in calibration]
    seen = 0

    def feed(sample: Images) -> Images:
        nonlocal seen
        seen += 1
        on_progress(Step("calibrate", min(seen, len(samples)), len(samples)))
        return sample

    # 256 steps of a probability are too few to say how sure an answer is.
    vote = [result.input_value(0).get_node().get_friendly_name() for result in graph.get_results()]
    ranges = {
        "minmax": None,
        "quantile": RangeEstimatorParametersSet.MEAN_QUANTILE,
        "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    }[quantisation.ranges]
    advanced = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges) if ranges else None
    with quiet():
        return nncf.quantize(
            graph,
            nncf.Dataset(samples, feed),
            subset_size=len(samples),
            fast_bias_correction=quantisation.bias_correction == "fast",
            ignored_scope=nncf.IgnoredScope(names=vote),
            advanced_parameters=advanced,
        )


class _Floats(NamedTuple):
    """Constants of a layer before it was quantised; `bias` where an addition of one follows it."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def _multiplying(graph: Any) -> list[Any]:
    """The convolutions and products whose weights are constants, rounded or not."""
    layers = [n for n in graph.get_ordered_ops() if n.get_type_name() in (*CONVOLUTIONS, *_PRODUCTS)]
    return [layer for layer in layers if _comes_of_constants(layer.input_value(1).get_node())]


def _name(layer: Any) -> str:
    """The name of the node in the ONNX graph, of which OpenVINO makes two."""
    return str(layer.get_friendly_name().removesuffix("/WithoutBiases"))


def _comes_of_constants(node: Any) -> bool:
    return _is_constant(node) or (
        node.get_input_size() > 0 and all(_comes_of_constants(value.get_node()) for value in node.input_values())
    )


def _constants(layer: Any) -> _Floats:
    bias = _bias(layer)
    weights = layer.input_value(1).get_node().get_data()
    return _Floats(np.array(weights), None if bias is None else np.array(bias.input_value(1).get_node().get_data()))


def _bias(layer: Any) -> Any | None:
    """The addition of a constant to the layer's answers alone."""
    readers = list(layer.output(0).get_target_inputs())
    added = readers[0].get_node() if len(readers) == 1 else None
    if added is None or added.get_type_name() != "Add" or not _is_constant(added.input_value(1).get_node()):
        return None
    return added


def _restore(layer: Any, floats: _Floats) -> None:
    """Let `layer` read unrounded numbers, multiply them with its own weights, and add its answers up unrounded.

    What else reads the same numbers still gets them rounded. Its bias is the one from before the bias correction, which
    made up for the rounding of its inputs and weights.
    """
    from openvino import opset13

    layer.input(0).replace_source_output(_unrounded(layer.input_value(0)))
    layer.input(1).replace_source_output(opset13.constant(floats.weights).output(0))
    answers, added = layer.output(0), _bias(layer)
    if added is not None and floats.bias is not None:
        added.input(1).replace_source_output(opset13.constant(floats.bias).output(0))
        answers = added.output(0)
    for reader in answers.get_target_inputs():
        if reader.get_node().get_type_name() == "FakeQuantize":
            for term in reader.get_node().output(0).get_target_inputs():
                if term.get_node().get_type_name() == "Add":
                    term.replace_source_output(answers)


def _unrounded(numbers: Any) -> Any:
    """`numbers` as they are without any rounding since the last layer with weights of its own."""
    from openvino.utils.node_factory import NodeFactory

    node = numbers.get_node()
    if node.get_type_name() == "FakeQuantize":
        return _unrounded(node.input_value(0))
    inputs = list(node.input_values())
    count = _count_of_data(node)
    sources = [_unrounded(value) for value in inputs[:count]]
    if all(new == old for new, old in zip(sources, inputs, strict=False)):
        return numbers
    copy = NodeFactory("opset13").create(node.get_type_name(), [*sources, *inputs[count:]], node.get_attributes())
    return copy.output(numbers.get_index())


def _count_of_data(node: Any) -> int:
    """How many of its first inputs a layer passes on or averages; 0 for one that does anything else."""
    kind = node.get_type_name()
    if kind == "Concat":
        return int(node.get_input_size())
    scales = kind in ("Multiply", "Add") and _is_constant(node.input_value(1).get_node())
    return int(scales or kind in _PASSING)


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _macs(layer: Any) -> int:
    output = shape_of(layer.output(0))
    if layer.get_type_name() in CONVOLUTIONS:
        return convolution_macs(output, shape_of(layer.input(1)))
    return product_macs(output, shape_of(layer.input(0)))
