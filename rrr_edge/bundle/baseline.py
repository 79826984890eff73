"""Baseline networks that a profile compares with: their ONNX files in the bundle and the cards beside these."""

from pathlib import Path
from shlex import quote
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from rrr_edge.bundle.files import FileEntry, require_file
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.measurements import Granularity
from rrr_edge.bundle.record import SCHEMA, SchemaVersion, Sealed
from rrr_edge.bundle.sources import BACKBONE, AnyBackbone, name_of
from rrr_edge.bundle.spec import NetworkSpec
from rrr_edge.errors import CannotRunHere, pip_install

LATENCY_ONLY = "latency only, random weights"
# So many typical images are enough for what is there for its time only.
BASELINE_CALIBRATION_IMAGES = 32


class Point(NamedTuple):
    """A source network as it is ("baseline"), or with about the share `sparsity` of its parameters gone."""

    granularity: Granularity = "baseline"
    sparsity: float = 0.0
    backbone: AnyBackbone = BACKBONE

    @property
    def words(self) -> str:
        # Profiles keep these words, so they stay as they are.
        return f"{self.granularity} {percent(self.sparsity)} %" if self.sparsity else name_of(self.backbone)

    @property
    def stem(self) -> str:
        """Of its file's name."""
        return f"{self.granularity}-{percent(self.sparsity)}" if self.sparsity else self.backbone


def percent(sparsity: float) -> str:
    return f"{100 * sparsity:g}"


class BaselineCard(Sealed):
    """The card beside `baselines/NAME.onnx`, a network for latency only; `macs` are those of one image.

    `sparsity` is the share of the source network's parameters that is gone, `sparsity_asked` the one that was asked.
    """

    unsealed_before: ClassVar[str | None] = "seal"
    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge baseline"] = "rrr-edge baseline"
    name: str
    spec: NetworkSpec
    preprocess: Preprocess
    params: int
    macs: int
    weights: Literal["random"] = "random"
    granularity: Granularity = "baseline"
    sparsity: float = 0.0
    sparsity_asked: float = 0.0
    model: FileEntry

    @classmethod
    def read(cls, model: Path) -> "BaselineCard":
        """The card of the file `model`. Raises CannotRunHere (not made yet), CorruptArtifact, BadInput."""
        if not (model.is_file() and card_of(model).is_file()):
            raise CannotRunHere(
                f"{model} is missing: networks to compare with are made where PyTorch is installed.",
                advice=f"Run: {pip_install('compress')}, then the command again; or compare with nothing: "
                "--against none",
            )
        card = cls.from_json_file(card_of(model))
        require_file(model, card.model, f"rm {quote(str(model))} {quote(str(card_of(model)))}; then the command again")
        return card


def card_of(model: Path) -> Path:
    return model.with_suffix(".json")


def obstacle_of(model: Path) -> Path:
    """Where it is said why there is no file `model`, when there can be none."""
    return model.with_suffix(".txt")
