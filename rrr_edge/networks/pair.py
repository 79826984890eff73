"""A convolution as a pair: one whose filters are a basis, and a 1x1 convolution that scales it (Wong et al. 2021)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_edge.bundle.basis import Importance


class Pair(nn.Module):
    """`basis`, R filters a branch, then `scaling`, a 1x1 convolution [B*C, R] of B groups; nothing lies between them.

    While they are learned, `factors` [B*R], branch-major, multiply what `scaling` reads of each basis vector, and
    `importance` [B*R] adds up their Taylor terms t = (dL/df) f, or t^2, over all steps.
    """

    importance: Tensor | None

    def __init__(self, basis: nn.Conv2d, scaling: nn.Conv2d) -> None:
        super().__init__()
        self.basis = basis
        self.scaling = scaling
        self.factors: nn.Parameter | None = None
        self.register_buffer("importance", None)

    @classmethod
    def like(cls, conv: nn.Conv2d, rank: int, branches: int) -> "Pair":
        """In the place of `conv`; its weights are whatever was in memory."""
        return cls(
            _alike(conv, branches * rank, bias=False),
            _scaling(conv, branches * rank, conv.out_channels, branches, bias=conv.bias is not None),
        )

    def initialise(self) -> "Pair":
        """Draw weights with which activations neither grow nor vanish."""
        nn.init.normal_(self.basis.weight, std=self.basis.weight[0].numel() ** -0.5)
        inputs, outputs = self.basis.weight.shape[1], self.out_channels // self.branches
        nn.init.normal_(self.scaling.weight, std=(2 * inputs / (outputs * self.rank)) ** 0.5)
        if self.scaling.bias is not None:
            nn.init.zeros_(self.scaling.bias)
        return self

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.basis(x)
        if self.factors is None:
            return cast(Tensor, self.scaling(found))
        return F.conv2d(found, self.scaled(), self.scaling.bias, groups=self.branches)

    @property
    def branches(self) -> int:
        return self.scaling.groups

    @property
    def rank(self) -> int:
        return self.scaling.weight.shape[1]

    @property
    def in_channels(self) -> int:
        return self.basis.in_channels

    @property
    def out_channels(self) -> int:
        return self.scaling.out_channels

    def scaled(self) -> Tensor:
        """The weight [B*C, R, 1, 1] of `scaling` with the factors in it."""
        weight = self.scaling.weight
        if self.factors is None:
            return weight
        rows = weight.reshape(self.branches, -1, self.rank) * self.factors.reshape(self.branches, 1, self.rank)
        return rows.reshape(weight.shape)

    def learn_factors(self, importance: Importance) -> None:
        """Freeze both convolutions, and let the factors learn, of 1 where there were none; `importance` starts at 0."""
        self.requires_grad_(False)
        start = torch.ones_like(self.basis.weight[:, 0, 0, 0]) if self.factors is None else self.factors.detach()
        self.factors = nn.Parameter(start.clone())
        self.importance = torch.zeros_like(start)
        power = {"taylor2": 2, "taylor1": 1}[importance]

        def add(gradient: Tensor) -> None:
            # At this moment the factors are still those that the gradient was computed at.
            assert self.factors is not None
            assert self.importance is not None
            self.importance.add_((gradient.detach() * self.factors.detach()) ** power)

        self.factors.register_hook(add)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def kept(self, rows: Tensor) -> "Pair":
        """A copy with the basis vectors `rows` [B, R'] of each branch alone, factors too."""
        every = (rows + self.rank * torch.arange(self.branches)[:, None]).flatten()
        bias = self.scaling.bias
        basis = _alike(self.basis, len(every), bias=False)
        basis.weight.copy_(self.basis.weight[every])
        scaling = _scaling(self.basis, len(every), self.out_channels, self.branches, bias=bias is not None)
        columns = rows.unsqueeze(1).expand(-1, self.out_channels // self.branches, -1)
        weight = self.scaling.weight.reshape(self.branches, -1, self.rank).gather(2, columns)
        scaling.weight.copy_(weight.reshape(scaling.weight.shape))
        if bias is not None and scaling.bias is not None:
            scaling.bias.copy_(bias)
        found = Pair(basis, scaling)
        if self.factors is not None:
            found.factors = nn.Parameter(self.factors[every].clone())
        return found

    @torch.no_grad()
    def absorbed(self) -> "Pair":
        """A copy with the factors as a part of `scaling`."""
        found = self.kept(torch.arange(self.rank).expand(self.branches, -1))
        found.scaling.weight.copy_(self.scaled())
        found.factors = None
        return found

    @torch.no_grad()
    def product(self) -> nn.Conv2d:
        """The one convolution that computes the same."""
        conv = _alike(self.basis, self.out_channels, bias=self.scaling.bias is not None)
        scaled = self.scaled().double().reshape(self.branches, -1, self.rank)
        filters = self.basis.weight.double().reshape(self.branches, self.rank, -1)
        conv.weight.copy_((scaled @ filters).reshape(conv.weight.shape))
        if conv.bias is not None and self.scaling.bias is not None:
            conv.bias.copy_(self.scaling.bias)
        return conv


def _alike(conv: nn.Conv2d, outputs: int, *, bias: bool) -> nn.Conv2d:
    """A convolution of the same class that reads the same inputs in the same way, without weights yet."""
    found = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        type(conv),
        conv.in_channels,
        outputs,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=bias,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return cast(nn.Conv2d, found)


def _scaling(like: nn.Conv2d, inputs: int, outputs: int, groups: int, *, bias: bool) -> nn.Conv2d:
    """A 1x1 convolution, without weights yet."""
    device, dtype = like.weight.device, like.weight.dtype
    found = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, inputs, outputs, 1, groups=groups, bias=bias, device=device, dtype=dtype
    )
    return cast(nn.Conv2d, found)
