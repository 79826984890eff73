"""The manifest of a bundle."""

from collections import Counter
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rrr_edge.bundle.files import FileEntry
from rrr_edge.bundle.recipe import Fit, Recipe
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.spec import NetworkSpec
from rrr_edge.bundle.verification import Accuracy, Verification

# Beyond any picture that a network of these was made for.
LARGEST_SIDE = 4096


class Preprocess(Record):
    """What turns any picture into the network's input; all but the decoding and `fit` happens in the graph.

    `decoding`: JPEG files are decoded in full, as the first bundles' were, or reduced, at the smallest of their scales
    1, 1/2, 1/4 and 1/8 that leaves twice the network's side.
    """

    image_size: int = Field(ge=1, le=LARGEST_SIDE)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fit: Fit = "crop"
    decoding: Literal["full", "reduced"] = "full"

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls(image_size=recipe.image_size, fit=recipe.fit, decoding="reduced")

    @field_validator("fit", mode="before")
    @classmethod
    def _first_name(cls, fit: Any) -> Any:
        return "crop" if fit == "centre-crop" else fit


class Cost(Record):
    """`macs` are multiply-accumulates of convolutions and linear layers for one image.

    The `shared` parameters, and their bytes, are those of the source network, bit for bit: every task that begins with
    it has them too.
    """

    params: int
    trainable_params: int
    macs: int
    weights_bytes: int
    shared_params: int = 0
    shared_bytes: int = 0


class Provenance(Record):
    weights: str
    weights_sha256: str
    data: str
    data_sha256: str
    images: dict[str, int]
    created: str
    duration_s: float
    machine: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


class Ancestor(Record):
    """A bundle that another was made from: its folder's name, how it was made, and what it held."""

    name: str
    recipe: Recipe
    weights_sha256: str
    data_sha256: str
    params: int
    accuracy: float | None
    duration_s: float


class Manifest(Sealed):
    """`parent` is the name of the bundle that this one was made from, the last of the `chain`."""

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge bundle"] = "rrr-edge bundle"
    name: str
    spec: NetworkSpec
    labels: tuple[str, ...]
    preprocess: Preprocess
    recipe: Recipe
    cost: Cost
    accuracy: Accuracy | None
    provenance: Provenance
    verification: Verification
    files: tuple[FileEntry, ...]
    parent: str | None = None
    chain: tuple[Ancestor, ...] = ()

    @model_validator(mode="after")
    def _one_label_a_class(self) -> Self:
        if len(self.labels) != self.spec.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.spec.num_classes} classes")
        for what, names in (("label", self.labels), ("file", tuple(file.name for file in self.files))):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"the {what} {twice[0]!r} is there more than once")
        return self
