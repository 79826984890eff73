"""What a network is compared with: files that the workshop left in the bundle, and sessions that a caller hands in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from rrr_edge.backends.protocols import Session
from rrr_edge.bundle import SCHEMA, FileEntry, Preprocess, check_file
from rrr_edge.errors import CannotRunHere
from rrr_edge.measurement import Subject
from rrr_edge.record import Record
from rrr_edge.spec import NetworkSpec

LATENCY_ONLY = "latency only, random weights"


class Baseline(Record):
    """The card beside `baselines/NAME.onnx`, a network for latency only; `macs` are those of one image."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge baseline"] = "rrr-edge baseline"
    name: str
    spec: NetworkSpec
    preprocess: Preprocess
    params: int
    macs: int
    weights: Literal["random"] = "random"
    model: FileEntry

    @classmethod
    def read(cls, model: Path) -> "Baseline":
        """The card of the file `model`. Raises CannotRunHere (not made yet), CorruptArtifact, BadInput."""
        if not (model.is_file() and card_of(model).is_file()):
            raise CannotRunHere(
                f"{model} is missing: networks to compare with are made where PyTorch is installed.",
                advice="Run: pip install 'rrr-edge[compress]', then the command again; or compare with nothing: "
                "--against none",
            )
        card = cls.from_json_file(card_of(model))
        check_file(model, card.model, f"rm -r {model.parent}, then the command again")
        return card


def card_of(model: Path) -> Path:
    return model.with_suffix(".json")


class Rival(NamedTuple):
    """An open session to be timed beside the engine; whoever opened it closes it."""

    name: str
    session: Session
    subject: Subject


@dataclass(frozen=True)
class Against:
    """`models` are ONNX files with cards, compiled by the engine's own backend; `rivals` are ready to run."""

    models: tuple[Path, ...] = ()
    rivals: tuple[Rival, ...] = ()
