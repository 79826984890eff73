"""Write the JSON Schemas anew."""

from rrr_edge.bundle.schemas import FOLDER, PUBLISHED, schema_text

for name, record in PUBLISHED.items():
    (FOLDER / f"{name}.json").write_text(schema_text(record))
