"""The expected complexity of a tailored network (Morgado and Vasconcelos 2019, equations 5 to 10)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from rrr_edge.bundle.tailored import STEM, TailoredSpec
from rrr_edge.bundle.tailored_structure import backbone_flops, paths

Form = Literal["code", "paper"]


class ExpectedComplexity:
    """The share of the whole backbone's cost that the attention of `spec`'s paths is expected to keep.

    A path of cost C counts C (1 - P_self - P_in - P_out): it is not needed where its own attention is low, or nothing
    comes into its source, or nothing goes out of its node. In the "paper" form the stem is always there and the last
    node is always read. The "code" form deviates as the authors' code does: P_in of a proxy is that of the block beside
    it, and P_in at the stem and P_out at the last node are 1, which moves the value and not the gradient.
    """

    def __init__(self, spec: TailoredSpec, image_size: int, form: Form = "code") -> None:
        self._last = len(spec.nodes)
        self._form = form
        whole = backbone_flops(spec, image_size)
        self._paths = [(path.source, path.node, path.flops / whole) for path in paths(spec, image_size)]

    def __call__(self, attention: Mapping[int, Tensor]) -> Tensor:
        """The expectation, with gradients to the `attention` of each node's paths."""
        # In the order of the paths.
        gone = list((1 - torch.cat([attention[own] for own in sorted(attention)])).unbind())
        nothing_in: dict[int, Tensor] = {}
        nothing_out: dict[int, Tensor] = {}
        for (source, node, _), absent in zip(self._paths, gone, strict=True):
            nothing_in[node] = nothing_in[node] * absent if node in nothing_in else absent
            nothing_out[source] = nothing_out[source] * absent if source in nothing_out else absent
        border = 1.0 if self._form == "code" else 0.0
        total = gone[0].new_zeros(())
        for (source, node, cost), absent in zip(self._paths, gone, strict=True):
            entered = node - 1 if self._form == "code" else source
            p_in = nothing_in.get(entered, border) if entered != STEM else border
            p_out = nothing_out.get(node, border) if node != self._last else border
            total = total + cost * (1 - absent - p_in - p_out)
        return total
