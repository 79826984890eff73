"""The writer of the JSON Schemas: `python -m rrr_edge.bundle.schemas`."""

from rrr_edge.bundle.schemas import FOLDER, PUBLISHED, schema_text

for name, record in PUBLISHED.items():
    (FOLDER / f"{name}.json").write_text(schema_text(record))
