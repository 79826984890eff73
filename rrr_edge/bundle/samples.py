"""samples.csv of a profile: every run, with this process's own time and what other programs took meanwhile."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rrr_edge.bundle.measurements import Measurement
from rrr_edge.errors import BadInput, reading

SAMPLES = "samples.csv"
# Of a measurement, by the name of the column.
_KNOWN = {"ms": "samples_ms", "cpu_ms": "cpu_ms", "others": "loads"}


def write_samples(path: Path, measurements: Iterable[Measurement]) -> None:
    """A row for each run: `others` is the share of the cores' time that other programs took in its round, if known."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("candidate", "round", *_KNOWN))
        for m in measurements:
            unknown = (None,) * len(m.samples_ms)
            columns = (m.samples_ms, m.cpu_ms or unknown, m.loads or unknown)
            for round_, numbers in enumerate(zip(*columns, strict=True)):
                rows.writerow((m.name, round_, *("" if n is None else repr(n) for n in numbers)))


def read_samples(path: Path) -> dict[str, dict[str, tuple[float | None, ...]]]:
    """The fields of each measurement, by its name. Raises BadInput.

    What is in no row, as in files of earlier versions, is not known of any.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    try:
        with reading(path), path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                fields = found.setdefault(row["candidate"], {field: [] for field in _KNOWN.values()})
                fields["samples_ms"].append(float(row["ms"]))
                for column in ("cpu_ms", "others"):
                    fields[_KNOWN[column]].append(float(row[column]) if row.get(column) else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    return {
        name: {field: tuple(values) if any(v is not None for v in values) else () for field, values in fields.items()}
        for name, fields in found.items()
    }
