"""The tables of Meta-Album folders: `labels.csv`, and `info.json`, which may rename its columns."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrr_edge.errors import BadInput, reading
from rrr_edge.images.names import SUFFIXES, nfc, shown

_COLUMNS = {"image_column_name": "FILE_NAME", "category_column_name": "CATEGORY"}


def read_album(path: Path) -> dict[str, list[str]]:
    """The files of each class, as paths relative to `path`. Cells are separated by commas or tabs.

    Names are compared in NFC. A name may have either kind of slash, begin with images/ and lack its ending, as long as
    one file alone is meant; what names no file stays as it is. Raises BadInput.
    """
    table = path / "labels.csv"
    columns = _column_names(path / "info.json")
    header, rows = _read_table(table)
    absent = [column for column in columns if column not in header]
    if absent:
        raise BadInput(
            f"{table} has no column {', '.join(absent)}; it has {', '.join(map(shown, header))}.",
            advice="info.json may name other columns as image_column_name and category_column_name.",
        )
    at_file, at_label = map(header.index, columns)
    folder = "images" if (path / "images").is_dir() else ""
    find = _finder(path / folder)
    label_of: dict[str, str] = {}
    for number, row in rows:
        if len(row) <= max(at_file, at_label) or not (row[at_file] and row[at_label]):
            raise BadInput(f"Line {number} of {table} lacks a file or a category.")
        name, label = row[at_file], nfc(row[at_label])
        inside = name.replace("\\", "/")
        if os.path.isabs(inside) or os.path.normpath(inside).split(os.sep)[0] == os.pardir:
            raise BadInput(
                f"Line {number} of {table} names {shown(name)}, which lies outside the folder of its pictures."
            )
        file = find(name)
        if label_of.setdefault(file, label) != label:
            raise BadInput(f"{table} gives {shown(file)} two categories: {shown(label_of[file])} and {shown(label)}.")
    classes: dict[str, list[str]] = {label: [] for label in sorted(set(label_of.values()))}
    for file, label in sorted(label_of.items()):
        classes[label].append(os.path.join(folder, file))
    return classes


def _column_names(info: Path) -> tuple[str, ...]:
    if not info.is_file():
        return tuple(_COLUMNS.values())
    try:
        with reading(info):
            named = json.loads(info.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{info} cannot be read as JSON: {error}.") from error
    if not isinstance(named, dict):
        raise BadInput(
            f"{info} holds {'null' if named is None else type(named).__name__} where an object belongs.",
            advice='It may be {"image_column_name": "FILE_NAME", "category_column_name": "CATEGORY"}, or left out.',
        )
    columns = {key: default if named.get(key) is None else named[key] for key, default in _COLUMNS.items()}
    wrong = [key for key, name in columns.items() if not isinstance(name, str)]
    if wrong:
        raise BadInput(f"{info} has {wrong[0]}: {columns[wrong[0]]!r}, which is not the name of a column.")
    return tuple(columns.values())


def _read_table(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and of each line that is not empty its number and cells."""
    try:
        with reading(table), table.open(encoding="utf-8-sig", newline="") as lines:
            delimiter = "\t" if "\t" in lines.readline() else ","
            lines.seek(0)
            rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except UnicodeDecodeError as error:
        raise BadInput(f"{table} is not UTF-8 text: {error}.", advice="Save it as UTF-8.") from error
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{table} cannot be read: {error}.") from error
    cells = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, start=1)]
    filled = [(number, row) for number, row in cells if any(row)]
    if not filled:
        raise BadInput(f"{table} is empty.", advice=f"Its first line names the columns {', '.join(_COLUMNS.values())}.")
    return filled[0][1], filled[1:]


def _finder(folder: Path) -> Callable[[str], str]:
    """From names in a table to files in `folder`."""
    files = [os.path.relpath(os.path.join(here, name), folder) for here, _, names in os.walk(folder) for name in names]
    whole: dict[str, Any] = {nfc(file): file for file in files}
    stems: dict[str, list[str]] = {}
    for name, file in whole.items():
        if name.lower().endswith(SUFFIXES):
            stems.setdefault(os.path.splitext(name)[0], []).append(file)

    def find(name: str) -> str:
        plain = nfc(name)
        slashed = os.path.normpath(plain.replace("\\", "/"))
        for guess in (plain, slashed, slashed.removeprefix("images/")):
            if guess in whole:
                return str(whole[guess])
            if len(stems.get(guess, ())) == 1:
                return stems[guess][0]
        return name

    return find
