"""A network small enough to train in a test."""

import torch
from torch import Tensor

from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.networks import Network, build

CLASSES = 3


def small_network(*, branches: int = 2, dropout: float = 0.0, frozen: bool = True) -> Network:
    """The same every time."""
    spec = ResNetSpec(
        depths=(1, 1, 1, 1), branches=branches, branch_widths=(8, 12), num_classes=CLASSES, dropout=dropout
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = build(spec)
    if frozen:
        network.freeze_stump()
    return network


def weights(network: Network) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
