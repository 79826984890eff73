"""The recipes, one model a method: all settings that decide how a network is made."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import BACKBONE, SOURCES, Backbone
from rrr_edge.bundle.spec import ADDITIONS, Depths, DropoutKind

Split = Literal["paper", "coherent"]
Ensemble = Literal["naive", "bagging", "snapshot", "fge"]
Shape = Literal["constant", "cosine", "triangular", "step"]
OptimizerName = Literal["adamw", "sgd"]
Order = Literal["algorithm", "cyclic"]
Criterion = Literal["random", "magnitude"]
Fit = Literal["crop", "squash", "pad"]
BlockOrder = Literal["reverse", "forward"]

RANDOM = "random"
_DEPTHS = "Leading blocks kept in conv2_x..conv5_x, all of the backbone's unless given"
_CRITERION = "Random ones go, or the smallest (magnitude)"


class Schedule(Record):
    """How the learning rate moves: not at all, by half cosines down to 0, by triangles down to a half and back, or by
    steps to a tenth.

    The cosine cycles fill the training (Huang et al. 2017); the triangular ones its last fifth (Garipov et al. 2018).
    The steps are after 40 % and 80 % of it (Morgado and Vasconcelos 2019: epochs 8 and 16 of 20, or 20 and 40 of 50).
    """

    shape: Shape = "constant"
    cycles: int = Field(default=1, ge=1)


class Training(Record):
    """The training of Sun et al. 2023, Appendix C: AdamW without a schedule, EMA over the last fifth.

    `shared_batches`: all branches see the same augmented batch; otherwise each has its own shuffling and its own
    augmentation, as in the paper. `augment` draws two of the twelve transforms for every image. `feature_views` > 0
    augments every image that many times, once for all, and keeps the frozen stump's features of these views.
    `momentum` is SGD's.
    """

    epochs: int = Field(default=300, ge=0, description="Passes over the training images")
    batch_size: int = Field(default=32, ge=2, description="Images of a training step")
    optimizer: OptimizerName = Field(default="adamw", description="adamw or sgd")
    learning_rate: float = Field(default=1e-3, gt=0, description="The optimiser's learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum")
    weight_decay: float = Field(default=0.01, ge=0, description="The optimiser's weight decay")
    ema_fraction: float = Field(default=0.2, ge=0, le=1, description="Last share of the training that is averaged")
    shared_batches: bool = Field(default=False, description="One batch for all branches: faster")
    augment: bool = Field(default=True, description="Draw two of twelve transforms for every image")
    feature_views: int = Field(
        default=0, ge=0, description="Augment each image so often, once for all, and keep the stump's features"
    )
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if self.feature_views > 1 and not self.augment:
            raise ValueError(f"{self.feature_views} feature_views of an image are all the same without augment")
        return self


class Selection(Record):
    """Forward block selection v1 (Sun et al. 2023, Algorithm 1), which `depths = "auto"` asks for.

    From ResNet_1_1_1_1 on, trained whole, one block after the other is appended and training goes on for
    `epochs_per_step` (the training's epochs, unless given). A step whose relative gain (Acc - Old) / Acc is less than
    `epsilon` ends the procedure, and the network without its block is taken. The paper states no value. Ours, unless
    given, is 5 / n for n validation images: five more right answers and not one more wrong are the least that a sign
    test can tell from luck (2^-5 = 3.1 % < 5 %). It must not be 0, or blocks that change nothing would be kept.

    `stop` = false looks at all further blocks too, as in Fig. 4, but chooses the same depths. `max_additions` bounds
    either. `order`: all of conv2_x first, then conv3_x ...; or, "cyclic", one block for each phase in turn.
    `control` trains ResNet_1_1_1_1 for as many epochs in all, to compare.
    """

    epsilon: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Least relative gain that keeps a block; unless given 5 / validation images",
    )
    stop: bool = Field(default=True, description="Stop at the first block that does not pay")
    max_additions: int = Field(
        default=ADDITIONS, ge=0, le=ADDITIONS, description="Blocks that a selection tries at most"
    )
    order: Order = Field(default="algorithm", description="Phase after phase (algorithm), or phases in turn (cyclic)")
    control: bool = Field(default=False, description="Train the smallest network for as many epochs, to compare")
    epochs_per_step: int | None = Field(
        default=None, ge=1, description="Epochs of a step of a selection; unless given those of the training"
    )


class _Reused(Record):
    """What all methods have: they begin with the weights of the source network `backbone`.

    `weights`: "imagenet" (torchvision V1), "imagenet-v2", "timm" (its default: for ResNet152 resnet152.a1h_in1k, the
    paper's authors'), "random", or a file with the tensors of that network.
    """

    backbone: Backbone = Field(default=BACKBONE, description="Source network")
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
    def _blocks_exist(cls, depths: Depths | Literal["auto"], info: ValidationInfo) -> Depths | Literal["auto"]:
        source = SOURCES.get(info.data.get("backbone", ""))
        if depths == "auto" or source is None:
            return depths
        for phase, kept, most in zip(range(2, 6), depths, source.depths, strict=True):
            if kept > most:
                raise ValueError(f"conv{phase}_x keeps {kept} blocks, but {source.name} has 1 to {most} there")
        return depths


class RRR(_Reused):
    """Reuse, reduce, recycle (Sun et al. 2023).

    `depths` keeps that many leading blocks a phase, or "auto" finds out how many, as `selection` says. `branches` > 1
    splits conv4_x, conv5_x and the head: as Algorithm 2 is printed ("paper"), or so that each branch is a true
    sub-network of the original ("coherent"). The default is what did better in examples/study: four tasks, 3 seeds,
    mean test error 37.7 % coherent, 42.2 % as printed, 44.2 % with one branch, 49.1 % from random branches.

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
        if self.ensemble != "bagging" and self.training.schedule != Schedule():
            raise ValueError(f"{self.ensemble} has a schedule of its own")
        if self.ensemble != "bagging" and not self.training.epochs:
            raise ValueError(f"{self.ensemble} takes its branches from a training, which cannot have 0 epochs")
        return self


class _Unsplit(_Reused):
    """`depths` counts the leading blocks of each phase; all of the backbone's, unless given."""

    depths: Depths = Field(default=SOURCES[BACKBONE].depths, description=_DEPTHS)

    @model_validator(mode="before")
    @classmethod
    def _all_blocks(cls, data: Any) -> Any:
        source = SOURCES.get(str(data.get("backbone"))) if isinstance(data, dict) else None
        return {"depths": source.depths, **data} if source else data


class LinearProbe(_Unsplit):
    """Baseline [A] of Sun et al. 2023: of a ResNet in one piece only a new classifier learns.

    As in the authors' code, and not in what "frozen" suggests, its batch statistics adapt to the photos meanwhile.
    """

    method: Literal["linear-probe"] = "linear-probe"


class FineTune(_Unsplit):
    """Baseline [B] of Sun et al. 2023: a ResNet in one piece with a new classifier, of which everything learns."""

    method: Literal["finetune"] = "finetune"


class _Pruned(_Reused):
    """`sparsity` is the share of all parameters of the backbone that goes, before everything that is left learns."""

    sparsity: float = Field(default=0.5, ge=0, lt=1, description="Share of the backbone's parameters that goes")


class Element(_Pruned):
    """Single weights become zero, as large a share in every layer, and stay so; the shapes remain.

    `criterion`: "random", as in Sun et al. 2023 (figure 3), or the smallest by "magnitude".
    """

    method: Literal["element"] = "element"
    criterion: Criterion = Field(default="random", description=_CRITERION)


class Channel(_Pruned):
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


Recipe: TypeAlias = Annotated[RRR | LinearProbe | FineTune | Element | Channel | Block, Field(discriminator="method")]
METHODS: dict[str, type[RRR | LinearProbe | FineTune | Element | Channel | Block]] = {
    "rrr": RRR,
    "linear-probe": LinearProbe,
    "finetune": FineTune,
    "element": Element,
    "channel": Channel,
    "block": Block,
}
