"""Frames that the network is unsure of, kept in a local folder to be labelled and learned from."""

import io
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image

from rrr_edge.bundle.files import write_file, writing_to
from rrr_edge.errors import UsageError
from rrr_edge.images.decode import Pixels
from rrr_edge.runtime.streams import Frame
from rrr_edge.runtime.watch.results import StreamResult

_PREFIX = "unsure-"
# Of a JPEG that says where and when it was taken: EXIF, XMP and IPTC.
_METADATA = (b"Exif\0", b"http://ns.adobe.com/", b"Photoshop 3.0")
# Of a video, what is kept next is at least so much later: frames in a row are nearly alike.
_APART_S = 1.0


class UnsureFrames:
    """Keeps whole frames whose own answer is more uncertain than `above`, or not given at all.

    That is until `folder` has `limit` of them. Those of earlier runs count too. Frames of a video are taken at least a
    second apart, pictures of a folder all.
    """

    def __init__(self, folder: Path, *, limit: int, above: float, apart_s: float = _APART_S) -> None:
        if limit < 1 or not 0 <= above < 1:
            raise UsageError(f"A limit of {limit} frames with an uncertainty over {above:g} keeps none.")
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        self._folder, self._above, self._apart_s = folder, above, apart_s
        self._left = limit - sum(1 for _ in folder.glob(f"{_PREFIX}*.jpg"))
        self._next_s = 0.0

    def __call__(self, result: StreamResult) -> None:
        frame, uncertainty = result.answer.frame, result.answer.prediction.uncertainty
        is_sure = uncertainty <= self._above and result.answer.prediction.answered
        if self._left <= 0 or is_sure or frame.time_s < self._next_s:
            return
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        path = self._folder / f"{_PREFIX}{now}-{frame.number:08d}-{uncertainty:.2f}.jpg"
        with writing_to(path):
            write_file(path, as_jpeg(frame, quality=95))
        self._left -= 1
        self._next_s = frame.time_s + self._apart_s


def as_jpeg(frame: Frame, *, quality: int, longest: int | None = None) -> bytes:
    """The JPEG file that `frame` came as, or else one of its pixels.

    With `longest` it is to be shown: no side is longer, and it has no metadata, such as the place.
    """
    came = frame.encoded if frame.encoded is not None and frame.encoded.startswith(b"\xff\xd8") else None
    if came is not None and (longest is None or _may_be_shown(frame, came, longest)):
        return came
    return _encode(frame.pixels, quality, longest)


def _may_be_shown(frame: Frame, came: bytes, longest: int) -> bool:
    return max(frame.pixels.shape[:2]) <= longest and not any(mark in came for mark in _METADATA)


def _encode(pixels: Pixels, quality: int, longest: int | None) -> bytes:
    image = Image.fromarray(pixels)
    if longest:
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
    return file.getvalue()
