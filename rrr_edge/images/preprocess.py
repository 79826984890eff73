"""The one way from any picture to the network's input, which training, calibration, profile and app share."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import choose
from rrr_edge.images.decode import Pixels
from rrr_edge.images.fit import Region, fit
from rrr_edge.images.picture import Source, load, read_file

Channels = Literal["rgb", "bgr"]
CHANNELS: tuple[Channels, ...] = get_args(Channels)


def is_single(source: Any) -> bool:
    """Whether it is one picture, as `load` takes it, and not several: an array [N, H, W, C] is several."""
    if isinstance(source, np.ndarray):
        return source.ndim < 4 and source.dtype != object
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, io.IOBase)
    return isinstance(source, one)


class FittedFile(NamedTuple):
    """The network's input uint8 [S, S, 3], the SHA-256 of the file's bytes, and what a user should know of it."""

    pixels: Pixels
    digest: str
    remark: str = ""


@dataclass(frozen=True)
class Preprocessor:
    """Pictures to uint8 [S, S, 3] as `settings` say, of `roi` alone where there is one.

    `channels` is the order in arrays: OpenCV's are "bgr" (and BGRA). Files and PIL images say themselves what they are.
    Raises UsageError for another order.
    """

    settings: Preprocess
    roi: Region | None = None
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        choose(self.channels, CHANNELS, "order of channels")

    def __call__(self, source: Source) -> Pixels:
        """Decode and fit a picture. Raises BadInput."""
        fitted = self.fit(self.load(source))
        is_reversed = self.channels == "bgr" and isinstance(source, np.ndarray)
        return np.ascontiguousarray(fitted[:, :, ::-1]) if is_reversed else fitted

    def load(self, source: Source) -> Pixels:
        """Decode a picture, a file as small as the settings allow. Raises BadInput."""
        return load(source, self._reduction)

    def fit(self, frame: Pixels) -> Pixels:
        """Fit uint8 [H, W, 3], or the region of interest in it. Raises BadInput."""
        if self.roi is not None:
            frame = self.roi.cut(frame)
        return fit(frame, self.settings.image_size, self.settings.fit)

    def read_file(self, path: Path) -> FittedFile:
        """The picture in a file. Raises Undecodable."""
        (frame, remark), digest = read_file(path, self._reduction)
        return FittedFile(self.fit(frame), digest, remark)

    def _reduction(self, width: int, height: int) -> float:
        """How much smaller a picture may be decoded and still have twice the network's side."""
        if self.settings.decoding == "full":
            return 1
        sides = (width, height) if self.roi is None else (width * self.roi.width, height * self.roi.height)
        fitted = max(sides) if self.settings.fit == "pad" else min(sides)
        return fitted / (2 * self.settings.image_size)
