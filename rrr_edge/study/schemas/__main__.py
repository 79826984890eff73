"""The writer of the JSON Schemas: `python -m rrr_edge.study.schemas`."""

from rrr_edge.bundle.schemas import schema_text
from rrr_edge.study.schemas import FOLDER, PUBLISHED

for name, record in PUBLISHED.items():
    (FOLDER / f"{name}.json").write_text(schema_text(record))
