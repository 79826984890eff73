"""Small graphs as ONNX files, on devices that have no library to write them (onnx.proto, ONNX 1.17)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IR_VERSION = 8
OPSET = 18
FLOAT, UINT8 = 1, 2

_ELEMENTS = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8, np.dtype(np.int64): 7}
_VARINT, _LENGTH = 0, 2
_INT, _INTS = 2, 7


class Node(NamedTuple):
    """Its name is that of its one output; attributes are integers, or lists of them."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, int | Sequence[int]] = {}


class Port(NamedTuple):
    """An input or output of the graph; a word in its shape is a side of any length."""

    name: str
    element: int
    shape: tuple[int | str, ...]


def encode(
    nodes: Sequence[Node], constants: Mapping[str, NDArray[np.generic]], inputs: Sequence[Port], outputs: Sequence[Port]
) -> bytes:
    """The bytes of a file whose graph has `nodes` in an order in which they can run."""
    graph = b"".join(
        (
            *(_field(1, _node(node)) for node in nodes),
            _field(2, "graph"),
            *(_field(5, _tensor(name, values)) for name, values in constants.items()),
            *(_field(11, _port(port)) for port in inputs),
            *(_field(12, _port(port)) for port in outputs),
        )
    )
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(2, OPSET))


def _node(node: Node) -> bytes:
    parts = [_field(1, name) for name in node.inputs]
    parts += [_field(2, node.output), _field(3, node.output), _field(4, node.kind)]
    parts += [_field(5, _attribute(name, value)) for name, value in node.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, _INT)
    return _field(1, name) + b"".join(_field(8, number) for number in value) + _field(20, _INTS)


def _tensor(name: str, values: NDArray[np.generic]) -> bytes:
    sides = b"".join(_field(1, side) for side in values.shape)
    return sides + _field(2, _ELEMENTS[values.dtype]) + _field(8, name) + _field(9, values.tobytes())


def _port(port: Port) -> bytes:
    shape = b"".join(_field(1, _field(2 if isinstance(side, str) else 1, side)) for side in port.shape)
    return _field(1, port.name) + _field(2, _field(1, _field(1, port.element) + _field(2, shape)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return bytes((*_varint(number << 3 | _VARINT), *_varint(value)))
    data = value.encode() if isinstance(value, str) else value
    return bytes((*_varint(number << 3 | _LENGTH), *_varint(len(data)))) + data


def _varint(value: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first; a set eighth bit says that more follow. Negative ones have 64 bits."""
    value &= (1 << 64) - 1
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
