"""The recipes, one model a method: all settings that decide how a network is made."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from rrr_edge.bundle.basis import BasisScaling, Importance, Normalise
from rrr_edge.bundle.reused import RANDOM, Chained, Fit, OfBottlenecks, Reused
from rrr_edge.bundle.sources import BACKBONE, CLASSIFIERS, SOURCES, AnyBackbone, Backbone, name_of
from rrr_edge.bundle.spec import Depths, DropoutKind
from rrr_edge.bundle.tailored import ProxyWidths
from rrr_edge.bundle.training import (
    BasisTraining,
    OptimizerName,
    Order,
    Schedule,
    Selection,
    Shape,
    TailorTraining,
    Training,
)

__all__ = [
    "METHODS",
    "RANDOM",
    "RRR",
    "BasisScaling",
    "BasisTraining",
    "Block",
    "BlockOrder",
    "Channel",
    "Criterion",
    "Element",
    "Ensemble",
    "FineTune",
    "Fit",
    "Importance",
    "LinearProbe",
    "NetTailor",
    "Normalise",
    "OptimizerName",
    "Order",
    "Recipe",
    "Schedule",
    "Selection",
    "Shape",
    "Split",
    "TailorTraining",
    "Training",
]

Split = Literal["paper", "coherent"]
Ensemble = Literal["naive", "bagging", "snapshot", "fge"]
Criterion = Literal["random", "magnitude"]
BlockOrder = Literal["reverse", "forward"]

_DEPTHS = "Leading blocks kept in conv2_x..conv5_x, all of the backbone's unless given"
_CRITERION = "Random ones go, or the smallest (magnitude)"


class RRR(OfBottlenecks):
    """Reuse, reduce, recycle (Sun et al. 2023).

    `depths` keeps that many leading blocks a phase, or "auto" finds out how many, as `selection` says. `branches` > 1
    splits conv4_x, conv5_x and the head: as Algorithm 2 is printed ("paper"), or so that each branch is a true
    sub-network of the original ("coherent"). The default is what did better in examples/study: mean test error 34.8%
    coherent, 37.2% as printed, 38.9% with one branch over four drawn tasks, and 17.5, 19.3 and 21.8% over three on
    which it had not been chosen.

    `ensemble` (Appendix C): "naive" branches learn side by side, each from all images; "bagging" gives each its own
    bootstrap sample; "snapshot" and "fge" train a single branch, whose states at low learning rates become the
    branches (the raw ones: no average over the last epochs). `dropout` acts in the last two blocks after every ReLU.
    """

    method: Literal["rrr"] = "rrr"
    depths: Depths | Literal["auto"] = Field(
        default=(1, 1, 1, 1), description="Leading blocks kept in conv2_x..conv5_x, or auto: block selection"
    )
    branches: int = Field(default=8, ge=1, le=256, description="Branches that share conv4_x, conv5_x and the head")
    split: Split = Field(
        default="coherent", description="True sub-networks (coherent), or Algorithm 2 as printed (paper)"
    )
    ensemble: Ensemble = Field(default="naive", description="How the branches are made to differ")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Rate after each ReLU of the last two blocks")
    dropout_kind: DropoutKind = Field(default="channel", description="Drop whole channels, or single values (plain)")
    selection: Selection | None = None

    @model_validator(mode="before")
    @classmethod
    def _auto_needs_settings(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("depths") == "auto" and data.get("selection") is None:
            return data | {"selection": {}}
        return data

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.selection and self.depths != "auto":
            raise ValueError("the settings of a block selection need depths = auto")
        if self.selection and not (self.selection.epochs_per_step or self.training.epochs):
            raise ValueError("a block selection learns nothing in 0 epochs")
        if self.training.feature_views and self.weights == RANDOM:
            raise ValueError(
                "random weights learn in the stump too, so feature_views cannot keep its answers: set it to 0"
            )
        if self.ensemble == "naive":
            return self
        if self.weights == RANDOM:
            raise ValueError(f"{self.ensemble} keeps the stump as it is, which is no use with random weights")
        if self.ensemble == "bagging" and self.training.shared_batches:
            raise ValueError("bagging gives each branch its own batches: they cannot be shared")
        if self.ensemble != "bagging" and self.training.keep == "best":
            raise ValueError(f"{self.ensemble} keeps the states at its lowest learning rates, not the best")
        if self.ensemble != "bagging" and self.training.schedule != Schedule():
            raise ValueError(f"{self.ensemble} has a schedule of its own")
        if self.ensemble != "bagging" and not self.training.epochs:
            raise ValueError(f"{self.ensemble} takes its branches from a training, which cannot have 0 epochs")
        return self


class _Unsplit(Reused):
    """`depths` counts the leading blocks of each phase of a ResNet; all of the backbone's, unless given.

    A ResNet18 or ResNet34 keeps all of its blocks, and a network of torchvision that is no ResNet has none.
    """

    backbone: AnyBackbone = Field(default=BACKBONE, description="Source network, any of these")
    depths: Depths | None = Field(default=SOURCES[BACKBONE].depths, description=_DEPTHS)

    @model_validator(mode="before")
    @classmethod
    def _all_blocks(cls, data: Any) -> Any:
        backbone = str(data.get("backbone")) if isinstance(data, dict) else ""
        if backbone in SOURCES:
            return {"depths": SOURCES[backbone].depths, **data}
        return {"depths": None, **data} if backbone in CLASSIFIERS else data

    @model_validator(mode="after")
    def _only_bottlenecks_go(self) -> Self:
        source = SOURCES.get(self.backbone)
        if source and source.block == "bottleneck":
            if self.depths is None:
                raise ValueError(f"{source.name} needs to know how many blocks it keeps")
        elif self.depths != (source.depths if source else None):
            raise ValueError(f"{name_of(self.backbone)} is used whole: leave depths out")
        return self


class LinearProbe(_Unsplit):
    """Baseline [A] of Sun et al. 2023: of a network in one piece only a new classifier learns.

    As in the authors' code, and not in what "frozen" suggests, its batch statistics adapt to the photos meanwhile.
    """

    method: Literal["linear-probe"] = "linear-probe"


class FineTune(_Unsplit):
    """Baseline [B] of Sun et al. 2023: a network in one piece with a new classifier, of which everything learns."""

    method: Literal["finetune"] = "finetune"


class _Pruned(OfBottlenecks):
    """`sparsity` is the share of all parameters of the backbone that goes, before everything that is left learns."""

    sparsity: float = Field(default=0.5, ge=0, lt=1, description="Share of the backbone's parameters that goes")


class Element(_Pruned, Chained):
    """Single weights become zero, as large a share in every layer, and stay so; the shapes remain.

    `criterion`: "random", as in Sun et al. 2023 (figure 3), or the smallest by "magnitude".
    """

    method: Literal["element"] = "element"
    criterion: Criterion = Field(default="random", description=_CRITERION)


class Channel(_Pruned, Chained):
    """Whole channels go, as large a share in every layer, and the convolutions really get slimmer.

    `criterion`: "random", as in Sun et al. 2023 (figure 3), or those of the smallest norm over all that they are
    coupled to ("magnitude"). Widths are multiples of `round_to`.
    """

    method: Literal["channel"] = "channel"
    criterion: Criterion = Field(default="random", description=_CRITERION)
    round_to: int = Field(default=1, ge=1, description="Widths become multiples of this")


class Block(_Pruned):
    """Whole blocks go, but the first of a phase: in the "reverse" of Algorithm 1's order, or "forward", conv2_x first.

    Sun et al. 2023 leave open which; the reverse goes through the networks that Algorithm 1 visits.
    """

    method: Literal["block"] = "block"
    order: BlockOrder = Field(default="reverse", description="conv5_x goes first (reverse), or conv2_x (forward)")


class NetTailor(Reused):
    """A ResNet of which each task uses only some blocks, and small proxies of its own (Morgado and Vasconcelos 2019).

    `losses` are those of the authors' "code" or of the "paper". They differ in how far the imitation of a block
    reaches, how it is averaged, and in the borders of the expected complexity.
    """

    method: Literal["nettailor"] = "nettailor"
    backbone: Backbone = Field(default="resnet50", description="The source network")
    training: TailorTraining = TailorTraining()
    max_skip: Annotated[int, Field(ge=1)] | Literal["dense"] = Field(
        default=3, description="Proxies lead to a block from that many blocks before it, or from all (dense)"
    )
    complexity: float = Field(default=0.3, ge=0, description="Weight of the expected complexity in the loss")
    mimic: float = Field(default=10.0, ge=0, description="Weight of the distance to the teacher in the loss")
    losses: Literal["code", "paper"] = Field(default="code", description="Both as in the authors' code, or the paper")
    proxy_widths: ProxyWidths = Field(default="code", description="1/8 of a bottleneck's (code), or 1/4 (paper)")
    prune_proxies: float = Field(default=0.05, ge=0, lt=1, description="Attention up to which a proxy is removed")
    drop_blocks: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="How many of the blocks with the least attention are removed, or auto: a search"
    )
    within: float = Field(default=0.005, ge=0, lt=1, description="Accuracy that the search may lose to the teacher's")
    teacher: str | None = Field(default=None, description="Bundle to imitate; unless given a network is trained first")
    teacher_epochs: int | None = Field(default=None, ge=1, description="Epochs of the teacher; unless given --epochs")
    tune_epochs: int | None = Field(default=None, ge=1, description="Epochs after pruning; unless given --epochs")

    @model_validator(mode="after")
    def _one_branch(self) -> Self:
        if self.training.shared_batches or self.training.feature_views:
            raise ValueError("shared_batches and feature_views are for networks with branches on a stump")
        return self


AnyRecipe: TypeAlias = RRR | LinearProbe | FineTune | Element | Channel | Block | NetTailor | BasisScaling
Recipe: TypeAlias = Annotated[AnyRecipe, Field(discriminator="method")]
METHODS: dict[str, type[AnyRecipe]] = {
    "rrr": RRR,
    "linear-probe": LinearProbe,
    "finetune": FineTune,
    "element": Element,
    "channel": Channel,
    "block": Block,
    "nettailor": NetTailor,
    "basis": BasisScaling,
}
