"""JSON Schemas of everything a bundle stores; `python -m rrr_edge.bundle.schemas` writes them anew."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rrr_edge.bundle.baseline import BaselineCard
from rrr_edge.bundle.calibration import Calibration
from rrr_edge.bundle.engine import DeviceVerification, Engine, Prepared
from rrr_edge.bundle.evaluation import Evaluation
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.reference_network import ReferenceNetwork
from rrr_edge.bundle.search import SearchState
from rrr_edge.bundle.target import Target

PUBLISHED: dict[str, Any] = {
    "manifest": Manifest,
    "engine": Engine,
    "prepared": Prepared,
    "verified": DeviceVerification,
    "calibrated": Calibration,
    "profile": Profile,
    "baseline": BaselineCard,
    "evaluation": Evaluation,
    "reference_network": ReferenceNetwork,
    "target": Target,
    "recipe": Recipe,
    "search": SearchState,
}
FOLDER = Path(__file__).parent


def schema_text(stored: Any) -> str:
    """Of what is stored of a record, or of a union of such."""
    schema = TypeAdapter(stored).json_schema(by_alias=True, mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
