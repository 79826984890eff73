"""Pictures from paths, bytes, files, PIL images and arrays to RGB arrays."""

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
from PIL import Image

from rrr_edge.errors import BadInput
from rrr_edge.images.decode import Decoded, Pixels, Reduction, Undecodable, clause, decode, full_size
from rrr_edge.images.names import shown

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | Pixels


NO_FILE = "there is no such file"


class DarkPicture(UserWarning):
    """A picture is read, and most likely not as it was meant."""


def load(source: Source, reduction: Reduction = full_size) -> Pixels:
    """Read a picture from a path, an open binary file, the bytes of a file, a PIL image or an array: uint8 [H, W, 3].

    An RGB array [H, W, 3] is returned as it is; gray ones [H, W] or [H, W, 1] and RGBA ones [H, W, 4] are taken like
    files of that kind. The content decides about the format, not the file's name; of an animation the first frame is
    read. EXIF turns are undone, transparency is composited on white, CMYK is converted without its colour profile.
    Gray of 16 bits keeps its upper 8; where sBIT (PNG), BitsPerSample or MaxSampleValue (TIFF) say that fewer are used,
    the upper 8 of those. Files are decoded as small as `reduction` allows, and in at most 400 MB of memory: what would
    take more is decoded smaller or refused. The result may be read-only.

    Raises BadInput: no such file, not a picture, truncated, too large, or pixels without a known range (32-bit integers
    and floats). Warns of 16-bit pictures that are nearly black (DarkPicture).
    """
    if isinstance(source, np.ndarray):
        return _array(source)
    name = shown(source) if isinstance(source, str | os.PathLike) else "The picture"
    try:
        with without_warnings():
            pixels, remark = _read(source, reduction)
    except Undecodable as error:
        raise BadInput(f"{name} cannot be read: {error}.") from error
    if remark:
        warnings.warn(f"{name} {remark}.", DarkPicture, stacklevel=2)
    return pixels


def _read(source: Any, reduction: Reduction) -> Decoded:
    if isinstance(source, str | os.PathLike):
        with open_file(Path(source)) as file:
            return decode(file, reduction)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(io.BytesIO(source), reduction)
    if isinstance(source, Image.Image) or (hasattr(source, "read") and hasattr(source, "seek")):
        return decode(source, reduction)
    raise BadInput(f"A picture cannot be read from {type(source).__name__}.", advice=_PASS)


def _array(array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8 and array.size:
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.ndim == 2:
            return np.repeat(array[:, :, None], 3, axis=2)
        if array.ndim == 3 and array.shape[2] == 4:
            return decode(Image.fromarray(np.ascontiguousarray(array))).pixels
    return require_frame(array)


def require_frame(frame: NDArray[Any]) -> Pixels:
    """Raise BadInput unless `frame` is uint8 [H, W, 3] with pixels."""
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        return frame
    raise BadInput(f"A frame of {frame.dtype} [{', '.join(map(str, frame.shape))}] is not a picture.", advice=_PASS)


def read_file(path: Path, reduction: Reduction = full_size) -> tuple[Decoded, str]:
    """`load` for a file, with the SHA-256 of its bytes; reads, but never writes, the file.

    Raises Undecodable. Pillow's warnings are the caller's.
    """
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return decode(file, reduction), digest


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file to read. Raises Undecodable, also for what goes wrong while it is read."""
    try:
        if not path.is_file():
            raise Undecodable(
                "it is a folder" if path.is_dir() else "it is no regular file" if path.exists() else NO_FILE
            )
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        raise Undecodable(clause(error)) from error


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


_PASS = (
    "Pass a path, the bytes of a file or an open one, a PIL image, or a uint8 array with values from 0 to 255: RGB "
    "[H, W, 3], gray [H, W] or RGBA [H, W, 4]."
)
