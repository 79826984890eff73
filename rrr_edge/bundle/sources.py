"""The tables of source networks: torchvision's ResNets, and its small classifiers that are tuned as they are."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

BlockKind = Literal["basic", "bottleneck"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
BottleneckBackbone = Literal["resnet50", "resnet101", "resnet152"]
ClassifierBackbone = Literal[
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "convnext_tiny",
]
AnyBackbone = Literal[Backbone, ClassifierBackbone]
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


class ClassifierSource(NamedTuple):
    """A network of torchvision that is no ResNet, by the name that people write.

    `layers` are the convolutions and products that follow each other on the longest way through it, and `head` is the
    name of its last linear layer, which has one output a class. With the modules called `conv4` and `conv5` begin those
    parts that answer at a sixteenth and at a 32nd of the image's side, as those phases of a ResNet do.
    """

    name: str
    layers: int
    head: str
    conv4: str
    conv5: str


# By torchvision's names of their builders.
CLASSIFIERS: dict[str, ClassifierSource] = {
    "mobilenet_v2": ClassifierSource("MobileNetV2", 53, "classifier.1", "features.7", "features.14"),
    "mobilenet_v3_small": ClassifierSource("MobileNetV3-Small", 54, "classifier.3", "features.4", "features.9"),
    "mobilenet_v3_large": ClassifierSource("MobileNetV3-Large", 64, "classifier.3", "features.7", "features.13"),
    "efficientnet_b0": ClassifierSource("EfficientNet-B0", 82, "classifier.1", "features.4", "features.6"),
    "shufflenet_v2_x0_5": ClassifierSource("ShuffleNetV2-x0.5", 51, "fc", "stage3", "stage4"),
    "shufflenet_v2_x1_0": ClassifierSource("ShuffleNetV2-x1.0", 51, "fc", "stage3", "stage4"),
    "regnet_x_400mf": ClassifierSource("RegNetX-400MF", 68, "fc", "trunk_output.block3", "trunk_output.block4"),
    "regnet_y_400mf": ClassifierSource("RegNetY-400MF", 82, "fc", "trunk_output.block3", "trunk_output.block4"),
    "regnet_y_800mf": ClassifierSource("RegNetY-800MF", 72, "fc", "trunk_output.block3", "trunk_output.block4"),
    "convnext_tiny": ClassifierSource("ConvNeXt-Tiny", 59, "classifier.2", "features.4", "features.6"),
}


def name_of(backbone: str) -> str:
    """The name that people write for the source network of that key."""
    return (SOURCES[backbone] if backbone in SOURCES else CLASSIFIERS[backbone]).name


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
