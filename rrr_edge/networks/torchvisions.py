"""Classifiers of torchvision as networks of ours: its modules under its names, what they cost, and their shapes."""

from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from torchvision.models.convnext import CNBlock
from torchvision.ops.misc import Permute

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.sources import CLASSIFIERS, ClassifierBackbone
from rrr_edge.bundle.spec import Part, TorchvisionSpec
from rrr_edge.networks.resnet import GlobalMean

Shapes = dict[str, tuple[int, ...]]
# torch's own. MobileNetV3 has 0.01, made for trainings of hundreds of thousands of steps: after the few hundred that a
# few hundred photos give, its statistics would still be those of the first ones.
_MOMENTUM = 0.1


class Torchvision(nn.Module):
    """The network of a spec, initialised as torchvision does; the state dict is torchvision's too.

    Deviation: the momentum of all batch statistics is 0.1.
    """

    def __init__(self, spec: TorchvisionSpec) -> None:
        super().__init__()
        self.spec = spec
        device = torch.get_default_device()
        with torch.device("cpu"):  # RegNets compute their widths with tensors, which on "meta" have no values
            whole = get_model(spec.backbone, weights=None, num_classes=spec.num_classes)
        *trunk, (self._last, last) = [part for part in whole.named_children() if part[0] != "avgpool"]
        self._trunk = tuple(name for name, _ in trunk)
        for name, part in trunk:
            self.add_module(name, part)
        self.avgpool = GlobalMean()
        self.add_module(self._last, last)
        # A head that normalises channels flattens by itself.
        self._flattens = not any(isinstance(part, nn.Flatten) for part in last.modules())
        _adapt(self)
        self.to(device)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 1, K] of normalised images [N, 3, H, W]."""
        x = images
        for name in self._trunk:
            x = self.get_submodule(name)(x)
        pooled = self.avgpool(x)
        logits: Tensor = self.get_submodule(self._last)(pooled.flatten(1) if self._flattens else pooled)
        return logits.unsqueeze(1)

    def part_of_layer(self, name: str) -> Part:
        """The part of the network in which the module of that name lies: its resolution's, or "heads" after it."""
        if name.partition(".")[0] not in self._trunk:
            return "heads"
        source = CLASSIFIERS[self.spec.backbone]
        begins: dict[str, Part] = {source.conv4: "conv4", source.conv5: "conv5"}
        part: Part = "stump"
        for module, _ in self.named_modules():
            part = begins.get(module, part)
            if module == name:
                break
        return part

    def deployed(self) -> "Torchvision":
        """A copy in which ConvNeXt's products over the channels are the 1x1 convolutions that they are equal to.

        On the device they then are layers of images, whose MACs are counted as such.
        """
        copy = deepcopy(self)
        for block in [module.block for module in copy.modules() if isinstance(module, CNBlock)]:
            block[3] = nn.Sequential(Permute([0, 3, 1, 2]), _pointwise(block[3]))
            block[5] = _pointwise(block[5])
            block[6] = nn.Identity()
        return copy

    @property
    def head(self) -> nn.Module:
        """The last layer, the only one that depends on the number of classes."""
        return self.get_submodule(CLASSIFIERS[self.spec.backbone].head)


def _pointwise(product: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(product.in_features, product.out_features, 1)
    convolution.weight.data = product.weight.data[:, :, None, None]
    convolution.bias = product.bias
    return convolution.to(product.weight)


def _adapt(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _MOMENTUM
        for name, part in module.named_children():
            if isinstance(part, nn.AdaptiveAvgPool2d):  # to a single pixel, before squeeze-and-excitation
                setattr(module, name, GlobalMean())


@cache
def trunk_shapes(backbone: ClassifierBackbone) -> Shapes:
    """The state dict's names and shapes without the last layer."""
    with torch.device("meta"):
        state = Torchvision(TorchvisionSpec(backbone=backbone, num_classes=2)).state_dict()
    head = CLASSIFIERS[backbone].head
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name.rpartition(".")[0] != head}


def torchvision_cost(spec: TorchvisionSpec, image_size: int) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict, counted by torch on the module itself."""
    with torch.device("meta"):
        network = Torchvision(spec).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(
        params=params,
        trainable_params=params,
        macs=int(counter.get_total_flops()) // 2,
        weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()),
    )
