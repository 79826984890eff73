"""How a network is made: one small model a method. What is in a recipe decides the result; nothing else does."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rrr_edge.errors import BadInput, UsageError, choose
from rrr_edge.record import Record
from rrr_edge.spec import Depths


class Schedule(Record):
    """How the learning rate moves: not at all, by half cosines down to 0, or by triangles down to a half and back.

    The cosine cycles fill the training (Huang et al. 2017); the triangular ones its last fifth (Garipov et al. 2018).
    """

    shape: Literal["constant", "cosine", "triangular"] = "constant"
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


class RRR(Record):
    """Reuse, reduce, recycle (Sun et al. 2023).

    `weights`: "imagenet" (torchvision V1), "imagenet-v2", "timm" (resnet152.a1h_in1k, the authors'), "random", or a
    file of tensors in torchvision's naming. `depths` keeps that many leading blocks a phase; `branches` > 1 splits
    conv4_x, conv5_x and the head by Algorithm 2.
    """

    method: Literal["rrr"] = "rrr"
    weights: str = "imagenet"
    image_size: int = Field(default=128, ge=32, le=1024)
    seed: int = Field(default=0, ge=0)
    depths: Depths = (1, 1, 1, 1)
    branches: int = Field(default=8, ge=1, le=256)
    training: Training = Training()


# The union of all methods, told apart by `method`, as soon as there is a second one.
Recipe = RRR
METHODS: dict[str, type[Recipe]] = {"rrr": RRR}


def read_recipe(path: Path | None, **options: Any) -> Recipe:
    """The recipe in the TOML file `path`, with every option that is not None in its place.

    Options named like a field of Training go there. Raises BadInput for the file and UsageError for the options.
    """
    method = options.pop("method", None)
    stored = RRR.from_toml_file(path).model_dump(exclude_unset=True) if path else {}
    chosen = {name: value for name, value in options.items() if value is not None}
    training = {name: chosen.pop(name) for name in list(chosen) if name in Training.model_fields}
    merged = {**stored, **chosen, "training": {**stored.get("training", {}), **training}}
    recipe = METHODS[choose(method or stored.get("method", "rrr"), METHODS, "method")]
    try:
        return recipe.parse(merged, "The recipe")
    except BadInput as error:
        raise UsageError(str(error)) from error
