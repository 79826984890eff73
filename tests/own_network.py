"""A user's own small ResNet with a classifier fitted to the drawn shapes, as a file, and torchvision's answers.

Not in conftest.py, because tests cannot import from that.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms.v2 import functional as vision

from rrr_edge.bundle.manifest import Preprocess

DEPTHS = [1, 1, 1, 1]


def make_own(
    images: np.ndarray, labels: np.ndarray, *, classes: int, noise: float = 0.0, depths: Sequence[int] = DEPTHS
) -> ResNet:
    """Random features, and the linear classifier of them that fits one-hot labels best; `noise` makes it err."""
    torch.manual_seed(0)
    network = ResNet(BasicBlock, list(depths), num_classes=classes)
    fc, network.fc = network.fc, nn.Identity()
    with torch.no_grad():
        network.train()
        features = network(normalised(images))  # sets the statistics
        network.eval()
        features = network(normalised(images))
        ones = torch.cat([features, torch.ones(len(features), 1)], 1)
        solved = torch.linalg.lstsq(ones, torch.eye(classes)[torch.from_numpy(labels)], driver="gelsd").solution
        fc.weight.copy_(solved[:-1].T + noise * torch.randn(classes, solved.shape[0] - 1) * solved[:-1].std())
        fc.bias.copy_(solved[-1])
    network.fc = fc
    return network.eval()


def normalised(images: np.ndarray, preprocess: Preprocess | None = None) -> Tensor:
    of = preprocess or Preprocess(image_size=images.shape[1])
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return vision.normalize(pixels, list(of.mean), list(of.std))


def torchvisions_answers(network: ResNet, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(normalised(images)).argmax(1).numpy()


def save(network: ResNet, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path
