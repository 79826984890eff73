"""Damaged and made-up pictures: an array or one sentence, whatever the bytes are."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from harness import fuzz
from hypothesis import strategies as st
from PIL import Image

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.images.preprocess import Preprocessor

PREPROCESSORS = [
    Preprocessor(Preprocess(image_size=8, fit=fit, decoding="reduced")) for fit in ("crop", "squash", "pad")
]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


def encode(encoding: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, encoding, **({"exif": exif} if encoding in ("JPEG", "PNG", "WEBP") else {}))
    return file.getvalue()


SEEDS = {encoding: encode(encoding) for encoding in FORMATS}


def answer(data: bytes) -> None:
    for preprocessor in PREPROCESSORS:
        said, picture = "The picture cannot be read: .", np.zeros((8, 8, 3), np.uint8)
        try:
            picture = preprocessor(data)
        except BadInput as error:
            said = str(error)
        assert said.startswith("The picture cannot be read: ")
        assert said.endswith(".")
        assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)


def damaged(change: tuple[str, list[tuple[int, int]], float]) -> bytes:
    encoding, edits, keep = change
    data = bytearray(SEEDS[encoding])
    for at, value in edits:
        data[at % len(data)] = value
    return bytes(data[: int(keep * len(data)) or None])


def test_damaged_files() -> None:
    edits = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8)
    inputs = st.tuples(st.sampled_from(FORMATS), edits, st.floats(0, 1)).map(damaged)
    fuzz(answer, inputs, seeds=tuple(SEEDS.values()), share=1 / 3)


def png(header: tuple[int, int, int, int], chunks: Sequence[tuple[bytes, bytes]] = (), data: bytes = b"") -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts
    )


def test_pngs_of_any_header() -> None:
    side = st.integers(0, 2**32 - 1) | st.integers(0, 40)
    bits, colour = st.sampled_from([1, 2, 4, 8, 16, 7]), st.sampled_from([0, 2, 3, 4, 6, 1])
    kinds = [b"sBIT", b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"IEND"]
    chunks = st.lists(st.tuples(st.sampled_from(kinds), st.binary(max_size=40)), max_size=4)
    inputs = st.tuples(st.tuples(side, side, bits, colour), chunks, st.binary(max_size=100)).map(lambda x: png(*x))
    seeds = (png((1, 99_999_999, 8, 2)), png((32, 24, 16, 0), [(b"sBIT", b"\x00")]))
    fuzz(answer, inputs, seeds=seeds, share=1 / 3)


def test_made_up_bytes() -> None:
    heads = st.sampled_from([b"", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic", b"RIFF", b"II*\0", b"P5 "])
    fuzz(answer, st.tuples(heads, st.binary(max_size=300)).map(b"".join), share=1 / 3)
