"""Names of files and classes: which files are pictures, which names are equal, how they are printed."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from rrr_edge.images.decode import FORMATS, HEIF_BRANDS

# What a camera or a browser saves.
SUFFIXES = tuple(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "qoi", "avif", "heic", "heif"),
    )
)
# What lies beside photos and is none.
_NO_PICTURES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".db", ".ini")
# Control characters, lone surrogates, separators of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def has_picture_name(path: Path) -> bool:
    """Whether a file ends like a picture; one without any ending, whether its first bytes are a picture's."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    return not path.suffix and path.is_file() and _begins_like_a_picture(path)


def is_unknown(path: Path) -> bool:
    """Whether a file that has no picture's name might be one all the same."""
    return bool(path.suffix) and path.suffix.lower() not in _NO_PICTURES and path.is_file()


def _begins_like_a_picture(path: Path) -> bool:
    from PIL import Image

    Image.init()
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    accepts = [Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN]
    heif = head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    return heif or any(accept is not None and accept(head) is True for accept in accepts)


def nfc(name: str) -> str:
    """The name with composed characters: macOS decomposes those of files."""
    return unicodedata.normalize("NFC", name)


def is_printable(name: str) -> bool:
    return not any(unicodedata.category(character) in _UNPRINTABLE for character in name)


def shown(name: str | os.PathLike[str]) -> str:
    """The name as valid UTF-8 without control characters, which are escaped like in Python's strings."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in str(name)
    )


def first_few(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more
