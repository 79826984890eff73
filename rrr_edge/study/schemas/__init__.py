"""JSON Schemas of everything a study stores; `python -m rrr_edge.study.schemas` writes them anew."""

from pathlib import Path
from typing import Any

from rrr_edge.study.plan import Plan
from rrr_edge.study.records import Begun, CellRecord, Failure, Timing

PUBLISHED: dict[str, Any] = {"study": Plan, "begun": Begun, "cell": CellRecord, "timing": Timing, "failure": Failure}
FOLDER = Path(__file__).parent
