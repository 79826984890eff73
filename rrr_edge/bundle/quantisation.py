"""The settings of a quantisation."""

from typing import Literal

from pydantic import Field

from rrr_edge.bundle.record import Record

Ranges = Literal["minmax", "quantile", "histogram"]
FloatPrecision = Literal["fp32", "bf16", "fp16"]


class Quantisation(Record):
    """How the ranges of 8 bits are chosen, and the layers that stay floats.

    `ranges` of activations are their extremes, their outer quantiles, or those of the smallest error on a histogram.
    `bias_correction` makes up for the mean error of each layer, from statistics ("fast") or by running the layers in
    front of it quantised ("full"). `float_layers`, by the graph's names, compute in `float_precision`; the others have
    at least `least_share` of the MACs.
    """

    ranges: Ranges = "minmax"
    bias_correction: Literal["fast", "full"] = "fast"
    float_layers: tuple[str, ...] = ()
    float_precision: FloatPrecision = "fp32"
    least_share: float | None = Field(default=None, ge=0, le=1)

    @property
    def words(self) -> str:
        return f"{self.ranges} ranges, {self.bias_correction} bias correction"


PLAIN = Quantisation()
