"""How a network is made: one small model a method. What is in a recipe decides the result; nothing else does."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from rrr_edge.bundle.record import Record, faults
from rrr_edge.bundle.spec import ADDITIONS, RESNET152_DEPTHS, Depths, DropoutKind
from rrr_edge.errors import BadInput, UsageError, choose

Split = Literal["paper", "coherent"]
Ensemble = Literal["naive", "bagging", "snapshot", "fge"]
Shape = Literal["constant", "cosine", "triangular"]
Order = Literal["algorithm", "cyclic"]
Criterion = Literal["random", "magnitude"]
BlockOrder = Literal["reverse", "forward"]

RANDOM = "random"


class Schedule(Record):
    """How the learning rate moves: not at all, by half cosines down to 0, or by triangles down to a half and back.

    The cosine cycles fill the training (Huang et al. 2017); the triangular ones its last fifth (Garipov et al. 2018).
    """

    shape: Shape = "constant"
    cycles: int = Field(default=1, ge=1)


class Training(Record):
    """The training of Sun et al. 2023, Appendix C: AdamW without a schedule, EMA over the last fifth.

    `shared_batches`: all branches see the same augmented batch; otherwise each has its own shuffling and its own
    augmentation, as in the paper. `augment` draws two of the twelve transforms for every image. `feature_views` > 0
    augments every image that many times, once for all, and keeps the frozen stump's features of these views.
    """

    epochs: int = Field(default=300, ge=0)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    ema_fraction: float = Field(default=0.2, ge=0, le=1)
    shared_batches: bool = False
    augment: bool = True
    feature_views: int = Field(default=0, ge=0)
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

    epsilon: float | None = Field(default=None, gt=0, lt=1)
    stop: bool = True
    max_additions: int = Field(default=ADDITIONS, ge=0, le=ADDITIONS)
    order: Order = "algorithm"
    control: bool = False
    epochs_per_step: int | None = Field(default=None, ge=1)


class _Reused(Record):
    """What all methods have: they begin with the weights of a ResNet152.

    `weights`: "imagenet" (torchvision V1), "imagenet-v2", "timm" (resnet152.a1h_in1k, the paper's authors'), "random",
    or a file of tensors in torchvision's naming.
    """

    weights: str = "imagenet"
    image_size: int = Field(default=128, ge=32, le=1024)
    seed: int = Field(default=0, ge=0)
    training: Training = Training()


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
    depths: Depths | Literal["auto"] = (1, 1, 1, 1)
    branches: int = Field(default=8, ge=1, le=256)
    split: Split = "coherent"
    ensemble: Ensemble = "naive"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout_kind: DropoutKind = "channel"
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


class LinearProbe(_Reused):
    """Baseline [A] of Sun et al. 2023: of a ResNet152 in one piece only a new classifier learns.

    As in the authors' code, and not in what "frozen" suggests, its batch statistics adapt to the photos meanwhile.
    """

    method: Literal["linear-probe"] = "linear-probe"
    depths: Depths = RESNET152_DEPTHS


class FineTune(_Reused):
    """Baseline [B] of Sun et al. 2023: a ResNet152 in one piece with a new classifier, of which everything learns."""

    method: Literal["finetune"] = "finetune"
    depths: Depths = RESNET152_DEPTHS


class _Pruned(_Reused):
    """`sparsity` is the share of all parameters of ResNet152 that goes, before everything that is left learns."""

    sparsity: float = Field(default=0.5, ge=0, lt=1)


class Element(_Pruned):
    """Single weights become zero, as large a share in every layer, and stay so; the shapes remain.

    `criterion`: "random", as in Sun et al. 2023 (figure 3), or the smallest by "magnitude".
    """

    method: Literal["element"] = "element"
    criterion: Criterion = "random"


class Channel(_Pruned):
    """Whole channels go, as large a share in every layer, and the convolutions really get slimmer.

    `criterion`: "random", as in Sun et al. 2023 (figure 3), or those of the smallest norm over all that they are
    coupled to ("magnitude"). Widths are multiples of `round_to`.
    """

    method: Literal["channel"] = "channel"
    criterion: Criterion = "random"
    round_to: int = Field(default=1, ge=1)


class Block(_Pruned):
    """Whole blocks go, but the first of a phase: in the "reverse" of Algorithm 1's order, or "forward", conv2_x first.

    Sun et al. 2023 leave open which; the reverse goes through the networks that Algorithm 1 visits.
    """

    method: Literal["block"] = "block"
    order: BlockOrder = "reverse"


Recipe: TypeAlias = Annotated[RRR | LinearProbe | FineTune | Element | Channel | Block, Field(discriminator="method")]
METHODS: dict[str, type[RRR | LinearProbe | FineTune | Element | Channel | Block]] = {
    "rrr": RRR,
    "linear-probe": LinearProbe,
    "finetune": FineTune,
    "element": Element,
    "channel": Channel,
    "block": Block,
}
# Parts of a recipe whose settings are given on the command line like the recipe's own.
_PARTS: dict[str, type[Record]] = {"training": Training, "selection": Selection}


def read_recipe(path: Path | None, **options: Any) -> Recipe:
    """The recipe in the TOML file `path`, with every option that is not None in its place.

    Options named like a field of Training or Selection go there. Raises BadInput for the file and UsageError for the
    options.
    """
    stored = _read(path) if path else {}
    recipe = METHODS[choose(options.pop("method", None) or stored.get("method", "rrr"), METHODS, "method")]
    chosen = {name: value for name, value in options.items() if value is not None}
    _check(recipe, chosen)
    for part in _PARTS.keys() & recipe.model_fields.keys():
        record = _PARTS[part]
        moved = {name: chosen.pop(name) for name in list(chosen) if name in record.model_fields}
        if moved:
            chosen[part] = {**stored.get(part, {}), **moved}
    try:
        return recipe.model_validate({**stored, **chosen, "method": recipe.model_fields["method"].default})
    except ValidationError as error:
        named = ((key.rpartition(".")[2].replace("_", "-"), why) for key, why in faults(error))
        wrong = "; ".join(f"--{option}: {why}" if option else why for option, why in named)
        raise UsageError(f"{wrong[0].upper()}{wrong[1:]}.") from error


def _read(path: Path) -> dict[str, Any]:
    """The file's settings, valid on their own."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read as TOML: {error}.") from error
    METHODS[choose(str(data.get("method", "rrr")), METHODS, "method")].parse(data, str(path))
    return data


def _check(recipe: type[Record], options: dict[str, Any]) -> None:
    """Refuse options that the method does not have, and near misses of those that have a few words to choose from."""
    fields = dict(recipe.model_fields)
    for part in _PARTS.keys() & fields.keys():
        fields |= _PARTS[part].model_fields
    for name, value in options.items():
        if name not in fields:
            method = recipe.model_fields["method"].default
            raise UsageError(f"The method {method} has no --{name.replace('_', '-')}.", advice="Leave it out.")
        annotation = fields[name].annotation
        if get_origin(annotation) is Literal:
            choose(value, get_args(annotation), name.replace("_", " "))
