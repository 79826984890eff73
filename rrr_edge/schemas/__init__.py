"""JSON Schemas of everything a bundle stores; `python -m rrr_edge.schemas` writes them anew."""

import json
from pathlib import Path

from rrr_edge.bundle import Engine, Manifest
from rrr_edge.recipe import RRR
from rrr_edge.record import Record
from rrr_edge.target import Target

PUBLISHED: dict[str, type[Record]] = {"manifest": Manifest, "engine": Engine, "target": Target, "recipe": RRR}
FOLDER = Path(__file__).parent


def schema_text(record: type[Record]) -> str:
    return json.dumps(record.model_json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"
