"""JSON Schemas of everything a bundle stores; `python -m rrr_edge.schemas` writes them anew."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rrr_edge.bundle import Engine, Manifest, Prepared
from rrr_edge.recipe import Recipe
from rrr_edge.target import Target

PUBLISHED: dict[str, Any] = {
    "manifest": Manifest,
    "engine": Engine,
    "prepared": Prepared,
    "target": Target,
    "recipe": Recipe,
}
FOLDER = Path(__file__).parent


def schema_text(stored: Any) -> str:
    """`stored` is a record's type, or a union of such."""
    return json.dumps(TypeAdapter(stored).json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"
