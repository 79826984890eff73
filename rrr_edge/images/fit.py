"""Crop, squash or pad: any frame resized to the network's square input, and regions of interest."""

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rrr_edge.bundle.recipe import Fit
from rrr_edge.errors import UsageError
from rrr_edge.images.decode import Pixels
from rrr_edge.images.picture import require_frame

# The mean gray of ImageNet's photos.
PADDING = 114
# Shares such as 0.58 + 0.42 may add up to a little more than 1.
_ROUNDING = 1e-9


def fit(frame: Pixels, size: int, mode: Fit = "crop") -> Pixels:
    """Make uint8 [size, size, 3] of `frame` [H, W, 3].

    "crop" takes the centre square. "squash" takes the whole frame and does not keep its proportions. "pad" takes the
    whole frame, its longer side as `size` and its shorter one in proportion (rounded half up, at least 1), and centres
    it (half a pixel further up or left, where it must) on gray of value `PADDING`.

    Where both sides are at least twice the new ones they are averaged over equal boxes (kh x kw pixels, each
    k = ceil(old / new), their corners spread evenly), which is fast and hardly aliases; else Pillow's antialiased
    bilinear filter resizes, each row and then each column; what has the right size already is left untouched (and may
    share memory with `frame`).
    The order of the channels does not matter here.
    """
    height, width = require_frame(frame).shape[:2]
    if mode == "squash":
        return _resize(frame, size, size)
    if mode == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(frame[top : top + side, left : left + side], size, size)
    longer = max(height, width)
    rows, columns = (max(1, (2 * side * size + longer) // (2 * longer)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    canvas = np.full((size, size, 3), PADDING, np.uint8)
    canvas[top : top + rows, left : left + columns] = _resize(frame, rows, columns)
    return canvas


@dataclass(frozen=True)
class Region:
    """A region of interest in shares of the frame: its left and upper edge, its width and height.

    Raises UsageError for what is no region inside the frame.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        inside = self.x + self.width <= 1 + _ROUNDING and self.y + self.height <= 1 + _ROUNDING
        if not (all(map(math.isfinite, numbers)) and min(numbers) >= 0 and self.width and self.height and inside):
            raise UsageError(
                f"The region {', '.join(f'{number:g}' for number in numbers)} is not inside the frame.",
                advice="x, y, width and height are shares of the frame: x + width and y + height reach 1 at most, and "
                "width and height are more than 0. The lower right quarter is 0.5,0.5,0.5,0.5.",
            )

    @classmethod
    def of(cls, text: str) -> "Region":
        """Read "x,y,w,h". Raises UsageError."""
        try:
            x, y, width, height = map(float, text.split(","))
        except ValueError as error:
            raise UsageError(
                f"A region is four numbers x,y,w,h such as 0.25,0.25,0.5,0.5, not {text!r}.",
                advice="They are shares of the frame's width and height.",
            ) from error
        return cls(x, y, width, height)

    def cut(self, frame: Pixels) -> Pixels:
        """The view of `frame` [H, W, 3] between the edges, each rounded to the nearest pixel; one pixel at least."""
        top, bottom = _edges(self.y, self.height, len(frame))
        left, right = _edges(self.x, self.width, frame.shape[1])
        return frame[top:bottom, left:right]


def _edges(start: float, share: float, pixels: int) -> tuple[int, int]:
    first = min(int(start * pixels + 0.5), pixels - 1)
    return first, max(first + 1, min(int((start + share) * pixels + 0.5), pixels))


def _resize(picture: Pixels, height: int, width: int) -> Pixels:
    if picture.shape[:2] == (height, width):
        return picture
    if len(picture) >= 2 * height and picture.shape[1] >= 2 * width:
        return _box_means(picture, height, width)
    # In two steps: Pillow 13 begins with the rows or the columns, whichever is less work, older ones with the columns.
    narrow = Image.fromarray(np.ascontiguousarray(picture)).resize((width, len(picture)), Image.Resampling.BILINEAR)
    return np.array(narrow.resize((width, height), Image.Resampling.BILINEAR))


def _box_means(picture: Pixels, height: int, width: int) -> Pixels:
    across = 3 * picture.shape[1]
    tall, tops = _boxes(len(picture), height)
    wide, places = _places(picture.shape[1], width, height)
    rows = picture.reshape(-1, across)
    count = tall * wide
    # The smallest type that holds a box's sum and the half that rounds it: uint16 up to 256 pixels.
    scratch = _scratch(height * across, np.min_scalar_type(255 * count + count // 2))
    sums = scratch[0].reshape(height, across)
    np.add(rows[tops], rows[tops + 1], out=sums, dtype=sums.dtype)
    for i in range(2, tall):
        sums += rows[tops + i]
    means = _neighbours(scratch, wide)[places]
    means += count // 2
    means //= count
    return means.astype(np.uint8).reshape(height, width, 3)


def _neighbours(scratch: NDArray[Any], k: int) -> NDArray[Any]:
    """Of the pixels in scratch[0], three numbers each, the sums over each pixel and the k - 1 to its right.

    By the digits of k: a sum over 2w pixels is two sums over w, and where a digit is 1 comes one pixel more. It goes
    across the ends of rows, where no box is, as one long row is twice as fast as many short ones.
    """
    pixels, spare, other = scratch
    sums: NDArray[Any] = pixels
    width = 1
    for digit in f"{k:b}"[1:]:
        for right, more in ((sums, width), (pixels, 1))[: 1 + int(digit)]:
            np.add(sums[: -3 * width], right[3 * width :], out=spare[: -3 * width])
            sums, spare, other = spare, other, spare
            width += more
    return sums


def _scratch(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory that a thread keeps from frame to frame: fresh pages each time would cost more than the sums."""
    kept: NDArray[Any] | None = getattr(_kept, "memory", None)
    if kept is None or kept.shape[1] != length or kept.dtype != dtype:
        _kept.memory = kept = np.zeros((3, length), dtype)
    return kept


_kept = threading.local()


@lru_cache(maxsize=64)
def _boxes(old: int, new: int) -> tuple[int, NDArray[np.intp]]:
    """How many pixels a box has along a side, and the first one of each box [new]."""
    k = -(-old // new)
    return k, np.round(np.arange(new) * ((old - k) / max(new - 1, 1))).astype(np.intp)


@lru_cache(maxsize=64)
def _places(old: int, new: int, rows: int) -> tuple[int, NDArray[np.intp]]:
    """The width of a box, and of the first pixels in all boxes the places in `rows` rows of `old` pixels."""
    k, lefts = _boxes(old, new)
    return k, 3 * old * np.arange(rows)[:, None] + (3 * lefts[:, None] + np.arange(3)).ravel()
