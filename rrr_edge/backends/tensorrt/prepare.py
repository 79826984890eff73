"""Precision written into the ONNX graph, for engines that compute as the graph says: TensorRT from version 11.

    fp32   as it is
    fp16   by ModelOpt's AutoCast; what the calibration images drive towards fp16's largest number stays fp32
    bf16   by ModelOpt's AutoCast
    int8   by ModelOpt's quantisation: signed, zero point 0, a scale for each row of weights; the rest stays fp32
    fp8    the same with e4m3 floats; the first convolution, which has three channels, stays fp32

The normalisation of the pixels, the logits, the softmax and the vote stay fp32. ModelOpt needs PyTorch; whoever builds
from the prepared graph needs neither.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rrr_edge.backends.graph.lowering import pad_groups
from rrr_edge.backends.graph.rewrite import LAYERS_WITH_MACS, Graph, make_node, node_like, onnx
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.backends.tensorrt.turing import suit_turing
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.quantisation import Quantisation, Ranges
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Precision
from rrr_edge.errors import MissingLibrary
from rrr_edge.timing.progress import OnProgress, Step, quiet

# Raised with every change, here or in lowering.py, of the graph that comes out: older ones are then made again.
PREPARATION = 1
# TensorRT's grouped convolutions in int8 want so many channels a group, or a multiple (IConvolutionLayer.num_groups).
INT8_GROUP = 4
# fp16 ends at 65,504. Other images may go further than the calibration's, but hardly eight times.
FP16_SAFE = 8192.0
# ModelOpt's words. The extremes are closer than entropy on the digits, in half the time.
_METHODS: dict[Ranges, str] = {"minmax": "max", "histogram": "entropy"}
# So many tell how large activations get; AutoCast keeps all tensors of all of them in memory.
_RANGE_IMAGES = 16


def prepare(
    model: Path,
    precision: Precision,
    calibration: Images,
    out: Path,
    on_progress: OnProgress,
    *,
    turing: bool = False,
) -> None:
    """Write the graph in the file `model` to `out` with `precision` in its types; inputs and outputs stay the same.

    `calibration` is read for int8 and fp8, and for fp16 if there is any; `turing` suits GPUs of compute capability 7.5.
    Raises MissingLibrary and CorruptArtifact (`model` is no graph).
    """
    on_progress(Step("prepare", 0, 1, precision))
    graph = Graph.load(model)
    _cast_first(graph)
    with TemporaryDirectory(dir=out.parent) as scratch:
        source = Path(scratch) / "source.onnx"
        _PRECISIONS[precision](graph, calibration, source, out)
    if turing:
        graph = Graph.load(out)
        suit_turing(graph)
        graph.save(out)
    on_progress(Step("prepare", 1, 1, precision))


def quantise_graph(
    model: Path, precision: Precision, calibration: Images, out: Path, quantisation: Quantisation
) -> None:
    """Write the graph in the file `model` to `out` with int8 or fp8 in its types, whatever the GPU.

    `quantisation.ranges` are the extremes, or those of the smallest entropy ("histogram").
    """
    graph = Graph.load(model)
    _cast_first(graph)
    with TemporaryDirectory(dir=out.parent) as scratch:
        source = Path(scratch) / "source.onnx"
        _quantise(graph, calibration, source, out, mode=precision, method=_METHODS[quantisation.ranges])


def modelopt_version() -> str | None:
    """None where ModelOpt is not installed."""
    try:
        return version("nvidia-modelopt")
    except PackageNotFoundError:
        return None


def run_prepared(model: Path, images: Images) -> Outputs:
    """Answer `images` with ONNX Runtime, rounding as the graph in the file `model` says.

    Left alone, ONNX Runtime's CPU provider computes fp16 in fp32 without rounding between the operators, and bf16 not
    at all. Here every such tensor is rounded when it is written and sums are kept in fp32, as tensor cores do.
    """
    graph = Graph.load(model)
    _round_in_the_open(graph)
    with scratch_folder() as scratch:
        rounded = scratch / "rounded.onnx"
        graph.save(rounded)
        return run_model(rounded, images)


def _cast_first(graph: Graph) -> None:
    """Turn the pixels into floats before anything else: TensorRT has uint8 as a type of inputs and outputs only."""
    pixels = graph.model.graph.input[0].name
    floats = f"{pixels}.float"
    tensors = graph.tensors()
    renamed = {pixels: floats}
    nodes = [make_node("Cast", f"{pixels}.cast", [pixels], floats, to=onnx().TensorProto.FLOAT)]
    for node in graph.nodes:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Cast" and tensors[node.input[0]].type == "UINT8":
            renamed[node.output[0]] = inputs[0]
        else:
            moved = deepcopy(node)
            moved.input[:] = inputs
            nodes.append(moved)
    graph.nodes = nodes


def _stays_fp32(graph: Graph) -> list[str]:
    """The nodes before the first convolution, and those from the logits' layer on."""
    names = []
    for node in graph.nodes:
        if node.op_type in LAYERS_WITH_MACS:
            break
        names.append(node.name)
    tensors = [value.name for value in graph.model.graph.output]
    while tensors:
        node = graph.writer(tensors.pop())
        if node is not None and node.name not in names:
            names.append(node.name)
            tensors += [] if node.op_type in LAYERS_WITH_MACS else node.input
    return [f"{re.escape(name)}$" for name in names]


def _fp32(graph: Graph, calibration: Images, source: Path, out: Path) -> None:
    graph.save(out)


def _fp16(graph: Graph, calibration: Images, source: Path, out: Path) -> None:
    ranges = source.with_name("ranges.npz")
    images: dict[str, Any] = {graph.model.graph.input[0].name: calibration[:_RANGE_IMAGES]}
    np.savez(ranges, **images)
    limit = FP16_SAFE if len(calibration) else np.inf
    _autocast(graph, source, out, low_precision_type="fp16", calibration_data=str(ranges), data_max=limit)


def _bf16(graph: Graph, calibration: Images, source: Path, out: Path) -> None:
    _autocast(graph, source, out, low_precision_type="bf16", data_max=np.inf, init_max=np.inf)


def _autocast(graph: Graph, source: Path, out: Path, **settings: Any) -> None:
    graph.save(source)
    with _modelopt():
        from modelopt.onnx.autocast import convert_to_mixed_precision

        model = convert_to_mixed_precision(
            str(source), nodes_to_exclude=_stays_fp32(graph), keep_io_types=True, providers=["cpu"], **settings
        )
    Graph(model).save(out)


def _int8(graph: Graph, calibration: Images, source: Path, out: Path) -> None:
    _quantise(graph, calibration, source, out, mode="int8")


def _fp8(graph: Graph, calibration: Images, source: Path, out: Path) -> None:
    _quantise(graph, calibration, source, out, mode="fp8")


def _quantise(graph: Graph, calibration: Images, source: Path, out: Path, *, mode: str, method: str = "max") -> None:
    pad_groups(graph, INT8_GROUP)
    graph.save(source)
    with _modelopt():
        from modelopt.onnx.quantization import quantize

        quantize(
            str(source),
            quantize_mode=mode,
            calibration_data=calibration,
            calibration_eps=["cpu"],
            calibration_method=method,
            nodes_to_exclude=_stays_fp32(graph),
            high_precision_dtype="fp32",
            log_level="CRITICAL",
            output_path=str(out),
        )


_PRECISIONS: dict[Precision, Callable[[Graph, Images, Path, Path], None]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "bf16": _bf16,
    "int8": _int8,
    "fp8": _fp8,
}


@contextmanager
def _modelopt() -> Iterator[None]:
    """Keep ModelOpt's log and progress bars out of the way of ours. Raises MissingLibrary."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.ERROR)
    try:
        with quiet():
            yield
    except ImportError as error:
        raise MissingLibrary(error.name or "modelopt", extra="prepare", purpose="Preparing for TensorRT") from error
    finally:
        logging.disable(logging.NOTSET)


def _round_in_the_open(graph: Graph) -> None:
    """Make every fp16 and bf16 tensor an fp32 one that was cast to its type and back."""
    low = {
        name: getattr(onnx().TensorProto, tensor.type)
        for name, tensor in graph.tensors().items()
        if tensor.type in ("FLOAT16", "BFLOAT16")
    }
    to_float = onnx().TensorProto.FLOAT
    graph.weights |= {name: w.astype(np.float32) for name, w in graph.weights.items() if name in low}
    nodes = []
    for node in graph.nodes:
        rounded = [output for output in node.output if output in low]
        if not rounded:
            nodes.append(node)
            continue
        kind = {"to": to_float} if node.op_type == "Cast" else {}
        copy = node_like(node, node.name, node.input, node.output[0], **kind)
        copy.output[:] = [f"{output}.wide" if output in low else output for output in node.output]
        nodes.append(copy)
        for output in rounded:
            wide, narrow = f"{output}.wide", f"{output}.narrow"
            nodes += [
                make_node("Cast", narrow, [wide], narrow, to=low[output]),
                make_node("Cast", f"{output}.back", [narrow], output, to=to_float),
            ]
    graph.nodes = nodes
