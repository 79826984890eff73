"""An engine's layers as the inspector lists them, and the nodes of the ONNX graph inside each."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from rrr_edge.backends.graph.rewrite import Product
from rrr_edge.bundle.record import Record

# The inspector's words for types, in lower case.
_PRECISIONS = {
    "float": "fp32",
    "fp32": "fp32",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "half": "fp16",
    "fp16": "fp16",
    "int8": "int8",
    "fp8": "fp8",
}
_UNKNOWN = "unknown"
# Layers that move or hold numbers but compute nothing; they may name the node that they do it for.
_IDLE = ("reformat", "constant", "shuffle", "noop", "signal", "wait")
_BUSY = re.compile("conv|correlation|fusion|gemm|matrix|matmul", re.IGNORECASE)
# A line of the builder's list of layers, and a tensor in it.
_LISTED = re.compile(
    "Name: (.*?), LayerType: (.*?), Inputs: (.*), Constants: (.*), Outputs: .*, TacticName: .*, Metadata: (.*)"
)
_TENSOR = re.compile(r"Dimensions: \[([^]]*)\].*?Datatype: (\w+)")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


class Products(Record):
    """What the engine was built to multiply."""

    products: tuple[Product, ...]


@dataclass(frozen=True)
class Layer:
    """A layer of the engine, with the ONNX `nodes` that it names, and the types of its first input and its weights.

    "unknown" is a type that is none of ours; `weights` is empty where none are told.
    """

    name: str
    kind: str
    data: str
    weights: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """What one layer computes: its share of the graph's MACs, and the precision that they run in."""

    layer: Layer
    precision: str
    macs: int


def read_layers(information: str) -> list[Layer]:
    """The layers in the inspector's JSON; of an engine that was built with names only, no precision is known."""
    return [_layer(layer) for layer in json.loads(information)["Layers"]]


def read_list(text: str) -> list[Layer]:
    """The layers as the builder of TensorRT for RTX lists them in its log."""
    return [_layer(_listed(line)) for line in map(_LISTED.match, text.splitlines()) if line]


def share_out(products: Sequence[Product], layers: Sequence[Layer]) -> list[Work]:
    """Give each product to the layer that computes it; those that no layer names end up in a nameless one.

    A precision counts only where a layer's data and weights both arrive in it; what the graph prescribes is not asked.
    """
    computing = {name: layer for layer in sorted(layers, key=_likely) for name in layer.nodes}
    given: dict[str, list[Product]] = {}
    for product in products:
        layer = computing.get(product.name, _NAMELESS)
        given.setdefault(layer.name, []).append(product)
    missed = [_NAMELESS] if _NAMELESS.name in given else []
    return [_work(layer, given.get(layer.name, [])) for layer in (*layers, *missed)]


def precision_shares(works: Iterable[Work]) -> dict[str, float]:
    """The share of the MACs in each precision; "unknown" where the engine does not tell."""
    macs: Counter[str] = Counter()
    for work in works:
        macs[work.precision] += work.macs
    return {precision: count / macs.total() for precision, count in macs.items() if count}


_NAMELESS = Layer("", "", _UNKNOWN, "", ())


def _likely(layer: Layer) -> int:
    """How likely a layer computes the nodes that it names; one that only copies for a node may name it too."""
    if any(idle in layer.kind.lower() for idle in _IDLE):
        return 0
    return 2 if _BUSY.search(layer.kind) else 1


def _work(layer: Layer, products: Sequence[Product]) -> Work:
    # Some kinds of layers never tell their weights. In a strongly typed network floats are multiplied by their own type
    # only, but int8 may be widened inside the layer.
    weights = layer.weights or (_UNKNOWN if products and layer.data in ("int8", "fp8") else layer.data)
    return Work(layer, layer.data if weights == layer.data else _UNKNOWN, sum(p.macs for p in products))


def _layer(told: Any) -> Layer:
    if isinstance(told, str):
        return Layer(told, "", _UNKNOWN, "", tuple(told.split(" + ")))
    inputs, weights = told.get("Inputs"), told.get("Weights")
    kind = f"{told.get('LayerType', '')} {told.get('ParameterType', '')}".strip()
    return Layer(
        name=told["Name"],
        kind=kind,
        data=_type(inputs[0]) if inputs else _UNKNOWN,
        weights=_precision(weights.get("Type", "")) if isinstance(weights, dict) else _largest_type(told, kind),
        nodes=tuple(_ONNX_LAYER.findall(told.get("Metadata", "")) or told["Name"].split(" + ")),
    )


def _listed(line: re.Match[str]) -> dict[str, Any]:
    """A line of the builder's list in the inspector's words."""
    name, kind, inputs, constants, metadata = line.groups()
    tensors = [
        [
            {"Dimensions": [int(side) if side.isdigit() else 1 for side in sides.split(",")], "Datatype": word}
            for sides, word in _TENSOR.findall(text)
        ]
        for text in (inputs, constants)
    ]
    return {"Name": name, "LayerType": kind, "Inputs": tensors[0], "Constants": tensors[1], "Metadata": metadata}


def _largest_type(told: Mapping[str, Any], kind: str) -> str:
    """The weights' type where they are not named: they are the largest of constants and inputs behind the first."""
    others = [*(told.get("Inputs") or [])[1:], *(told.get("Constants") or [])]
    sized = [tensor for tensor in others if isinstance(tensor, dict) and tensor.get("Dimensions")]
    if not sized or not _BUSY.search(kind):
        return ""
    return _type(max(sized, key=lambda tensor: prod(tensor["Dimensions"])))


def _type(tensor: Mapping[str, Any]) -> str:
    """TensorRT 11 tells the type in a field of its own; before, it stood in the format."""
    return _precision(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype", ""))


def _precision(words: str) -> str:
    found = (_PRECISIONS.get(word) for word in re.findall(r"[a-z0-9]+", words.lower()))
    return next(filter(None, found), _UNKNOWN)
