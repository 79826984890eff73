"""Damaged and made-up pictures: an array or one sentence, whatever the bytes are."""

import io
import struct
import zlib

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.images.preprocess import Preprocessor

# `--hypothesis-profile=long` is the default then.
LIMITS = settings.default if settings.default.max_examples > 1000 else settings.get_profile("short")
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


@LIMITS
@given(
    encoding=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_damaged_files(encoding: str, edits: list[tuple[int, int]], keep: float) -> None:
    data = bytearray(SEEDS[encoding])
    for at, value in edits:
        data[at % len(data)] = value
    answer(bytes(data[: int(keep * len(data)) or None]))


@LIMITS
@given(
    width=st.integers(0, 2**32 - 1),
    height=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([1, 2, 4, 8, 16, 7]),
    colour=st.sampled_from([0, 2, 3, 4, 6, 1]),
    chunks=st.lists(
        st.tuples(
            st.sampled_from([b"sBIT", b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"IEND"]),
            st.binary(max_size=40),
        ),
        max_size=4,
    ),
    data=st.binary(max_size=100),
)
@example(width=1, height=99_999_999, bits=8, colour=2, chunks=[], data=b"")
@example(width=32, height=24, bits=16, colour=0, chunks=[(b"sBIT", b"\x00")], data=b"")
def test_pngs_of_any_header(
    width: int, height: int, bits: int, colour: int, chunks: list[tuple[bytes, bytes]], data: bytes
) -> None:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    answer(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    )


@LIMITS
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic", b"RIFF", b"II*\0", b"P5 "])
)
def test_made_up_bytes(data: bytes, head: bytes) -> None:
    answer(head + data)
