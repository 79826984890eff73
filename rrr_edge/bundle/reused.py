"""The settings that all recipes have in common, such as the source network whose weights they reuse."""

from typing import Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import BACKBONE, SOURCES, AnyBackbone, BottleneckBackbone
from rrr_edge.bundle.spec import Depths
from rrr_edge.bundle.training import Training

Fit = Literal["crop", "squash", "pad"]
RANDOM = "random"
AnyDepths: TypeAlias = Depths | Literal["auto"] | None


class Reused(Record):
    """What all methods have: they begin with the weights of the source network `backbone`.

    `weights`: "imagenet" (torchvision V1), "imagenet-v2", "timm" (its default: for ResNet152 resnet152.a1h_in1k, the
    paper's authors'), "random", or a file with the tensors of that network.
    """

    backbone: AnyBackbone = Field(default=BACKBONE, description="Source network")
    weights: str = Field(
        default="imagenet", description="imagenet, imagenet-v2, timm, random, or a file with the backbone's tensors"
    )
    image_size: int = Field(default=128, ge=32, le=1024, description="Side of the network's input in pixels")
    fit: Fit = Field(
        default="crop",
        description="How a photo becomes square: crop (its centre), squash (all of it, out of proportion) or pad (all "
        "of it, on gray)",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything random")
    training: Training = Training()

    @field_validator("depths", check_fields=False)
    @classmethod
    def _blocks_exist(cls, depths: AnyDepths, info: ValidationInfo) -> AnyDepths:
        source = SOURCES.get(info.data.get("backbone", ""))
        if depths is None or depths == "auto" or source is None:
            return depths
        for phase, kept, most in zip(range(2, 6), depths, source.depths, strict=True):
            if kept > most:
                raise ValueError(f"conv{phase}_x keeps {kept} blocks, but {source.name} has 1 to {most} there")
        return depths


class OfBottlenecks(Reused):
    backbone: BottleneckBackbone = Field(default=BACKBONE, description="Source network")


class Chained(Reused):
    """Methods that can go on from another bundle's network: `start`, "from" in files and on the command line."""

    start: str | None = Field(default=None, alias="from", description="Bundle to begin with instead of the backbone")
