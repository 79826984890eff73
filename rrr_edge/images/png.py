"""PNG files without the metadata that decoding does not need."""

import io
import struct
from bisect import bisect_right
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iCCP")
_XMP = b"XML:com.adobe.xmp\0"
_METADATA_BYTES = 65_536
_CHUNKS = 100_000


class Png(NamedTuple):
    """`file` reads as the PNG without texts, colour profiles and chunks of metadata over 64 KB.

    `size` is its length in bytes, `bits` the depth of a sample, `significant` how many of them sBIT says are used.
    """

    file: BinaryIO
    size: int
    bits: int
    significant: int


def without_metadata(file: BinaryIO) -> Png:
    """Look through the chunks of a PNG; none but IHDR and sBIT is read. What is damaged is left for the decoder."""
    kept = [(0, 8)]
    bits = significant = 8
    end = file.seek(0, io.SEEK_END)
    at = 8
    for _ in range(_CHUNKS):
        file.seek(at)
        head = file.read(8 + len(_XMP))
        if len(head) < 12 or at + 12 > end:
            break
        length, kind = struct.unpack(">I4s", head[:8])
        if kind == b"IHDR" and length == 13:
            bits = significant = head[16]
        elif kind == b"sBIT" and 1 <= length <= 4:
            significant = max(head[8 : 8 + length])
        if _is_kept(kind, length, head[8:]):
            kept.append((at, 12 + length))
        at += 12 + length
    if at < end:
        kept.append((at, end - at))
    sections = _Sections(file, kept)
    return Png(io.BufferedReader(sections, _METADATA_BYTES), sections.size, bits, significant or bits)


def _is_kept(kind: bytes, length: int, body: bytes) -> bool:
    is_critical = not kind[0] & 0x20
    if is_critical:
        return True
    if kind in _TEXTS or (kind == b"iTXt" and not body.startswith(_XMP)):
        return False
    return length <= _METADATA_BYTES


class _Sections(io.RawIOBase):
    """Sections (offset, length) of a file, one after the other."""

    def __init__(self, file: BinaryIO, sections: list[tuple[int, int]]) -> None:
        self._file = file
        self._offsets = [offset for offset, _ in sections]
        self._ends = list(accumulate(length for _, length in sections))
        self.size = self._ends[-1]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        section = bisect_right(self._ends, self._at)
        if section == len(self._ends):
            return 0
        begin = self._ends[section - 1] if section else 0
        self._file.seek(self._offsets[section] + self._at - begin)
        data = self._file.read(min(len(buffer), self._ends[section] - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
