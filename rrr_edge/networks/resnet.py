"""Bottleneck ResNets: whole, reduced to leading blocks, with slimmer convolutions, or with fused branches at the end.

With one branch the state dict and the arithmetic are torchvision's, bit for bit. Several branches are one grouped
network (Sun et al. 2023, section 3): the first 1x1 and the skip convolution of conv4_1 read the shared stump as one
wide convolution, all that follows is grouped, and branch i owns rows i*C .. (i+1)*C of every weight.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from rrr_edge.anatomy import Part
from rrr_edge.bundle import Cost
from rrr_edge.spec import ChannelSpec, NetworkSpec, PhaseWidths

STUMP_CHANNELS = 512
SKIP = "downsample.0"

_EXPANSION = 4
_FLOAT_BYTES = 4
_STUMP = ("conv1", "bn1", "layer1", "layer2")
_LATE_PARTS: dict[str, Part] = {"layer3": "conv4", "layer4": "conv5", "avgpool": "heads", "fc": "heads"}


class ResNet(nn.Module):
    """The network of a spec, initialised as torchvision does, each branch as if it stood alone."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stump_frozen = False
        self.conv1, self.bn1 = _conv_and_norm(_stem(spec))
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        phases = block_shapes(spec)
        last_two = [shape for phase in phases for shape in phase][-2:]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(Bottleneck(s, _dropout(spec) if s in last_two else nn.Identity()) for s in phase))
            for phase in phases
        )
        self.avgpool = GlobalMean()
        self.fc = Heads(phases[-1][-1].outputs, spec.branches, spec.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, B, K] of normalised images [N, 3, H, W]."""
        return self.branches(self.stump(images))

    def stump(self, images: Tensor) -> Tensor:
        """Features [N, C, h, w] of normalised images [N, 3, H, W]: conv1, conv2_x and conv3_x. Unslimmed, C = 512."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer2(self.layer1(x))
        return features

    def branches(self, features: Tensor) -> Tensor:
        """Logits [N, B, K] of features [N, C, h, w] that all branches share, or of [N, B*C, h, w].

        In the second form each branch reads its own C channels (branch-major), with the same weights: so branches
        that see different batches run in one pass.
        """
        shared = cast(Bottleneck, self.layer3[0]).conv1.in_channels
        if features.shape[1] not in (shared, self.spec.branches * shared):
            raise ValueError(
                f"features have {features.shape[1]} channels; {self.spec.branches} branches "
                f"read {shared} shared or {self.spec.branches * shared} of their own"
            )
        logits: Tensor = self.fc(self.avgpool(self.layer4(self.layer3(features))))
        return logits

    def stump_modules(self) -> tuple[nn.Module, ...]:
        return tuple(self.get_submodule(name) for name in _STUMP)

    def freeze_stump(self) -> None:
        """Stop gradients to the stump and keep it in eval mode from now on, whatever `train()` says."""
        self.stump_frozen = True
        for module in self.stump_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ResNet":
        super().train(mode)
        if self.stump_frozen:
            for module in self.stump_modules():
                module.eval()
        return self


class Bottleneck(nn.Module):
    """1x1, 3x3 (which has the stride) and 1x1 convolution beside a skip; with `dropout` after each ReLU."""

    def __init__(self, shape: "BlockShape", dropout: nn.Module) -> None:
        super().__init__()
        convs = shape.convs
        self.conv1, self.bn1 = _conv_and_norm(convs["conv1"])
        self.conv2, self.bn2 = _conv_and_norm(convs["conv2"])
        self.conv3, self.bn3 = _conv_and_norm(convs["conv3"])
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout
        self.downsample = nn.Sequential(*_conv_and_norm(convs[SKIP])) if shape.projects else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.relu(self.bn1(self.conv1(x))))
        out = self.dropout(self.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.dropout(self.relu(out))
        return result


class GlobalMean(nn.Module):
    """nn.AdaptiveAvgPool2d(1), bit for bit; but that one is exported with index arithmetic which no engine needs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class SharedInput(nn.Conv2d):
    """A 1x1 convolution whose branches all read the same channels, or, given B times as many, each its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, stride=self.stride, groups=x.shape[1] // self.in_channels)


class Heads(nn.Linear):
    """One classifier a branch: pooled [N, B*F, 1, 1] to logits [N, B, K]; weight [B*K, F], bias [B*K].

    nn.Linear's own initialisation is right for each branch, whose fan-in is F.
    """

    def __init__(self, features: int, branches: int, classes: int) -> None:
        super().__init__(features, branches * classes)
        self.branches = branches

    def forward(self, pooled: Tensor) -> Tensor:
        if self.branches == 1:
            return super().forward(pooled.flatten(1)).unsqueeze(1)
        logits = F.conv2d(pooled, self.weight[:, :, None, None], self.bias, groups=self.branches)
        return logits.reshape(-1, self.branches, self.out_features // self.branches)


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


def block_shapes(spec: NetworkSpec) -> tuple[tuple[BlockShape, ...], ...]:
    """The blocks of conv2_x .. conv5_x."""
    inputs, phases = _stem(spec).outputs, []
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


def _stem(spec: NetworkSpec) -> ConvShape:
    return ConvShape(3, spec.stem if isinstance(spec, ChannelSpec) else _PLANES[0], 7, 2)


def _phases(spec: NetworkSpec) -> tuple[PhaseWidths, ...]:
    if isinstance(spec, ChannelSpec):
        return spec.phases
    every = zip((*_PLANES, *spec.branch_widths), spec.depths, strict=True)
    return tuple(PhaseWidths(outputs=_EXPANSION * w, blocks=((w, w),) * depth) for w, depth in every)


def layers(spec: NetworkSpec, image_size: int) -> Iterator[Layer]:
    """All convolutions in the order of the state dict, for square images."""
    size = _halved(image_size)
    yield Layer("conv1", "bn1", _stem(spec), size)
    size = _halved(size)
    for block in (block for phase in block_shapes(spec) for block in phase):
        strided = _halved(size) if block.stride == 2 else size
        for part, conv in block.convs.items():
            norm = "downsample.1" if part == SKIP else part.replace("conv", "bn")
            yield Layer(f"{block.name}.{part}", f"{block.name}.{norm}", conv, size if part == "conv1" else strided)
        size = strided


def in_stump(name: str) -> bool:
    """Whether the module or tensor of that name belongs to what all branches share."""
    return name.partition(".")[0] in _STUMP


def part_of(name: str) -> Part:
    """The part of the network in which the module of that name lies."""
    return _LATE_PARTS.get(name.partition(".")[0], "stump")


def cost(spec: NetworkSpec, image_size: int, *, stump_frozen: bool = True) -> Cost:
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
_DROPOUTS = {"channel": nn.Dropout2d, "plain": nn.Dropout}


def _conv_and_norm(shape: ConvShape) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    groups = 1 if shape.shared else shape.branches
    conv = (SharedInput if shape.shared else nn.Conv2d)(
        shape.inputs * groups,
        shape.outputs * shape.branches,
        shape.kernel,
        shape.stride,
        padding=shape.kernel // 2,
        groups=groups,
        bias=False,
    )
    # kaiming_normal_(mode="fan_out") with the fan of one branch; on the fused weight it would count all of them.
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (shape.outputs * shape.kernel**2)))
    return conv, nn.BatchNorm2d(shape.outputs * shape.branches)


def _dropout(spec: NetworkSpec) -> nn.Module:
    if isinstance(spec, ChannelSpec) or not spec.dropout:
        return nn.Identity()
    return _DROPOUTS[spec.dropout_kind](spec.dropout)


def _halved(size: int) -> int:
    return (size + 1) // 2
