"""The settings of a training and of a block selection, which recipes are made of."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import ADDITIONS

Shape = Literal["constant", "cosine", "triangular", "step"]
OptimizerName = Literal["adamw", "sgd"]
Order = Literal["algorithm", "cyclic"]
Keep = Literal["average", "last", "best"]


class Schedule(Record):
    """How the learning rate moves: not at all, by half cosines down to 0, by triangles down to a half and back, or by
    steps to a tenth.

    The cosine cycles fill the training (Huang et al. 2017); the triangular ones its last fifth (Garipov et al. 2018).
    The steps are after 40% and 80% of it (Morgado and Vasconcelos 2019: epochs 8 and 16 of 20, or 20 and 40 of 50).
    """

    shape: Shape = "constant"
    cycles: int = Field(default=1, ge=1)


class Training(Record):
    """The training of Sun et al. 2023, Appendix C: AdamW without a schedule, EMA over the last fifth.

    `shared_batches`: all branches see the same augmented batch; otherwise each has its own shuffling and its own
    augmentation, as in the paper. `augment` draws two of the twelve transforms for every image. `feature_views` > 0
    augments every image that many times, once for all, and keeps the frozen stump's features of these views.
    `momentum` is SGD's.

    `validation_share` of the training photos of each class is held out where there is no val/: the paper trains on all.
    They decide nothing unless `keep` is "best", or a method chooses depths or sizes by them. `keep` "best" takes the
    weights of the epoch that is right most often on them, of several the one with the lowest cross-entropy, averaged
    weights once there are some; and `patience_epochs` ends the training so many epochs after it. `balance` shows each
    class equally often, as many images an epoch as before.
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
    validation_share: float | None = Field(
        default=None,
        ge=0,
        le=0.5,
        description="Share of the training photos that is held out for validation where there is no val/; unless given "
        "0.1, or 0.2 where they decide",
    )
    keep: Keep = Field(
        default="average", description="Weights to keep: average (of the last epochs), last, or best on validation"
    )
    patience_epochs: int | None = Field(
        default=None, ge=1, description="With --keep best, end after so many epochs without a better one"
    )
    balance: bool = Field(default=False, description="Show each class equally often")
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.patience_epochs and self.keep != "best":
            raise ValueError("patience_epochs ends a training by its best epoch, which needs keep = best")
        if self.feature_views > 1 and not self.augment:
            raise ValueError(f"{self.feature_views} feature_views of an image are all the same without augment")
        return self


_SAID = {name: field.description for name, field in Training.model_fields.items()}


class TailorTraining(Training):
    """The student's training of Morgado and Vasconcelos 2019: SGD with momentum, a rate that falls in steps, no EMA.

    The teacher and the last tuning learn at a tenth of its `learning_rate`.
    """

    epochs: int = Field(default=50, ge=0, description=_SAID["epochs"])
    optimizer: OptimizerName = Field(default="sgd", description=_SAID["optimizer"])
    learning_rate: float = Field(default=0.1, gt=0, description=_SAID["learning_rate"])
    weight_decay: float = Field(default=5e-4, ge=0, description=_SAID["weight_decay"])
    ema_fraction: float = Field(default=0.0, ge=0, le=1, description=_SAID["ema_fraction"])
    schedule: Schedule = Schedule(shape="step")


class BasisTraining(Training):
    """The training of a factored network's factors and classifier: Adam without weight decay, no average.

    The paper's settings are not known to us; these are ours. All branches see the same batch.
    """

    epochs: int = Field(default=30, ge=0, description=_SAID["epochs"])
    weight_decay: float = Field(default=0.0, ge=0, description=_SAID["weight_decay"])
    ema_fraction: float = Field(default=0.0, ge=0, le=1, description=_SAID["ema_fraction"])
    shared_batches: bool = Field(default=True, description=_SAID["shared_batches"])


class Selection(Record):
    """Forward block selection v1 (Sun et al. 2023, Algorithm 1), which `depths = "auto"` asks for.

    From ResNet_1_1_1_1 on, trained whole, one block after the other is appended and training goes on for
    `epochs_per_step` (the training's epochs, unless given). A step whose relative gain (Acc - Old) / Acc is less than
    `epsilon` ends the procedure, and the network without its block is taken. The paper states no value. Ours, unless
    given, is 5 / n for n validation images: five more right answers and not one more wrong are the least that a sign
    test can tell from luck (2^-5 = 3.1% < 5%). It must not be 0, or blocks that change nothing would be kept.

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
