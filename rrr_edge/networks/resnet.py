"""Bottleneck ResNets: whole, reduced to leading blocks, with slimmer convolutions, or with fused branches at the end.

With one branch the state dict and the arithmetic are torchvision's, bit for bit. Several branches are one grouped
network (Sun et al. 2023, section 3): the first 1x1 and the skip convolution of conv4_1 read the shared stump as one
wide convolution, all that follows is grouped, and branch i owns rows i*C .. (i+1)*C of every weight.
"""

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec
from rrr_edge.bundle.structure import SKIP, STUMP, BlockShape, BranchedSpec, ConvShape, block_shapes, stem_layers


class ResNet(nn.Module):
    """The network of a spec, initialised as torchvision does, each branch as if it stood alone."""

    def __init__(self, spec: BranchedSpec) -> None:
        super().__init__()
        self.spec: BranchedSpec | FactoredSpec = spec
        self.stump_frozen = False
        self.conv1, self.bn1 = _conv_and_norm(stem_layers(spec))
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
        return tuple(self.get_submodule(name) for name in STUMP)

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


def _dropout(spec: BranchedSpec) -> nn.Module:
    if isinstance(spec, ChannelSpec) or not spec.dropout:
        return nn.Identity()
    return _DROPOUTS[spec.dropout_kind](spec.dropout)
