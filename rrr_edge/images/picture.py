"""Decoding: files, bytes and PIL images to RGB arrays."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rrr_edge.errors import BadInput

Pixels = NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | Image.Image | Pixels

MAX_PIXELS = 100_000_000

# Raster formats only: Pillow would hand EPS to Ghostscript, and takes some files without a signature for TGA.
# HEIF and, in older versions of Pillow, AVIF are there when a plugin has registered them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "QOI")

# EXIF's orientation tag, and what undoes each of its values.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(source: Source) -> Pixels:
    """Read a picture from a path, the bytes of a file, a PIL image or an RGB array: uint8 RGB [H, W, 3].

    An array is returned as it is. The content decides about the format, not the file's name; of an animation the
    first frame is read. EXIF turns are undone, transparency is composited on white, 16-bit gray keeps its upper
    8 bits, CMYK is converted without its colour profile. The result may be read-only.

    Raises BadInput: no such file, not a picture, truncated, over 100 megapixels (judged by the header, before
    decoding), or pixels without a known range (32-bit integers and floats).
    """
    if isinstance(source, np.ndarray):
        return require_frame(source)
    if not isinstance(source, str | os.PathLike | bytes | Image.Image):
        raise BadInput(f"A picture cannot be read from {type(source).__name__}.", advice=_PASS)
    try:
        with without_warnings():
            if isinstance(source, str | os.PathLike):
                return read_file(Path(source))[0]
            return _decode(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Undecodable as error:
        name = str(source) if isinstance(source, str | os.PathLike) else "The picture"
        raise BadInput(f"{name} cannot be read: {error}.") from error


def require_frame(frame: NDArray[Any]) -> Pixels:
    """Raise BadInput unless `frame` is uint8 [H, W, 3] with pixels."""
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        return frame
    raise BadInput(f"A frame of {frame.dtype} [{', '.join(map(str, frame.shape))}] is not a picture.", advice=_PASS)


class Undecodable(Exception):
    """Why a picture cannot be read, as a clause that follows "cannot be read:"."""


def read_file(path: Path) -> tuple[Pixels, str]:
    """`load` for a file, with the SHA-256 of its bytes; reads, but never writes, the file.

    Raises Undecodable. Pillow's warnings are the caller's.
    """
    try:
        if not path.is_file():
            raise Undecodable(
                "it is a folder"
                if path.is_dir()
                else "it is no regular file"
                if path.exists()
                else "there is no such file"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return _decode(file), digest
    except (OSError, ValueError) as error:
        raise Undecodable(_clause(error)) from error


# What the warnings module would write for `ignore` with these modules, as an entry that is put in and taken out.
_IGNORED = ("ignore", None, Warning, re.compile(r"PIL\.|pillow_"), 0)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's remarks on odd files away from the user, in any number of threads at once.

    Every thread adds an entry to the filters and removes one: warnings.catch_warnings would put back a whole list, and
    with it what another thread had in force when it was entered.
    """
    entered: Any = warnings.filters
    entered.insert(0, _IGNORED)
    try:
        yield
    finally:
        _remove(entered)
        if warnings.filters is not entered:  # the app has entered or left a catch_warnings since
            _remove(warnings.filters)


def _remove(filters: Any) -> None:
    with suppress(ValueError):
        filters.remove(_IGNORED)


def _decode(source: BinaryIO | Image.Image) -> Pixels:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        if isinstance(source, Image.Image):
            return _pixels(source)
        if not source.read(1):
            raise Undecodable("it is empty")
        source.seek(0)
        with Image.open(source, formats=formats) as image:
            return _pixels(image)
    except Undecodable:
        raise
    except UnidentifiedImageError as error:
        raise Undecodable(f"it is not a picture in one of the formats {', '.join(formats)}") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(_TOO_LARGE) from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise Undecodable(_clause(error)) from error


def _pixels(image: Image.Image) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise Undecodable(_TOO_LARGE)
    if not image.width * image.height:
        raise Undecodable("it has no pixels")
    image.load()
    turn = _TURNS.get(_orientation(image))
    return _rgb(image if turn is None else image.transpose(turn), image.format)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata do not spoil the pixels
        return None


def _rgb(image: Image.Image, encoding: str | None) -> Pixels:
    # Where Pillow has no 16-bit mode for a format, it reads it into 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and encoding in ("PNG", "PPM")):
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "integers"
        raise Undecodable(f"its pixels are 32-bit {kind} of unknown range; save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _clause(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{reason[:1].lower()}{reason[1:]}".rstrip(".")


_TOO_LARGE = f"it has more than {MAX_PIXELS // 1_000_000} megapixels"
_PASS = "Pass a path, the bytes of a file, a PIL image, or a uint8 RGB array [H, W, 3] with values from 0 to 255."
