"""The structure of tailored networks as data: paths, parameters, MACs, and what tasks have in common."""

from collections.abc import Iterator
from typing import NamedTuple

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.sources import SOURCES, BlockKind
from rrr_edge.bundle.structure import SKIP, ConvShape
from rrr_edge.bundle.tailored import STEM, ProxyWidths, TailoredSpec, whole_network

_PLANES = (64, 128, 256, 512)
_EXPANSIONS: dict[BlockKind, int] = {"basic": 1, "bottleneck": 4}
_FLOAT_BYTES = 4
STEM_CONV = ConvShape(3, 64, 7, 2)


class NodeShape(NamedTuple):
    """A node of a backbone and the universal block before it; `name` is the module's, `phase` counts from 0."""

    name: str
    phase: int
    kind: BlockKind
    inputs: int
    planes: int
    outputs: int
    stride: int

    @property
    def convs(self) -> dict[str, ConvShape]:
        """By the name of the module in the node, in the order of the state dict."""
        if self.kind == "basic":
            found = {
                "conv1": ConvShape(self.inputs, self.planes, 3, self.stride),
                "conv2": ConvShape(self.planes, self.outputs, 3),
            }
        else:
            found = {
                "conv1": ConvShape(self.inputs, self.planes),
                "conv2": ConvShape(self.planes, self.planes, 3, self.stride),
                "conv3": ConvShape(self.planes, self.outputs),
            }
        if self.stride != 1 or self.inputs != self.outputs:
            found[SKIP] = ConvShape(self.inputs, self.outputs, 1, self.stride)
        return found

    def proxy_convs(self, inputs: int, widths: ProxyWidths) -> dict[str, ConvShape]:
        """Those of a proxy from a node with `inputs` channels (Morgado and Vasconcelos 2019, section 3.2)."""
        if self.kind == "basic":
            return {"conv1": ConvShape(inputs, self.outputs)}
        width = max(self.outputs // 32, 16) if widths == "code" else self.outputs // 16
        return {"conv1": ConvShape(inputs, width), "conv2": ConvShape(width, self.outputs)}


def node_shapes(backbone: str) -> dict[int, NodeShape]:
    """The nodes of a backbone by their numbers, from 1."""
    source = SOURCES[backbone]
    expansion, inputs = _EXPANSIONS[source.block], STEM_CONV.outputs
    found: dict[int, NodeShape] = {}
    for phase, (planes, depth) in enumerate(zip(_PLANES, source.depths, strict=True)):
        outputs = expansion * planes
        for i in range(depth):
            stride = 2 if phase and not i else 1
            name = f"layer{phase + 1}.{i}"
            found[len(found) + 1] = NodeShape(name, phase, source.block, inputs, planes, outputs, stride)
            inputs = outputs
    return found


def channels_of(shapes: dict[int, NodeShape], node: int) -> int:
    return STEM_CONV.outputs if node == STEM else shapes[node].outputs


def pooling(shapes: dict[int, NodeShape], source: int, node: int) -> int:
    """How many times the resolution of `source` is that of `node`: the stride of the proxy's max-pooling."""
    phase = 0 if source == STEM else shapes[source].phase
    stride: int = 2 ** (shapes[node].phase - phase)
    return stride


class Path(NamedTuple):
    """One path into a node: its convolutions by name, each with the side of its square output."""

    source: int
    node: int
    universal: bool
    convs: tuple[tuple[ConvShape, int], ...]

    @property
    def params(self) -> int:
        return sum(conv.params for conv, _ in self.convs)

    @property
    def macs(self) -> int:
        return sum(conv.macs(size) for conv, size in self.convs)

    @property
    def flops(self) -> int:
        """As the authors' code counts: MACs, and 2 for every normalised element."""
        return self.macs + sum(2 * conv.outputs * size**2 for conv, size in self.convs)


def paths(spec: TailoredSpec, image_size: int) -> Iterator[Path]:
    """All paths, node by node, for square images."""
    shapes = node_shapes(spec.backbone)
    for own, node in spec.existing.items():
        shape = shapes[own]
        size = _size(image_size, shape.phase)
        before = _size(image_size, shape.phase - 1) if shape.stride == 2 else size
        if node.block:
            # In a bottleneck the second convolution has the stride.
            unstrided = "conv1" if shape.kind == "bottleneck" else ""
            convs = tuple((conv, before if name == unstrided else size) for name, conv in shape.convs.items())
            yield Path(own - 1, own, True, convs)
        for source in node.proxies:
            proxy = shape.proxy_convs(channels_of(shapes, source), spec.proxy_widths)
            yield Path(source, own, False, tuple((conv, size) for conv in proxy.values()))


def backbone_flops(spec: TailoredSpec, image_size: int) -> int:
    """Of the whole backbone without its classifier, as the authors' code counts: the stem at a quarter of its places.

    3,581,010,944 for ResNet34 at 224 pixels, the paper's 3.58 billion.
    """
    size = _size(image_size, 0)
    stem = STEM_CONV.macs(size) + 2 * STEM_CONV.outputs * size**2
    whole = whole_network(spec.backbone, spec.num_classes)
    return stem + sum(path.flops for path in paths(whole, image_size))


def tailored_cost(spec: TailoredSpec, image_size: int) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict, counted on the structure.

    Shared are the universal convolutions, and the scales and shifts of their normalisation, but not its statistics.
    """
    every = list(paths(spec, image_size))
    universal = [conv for path in every if path.universal for conv, _ in path.convs] + [STEM_CONV]
    own = [conv for path in every if not path.universal for conv, _ in path.convs]
    features = channels_of(node_shapes(spec.backbone), len(spec.nodes))
    attention = sum(node.paths for node in spec.existing.values() if node.paths > 1)
    head = spec.num_classes * (features + 1)
    shared = sum(conv.params for conv in universal)
    task = sum(conv.params for conv in own) + attention + head
    return Cost(
        params=shared + task,
        trainable_params=task,
        macs=sum(path.macs for path in every) + STEM_CONV.macs(_halved(image_size)) + spec.num_classes * features,
        weights_bytes=sum(conv.weights_bytes for conv in (*universal, *own)) + _FLOAT_BYTES * (attention + head),
        shared_params=shared,
        shared_bytes=_FLOAT_BYTES * shared,
    )


def _size(image_size: int, phase: int) -> int:
    """The side of a phase's feature maps."""
    for _ in range(2 + phase):
        image_size = _halved(image_size)
    return image_size


def _halved(size: int) -> int:
    return (size + 1) // 2
