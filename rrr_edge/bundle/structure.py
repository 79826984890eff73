"""The structure of a ResNet as data: layers, parameters, MACs."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.spec import ChannelSpec, Part, PhaseWidths, ResNetSpec

# Whose structure is described here: bottleneck blocks in one piece or with branches at the end.
BranchedSpec: TypeAlias = ResNetSpec | ChannelSpec

STUMP_CHANNELS = 512
SKIP = "downsample.0"

_EXPANSION = 4
_FLOAT_BYTES = 4
STUMP = ("conv1", "bn1", "layer1", "layer2")
_LATE_PARTS: dict[str, Part] = {"layer3": "conv4", "layer4": "conv5", "avgpool": "heads", "fc": "heads"}


class ConvShape(NamedTuple):
    """A convolution without bias and its batch normalisation; channels are those of one branch."""

    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    branches: int = 1
    shared: bool = False  # all branches read the same channels

    @property
    def params(self) -> int:
        return self.branches * self.outputs * (self.inputs * self.kernel**2 + 2)

    @property
    def weights_bytes(self) -> int:
        """Of all tensors: the parameters, the running mean and variance, and the count of batches (int64)."""
        return _FLOAT_BYTES * (self.params + 2 * self.branches * self.outputs) + 8

    def macs(self, size: int) -> int:
        """MACs for an output of `size` x `size`."""
        return self.branches * self.outputs * self.inputs * self.kernel**2 * size**2

    def thop_macs(self, size: int) -> int:
        """The unit of Fig. 1, that of the tool thop: 4 more for every element that is normalised."""
        return self.macs(size) + 4 * self.branches * self.outputs * size**2


class BlockShape(NamedTuple):
    """A bottleneck block; `name` is its module's, channels are those of one branch."""

    name: str
    inputs: int
    planes: tuple[int, int]
    outputs: int
    stride: int
    branches: int
    shared: bool
    projects: bool

    @property
    def convs(self) -> dict[str, ConvShape]:
        """By the name of the module in the block, in the order of the state dict."""
        first, second = self.planes
        convs = {
            "conv1": ConvShape(self.inputs, first, branches=self.branches, shared=self.shared),
            "conv2": ConvShape(first, second, 3, self.stride, self.branches),
            "conv3": ConvShape(second, self.outputs, branches=self.branches),
        }
        if self.projects:
            convs[SKIP] = ConvShape(self.inputs, self.outputs, 1, self.stride, self.branches, self.shared)
        return convs


class Layer(NamedTuple):
    """A convolution of the network, the name of its normalisation, and the side of its square output."""

    name: str
    norm: str
    conv: ConvShape
    size: int


def block_shapes(spec: BranchedSpec) -> tuple[tuple[BlockShape, ...], ...]:
    """The blocks of conv2_x .. conv5_x."""
    inputs, phases = stem_layers(spec).outputs, []
    for phase, widths in enumerate(_phases(spec)):
        stride = (1, 2, 2, 2)[phase]
        branches = (1, 1, spec.branches, spec.branches)[phase]
        name, outputs = f"layer{phase + 1}", widths.outputs
        first, *others = widths.blocks
        shared = phase == 2 and branches > 1
        phases.append(
            (
                BlockShape(f"{name}.0", inputs, first, outputs, stride, branches, shared, True),
                *(
                    BlockShape(f"{name}.{i}", outputs, planes, outputs, 1, branches, False, False)
                    for i, planes in enumerate(others, start=1)
                ),
            )
        )
        inputs = outputs
    return tuple(phases)


def stem_layers(spec: BranchedSpec) -> ConvShape:
    return ConvShape(3, spec.stem if isinstance(spec, ChannelSpec) else _PLANES[0], 7, 2)


def _phases(spec: BranchedSpec) -> tuple[PhaseWidths, ...]:
    if isinstance(spec, ChannelSpec):
        return spec.phases
    every = zip((*_PLANES, *spec.branch_widths), spec.depths, strict=True)
    return tuple(PhaseWidths(outputs=_EXPANSION * w, blocks=((w, w),) * depth) for w, depth in every)


def layers(spec: BranchedSpec, image_size: int) -> Iterator[Layer]:
    """All convolutions in the order of the state dict, for square images."""
    size = _halved(image_size)
    yield Layer("conv1", "bn1", stem_layers(spec), size)
    size = _halved(size)
    for block in (block for phase in block_shapes(spec) for block in phase):
        strided = _halved(size) if block.stride == 2 else size
        for part, conv in block.convs.items():
            norm = "downsample.1" if part == SKIP else part.replace("conv", "bn")
            yield Layer(f"{block.name}.{part}", f"{block.name}.{norm}", conv, size if part == "conv1" else strided)
        size = strided


def in_stump(name: str) -> bool:
    """Whether the module or tensor of that name belongs to what all branches share."""
    return name.partition(".")[0] in STUMP


def part_of_layer(name: str) -> Part:
    """The part of the network in which the module of that name lies."""
    return _LATE_PARTS.get(name.partition(".")[0], "stump")


def resnet_cost(spec: BranchedSpec, image_size: int, *, stump_frozen: bool = True) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict, counted on the structure."""
    convs = list(layers(spec, image_size))
    classes = spec.branches * spec.num_classes
    head_macs = classes * block_shapes(spec)[-1][-1].outputs
    head_params = head_macs + classes
    return Cost(
        params=sum(layer.conv.params for layer in convs) + head_params,
        trainable_params=sum(layer.conv.params for layer in convs if not (stump_frozen and in_stump(layer.name)))
        + head_params,
        macs=sum(layer.conv.macs(layer.size) for layer in convs) + head_macs,
        weights_bytes=sum(layer.conv.weights_bytes for layer in convs) + _FLOAT_BYTES * head_params,
    )


# Of conv2_x and conv3_x; the former are the stem's too.
_PLANES = (64, 128)


def _halved(size: int) -> int:
    return (size + 1) // 2
