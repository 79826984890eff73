"""Specifications of networks as data; `rrr_edge.networks.build(spec)` makes the module."""

from typing import Annotated, ClassVar, Literal, Self, TypeAlias, cast, get_args, overload

from pydantic import AfterValidator, Field, model_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import (
    BACKBONE,
    CLASSIFIERS,
    SOURCES,
    AnyBackbone,
    Backbone,
    BottleneckBackbone,
    ClassifierBackbone,
)
from rrr_edge.bundle.tailored import TailoredSpec, whole_network


def _exist(depths: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    for phase, kept, most in zip(range(2, 6), depths, RESNET152_DEPTHS, strict=True):
        if not 1 <= kept <= most:
            raise ValueError(f"conv{phase}_x keeps {kept} blocks, but ResNet152 has 1 to {most} there")
    return depths


Depths: TypeAlias = Annotated[tuple[int, int, int, int], AfterValidator(_exist)]
DropoutKind = Literal["channel", "plain"]
Vote = Literal["probabilities", "logits"]

RESNET152_DEPTHS: Depths = SOURCES["resnet152"].depths
SMALLEST_DEPTHS: Depths = (1, 1, 1, 1)
# Blocks that the smallest network lacks.
ADDITIONS = sum(RESNET152_DEPTHS) - sum(SMALLEST_DEPTHS)
RESNET_WIDTHS = (256, 512)


class ResNetSpec(Record):
    """ResNet_x1_x2_x3_x4 with its last two phases recycled into branches (Sun et al. 2023, section 3).

    `depths` counts the leading bottleneck blocks kept in conv2_x .. conv5_x of ResNet152. With `branches` > 1 the
    phases conv4_x and conv5_x and the classifier exist once per branch, `branch_widths` = (C4, C5) planes wide, and
    the rest (the stump) once. `dropout` applies after every ReLU of the last two blocks, to whole channels unless
    `dropout_kind` is "plain". The branches' `vote` is the mean of their softmaxes, or the softmax of their mean logits.
    """

    kind: Literal["resnet"] = "resnet"
    depths: Depths = RESNET152_DEPTHS
    branches: int = Field(default=1, ge=1, le=256)
    branch_widths: tuple[int, int] = RESNET_WIDTHS
    num_classes: int = Field(default=1000, ge=2)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    dropout_kind: DropoutKind = "channel"
    vote: Vote = "probabilities"

    @property
    def layers(self) -> int:
        """Convolutions and products that follow each other: one, three in each block, and the classifier."""
        return 2 + 3 * sum(self.depths)

    @model_validator(mode="after")
    def _widths_exist(self) -> Self:
        if any(not 1 <= width <= full for width, full in zip(self.branch_widths, RESNET_WIDTHS, strict=True)):
            raise ValueError(f"branch widths {self.branch_widths} must lie between 1 and {RESNET_WIDTHS}")
        return self


class TorchvisionSpec(Record):
    """A classifier of torchvision as it is, with a last layer for `num_classes`.

    Dropout and stochastic depth, where it has any, are torchvision's own.
    """

    kind: Literal["torchvision"] = "torchvision"
    backbone: ClassifierBackbone
    num_classes: int = Field(ge=2)

    branches: ClassVar[int] = 1
    dropout: ClassVar[float] = 0.0
    vote: ClassVar[Vote] = "probabilities"

    @property
    def layers(self) -> int:
        """As a ResNetSpec's."""
        return CLASSIFIERS[self.backbone].layers


SourceSpec: TypeAlias = ResNetSpec | TailoredSpec | TorchvisionSpec


@overload
def source_spec(num_classes: int, backbone: BottleneckBackbone = BACKBONE) -> ResNetSpec: ...
@overload
def source_spec(num_classes: int, backbone: Backbone) -> ResNetSpec | TailoredSpec: ...
@overload
def source_spec(num_classes: int, backbone: AnyBackbone) -> SourceSpec: ...
def source_spec(num_classes: int, backbone: AnyBackbone = BACKBONE) -> SourceSpec:
    """A source network in one piece: what is compressed, pruned and compared with."""
    if backbone in CLASSIFIERS:
        return TorchvisionSpec(backbone=cast(ClassifierBackbone, backbone), num_classes=num_classes)
    if SOURCES[backbone].block == "basic":
        return whole_network(cast(Backbone, backbone), num_classes)
    return ResNetSpec(depths=SOURCES[backbone].depths, num_classes=num_classes)


class PhaseWidths(Record):
    """Channels that a phase's blocks add to, and those inside each block: its first and its second convolution's."""

    outputs: int = Field(ge=1)
    blocks: tuple[tuple[int, int], ...] = Field(min_length=1)


class ChannelSpec(Record):
    """A ResNet in one piece whose convolutions each have a width of their own, as channel-wise pruning leaves them."""

    kind: Literal["channel"] = "channel"
    stem: int = Field(ge=1)
    phases: tuple[PhaseWidths, PhaseWidths, PhaseWidths, PhaseWidths]
    num_classes: int = Field(ge=2)

    @property
    def layers(self) -> int:
        """As a ResNetSpec's."""
        return 2 + 3 * sum(len(phase.blocks) for phase in self.phases)

    branches: ClassVar[int] = 1
    dropout: ClassVar[float] = 0.0
    vote: ClassVar[Vote] = "probabilities"


# The families whose convolutions can be pairs.
BaseSpec: TypeAlias = ResNetSpec | ChannelSpec | TailoredSpec


class FactoredSpec(Record):
    """A network in which some convolutions are pairs: a basis, and a 1x1 convolution that scales it (Wong et al. 2021).

    `ranks` are the numbers of basis vectors, by the convolution's name in `base`; of a grouped one, of each branch.
    """

    kind: Literal["factored"] = "factored"
    base: BaseSpec = Field(discriminator="kind")
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _are_ranks(self) -> Self:
        # The structure is described in terms of the specs.
        from rrr_edge.bundle.factored import full_ranks

        most = full_ranks(self.base)
        if unknown := [name for name in self.ranks if name not in most]:
            raise ValueError(f"there is no convolution {unknown[0]!r} in this {self.base.kind} network")
        for name, rank in self.ranks.items():
            if rank > most[name]:
                raise ValueError(f"{name} has a rank of {rank}, and at most {most[name]} are of use")
        return self

    def __hash__(self) -> int:
        return hash((self.base, *sorted(self.ranks.items())))

    @property
    def num_classes(self) -> int:
        return self.base.num_classes

    @property
    def branches(self) -> int:
        return self.base.branches

    @property
    def dropout(self) -> float:
        return self.base.dropout

    @property
    def vote(self) -> Vote:
        return self.base.vote

    @property
    def layers(self) -> int:
        """As a ResNetSpec's, at most: every pair is taken to lie on the longest way."""
        return self.base.layers + len(self.ranks)


# The union of all families, told apart by `kind`.
AnySpec: TypeAlias = ResNetSpec | ChannelSpec | TailoredSpec | FactoredSpec | TorchvisionSpec
NetworkSpec: TypeAlias = Annotated[AnySpec, Field(discriminator="kind")]
Part = Literal["input", "stump", "conv4", "conv5", "heads", "vote"]
PARTS: tuple[Part, ...] = get_args(Part)
