"""Prepared graphs in int8 or fp8 of which layers are put back to fp32, by leaving out their quantisers."""

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import Preparation, QuantisedLayer, require_layers
from rrr_edge.backends.tensorrt.prepare import quantise_graph, run_prepared
from rrr_edge.backends.tensorrt.turing import suit_turing
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import UsageError
from rrr_edge.timing.progress import OnProgress, Step


class PreparedQuantiser:
    """Quantises as ModelOpt does; whatever is left floats is fp32, as the rest of the graph is."""

    variants = (Quantisation(ranges="histogram"),)

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation

    def quantise(
        self, model: Path, target: Target, calibration: Images, quantisation: Quantisation, on_progress: OnProgress
    ) -> "PreparedQuantised":
        """Raises UsageError for what ModelOpt does not do."""
        known = Quantisation(ranges="minmax" if quantisation.ranges == "minmax" else "histogram")
        if quantisation.model_copy(update={"float_layers": (), "least_share": None}) != known:
            raise UsageError(
                f"The {target.backend} backend quantises with minmax or histogram ranges, fast bias correction and "
                f"fp32 beside it; the target {target.name!r} asks for another way.",
                advice="Change the table `quantisation` in its file, or leave it out.",
            )
        on_progress(Step("prepare", 0, 1, self._preparation.precision))
        quantised = PreparedQuantised(model, calibration, quantisation, self._preparation)
        on_progress(Step("prepare", 1, 1, self._preparation.precision))
        return quantised


class PreparedQuantised:
    """The graph as ModelOpt leaves it, in a file that lasts as long as this."""

    def __init__(self, model: Path, calibration: Images, quantisation: Quantisation, preparation: Preparation) -> None:
        self._folder = TemporaryDirectory()
        self._preparation = preparation
        self._file = Path(self._folder.name) / "quantised.onnx"
        quantise_graph(model, preparation.precision, calibration, self._file, quantisation)
        products = Graph.load(self._file).products()
        self.layers = tuple(
            QuantisedLayer(product.name, product.macs)
            for product in products
            if product.precision == preparation.precision
        )

    def run(self, float_layers: Collection[str], images: Images) -> Outputs:
        restored = Path(self._folder.name) / "restored.onnx"
        self._restored(float_layers).save(restored)
        return run_prepared(restored, images)

    def write(self, float_layers: Collection[str], out: Path) -> None:
        require_layers(float_layers, self.layers)
        graph = self._restored(float_layers)
        if self._preparation.turing:
            suit_turing(graph)
        graph.save(out)

    def _restored(self, float_layers: Collection[str]) -> Graph:
        graph = Graph.load(self._file)
        for node in graph.nodes:
            if node.name in float_layers:
                for place in (0, 1):
                    node.input[place] = _unrounded(graph, node.input[place])
                _add_unrounded(graph, node)
        _leave_out_unread(graph)
        return graph


def _unrounded(graph: Graph, tensor: str) -> str:
    """What is quantised and dequantised to become `tensor`; itself where nothing is."""
    dequantise = graph.writer(tensor)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return tensor
    quantise = graph.writer(dequantise.input[0])
    return tensor if quantise is None or quantise.op_type != "QuantizeLinear" else str(quantise.input[0])


def _add_unrounded(graph: Graph, layer: Any) -> None:
    """Let a sum of the answers of `layer` with others take them as they are."""
    for quantise in graph.readers(layer.output[0]):
        for dequantise in graph.readers(quantise.output[0]) if quantise.op_type == "QuantizeLinear" else ():
            for addition in graph.readers(dequantise.output[0]):
                if addition.op_type == "Add":
                    place = list(addition.input).index(dequantise.output[0])
                    addition.input[place] = layer.output[0]


def _leave_out_unread(graph: Graph) -> None:
    read = {output.name for output in graph.model.graph.output}
    kept = []
    for node in reversed(graph.nodes):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    graph.nodes = kept[::-1]
