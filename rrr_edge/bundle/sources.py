"""The table of source networks: torchvision's ResNets, whose weights a compression begins with."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

BlockKind = Literal["basic", "bottleneck"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
BottleneckBackbone = Literal["resnet50", "resnet101", "resnet152"]
PhaseDepths: TypeAlias = tuple[int, int, int, int]
Shape: TypeAlias = tuple[int, ...]

_EXPANSION: dict[BlockKind, int] = {"basic": 1, "bottleneck": 4}
_PLANES = (64, 128, 256, 512)


class Source(NamedTuple):
    """A ResNet by the name that people write, its kind of block, and the number of blocks in conv2_x .. conv5_x."""

    name: str
    block: BlockKind
    depths: PhaseDepths
    is_named: bool = True

    @property
    def features(self) -> int:
        """The channels that the classifier reads."""
        return _EXPANSION[self.block] * _PLANES[-1]

    def shapes(self) -> dict[str, Shape]:
        """The state dict's names and shapes, as torchvision has them, without the classifier."""
        return dict(_trunk(self))


SOURCES: dict[str, Source] = {
    "resnet18": Source("ResNet18", "basic", (2, 2, 2, 2)),
    "resnet34": Source("ResNet34", "basic", (3, 4, 6, 3)),
    "resnet50": Source("ResNet50", "bottleneck", (3, 4, 6, 3)),
    "resnet101": Source("ResNet101", "bottleneck", (3, 4, 23, 3)),
    "resnet152": Source("ResNet152", "bottleneck", (3, 8, 36, 3)),
}
BACKBONE: BottleneckBackbone = "resnet152"


def _trunk(source: Source) -> Iterator[tuple[str, Shape]]:
    yield from _conv("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for phase, (planes, depth) in enumerate(zip(_PLANES, source.depths, strict=True), start=1):
        outputs = _EXPANSION[source.block] * planes
        for name in (f"layer{phase}.{i}" for i in range(depth)):
            kernels: tuple[tuple[int, int, int], ...] = ((planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1))
            if source.block == "basic":
                kernels = ((planes, inputs, 3), (planes, planes, 3))
            for i, kernel in enumerate(kernels, start=1):
                yield from _conv(f"{name}.conv{i}", f"{name}.bn{i}", *kernel)
            if inputs != outputs:
                yield from _conv(f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1)
            inputs = outputs


def _conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    """A convolution without bias, and its batch normalisation."""
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    for statistic in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{statistic}", (outputs,)
    yield f"{norm}.num_batches_tracked", ()
