"""Decoding in bounded memory: an opened file or a PIL image to uint8 RGB."""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rrr_edge.images.png import SIGNATURE, without_metadata

Pixels = NDArray[np.uint8]

# Raster formats only: Pillow would hand EPS to Ghostscript, and takes some files without a signature for TGA.
# In older versions of Pillow AVIF is there when a plugin has registered it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "QOI")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

MEMORY_BYTES = 400_000_000
MAX_BYTES = 100_000_000
MAX_SIDE = 1_000_000
# What decoding takes at most for a pixel, in bytes: the picture twice (turned by EXIF) or with its RGB array ...
_PIXEL_BYTES = {"1": 4, "L": 4, "P": 4, "LA": 8, "I;16": 10, "I;16B": 10, "I": 16}
_ANY_PIXEL_BYTES = 8
# ... and the decoder's own frames beside it, of JPEG 2000 for each band: measured, see the tests.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16, "TIFF": 8, "QOI": 8, "GIF": 4}
_JPEG2000_BAND_BYTES = 8
_ROW_BYTES = 16
# What is converted at once, up to 28 bytes a pixel, and room for the decoder's state.
_STRIP_PIXELS = 1_000_000
_FIXED_BYTES = 32_000_000
# Their decoders, or the system for them, hold the whole file.
_WHOLE_FILES = ("WEBP", "AVIF", "HEIF", "TIFF")

# Of an upright picture's width and height, the factor by which it may be decoded smaller.
Reduction = Callable[[int, int], float]


class Undecodable(Exception):
    """Why a picture cannot be read, as a clause that follows "cannot be read:"."""


class Decoded(NamedTuple):
    """`pixels` [H, W, 3], and what a user should know of them as a clause that follows "it", or ""."""

    pixels: Pixels
    remark: str = ""


def full_size(width: int, height: int) -> float:
    return 1


def decode(source: BinaryIO | Image.Image, reduction: Reduction = full_size) -> Decoded:
    """Decode a picture; a JPEG file at the smallest of its scales 1, 1/2, 1/4 and 1/8 that `reduction` allows.

    Sides and bytes are judged by the header. A file that would take more than 400 MB of memory is decoded smaller where
    its format can (JPEG, JPEG 2000), whatever `reduction` says. Raises Undecodable.
    """
    try:
        if not isinstance(source, Image.Image):
            return _decode_file(source, reduction)
        _require_decodable(source)
        _require_memory(source, 1)
        source.load()
        return _upright_rgb(source.copy(), _samples(source))
    except Undecodable:
        raise
    except MemoryError as error:
        raise Undecodable("there is not enough memory to decode it") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise Undecodable(clause(error)) from error


def clause(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{reason[:1].lower()}{reason[1:]}".rstrip(".")


def _decode_file(file: BinaryIO, reduction: Reduction) -> Decoded:
    file.seek(0, io.SEEK_END)
    size = file.tell()
    file.seek(0)
    head = file.read(16)
    if not head:
        raise Undecodable("it is empty")
    samples = None
    if head.startswith(SIGNATURE):
        file, size, *stored = without_metadata(file)
        samples = _Samples(*stored)
    if size > MAX_BYTES:
        raise Undecodable(f"it has {size / 1e6:,.0f} MB, more than {MAX_BYTES // 1_000_000}")
    with _open(file, head) as image:
        _require_decodable(image)
        _choose_scale(image, file, reduction, size)
        image.load()
        return _upright_rgb(image, samples or _samples(image))


def _open(file: BinaryIO, head: bytes) -> Any:
    """Pillow's lazy image. Not by Image.open, which refuses large ones that can be decoded at a smaller scale."""
    Image.init()
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and "HEIF" not in Image.OPEN:
        _register_heif()
    formats = [name for name in FORMATS if name in Image.OPEN]
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(head) is True:
            file.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(file, "")
    raise Undecodable(f"it is not a picture in one of the formats {', '.join(formats)}")


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise Undecodable("it is a HEIC picture, which needs pillow-heif (pip install pillow-heif)") from error
    register_heif_opener()


def _require_decodable(image: Image.Image) -> None:
    if not image.width * image.height:
        raise Undecodable("it has no pixels")
    if max(image.size) > MAX_SIDE:
        raise Undecodable(f"it has a side of more than {MAX_SIDE:,} pixels")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats" if image.mode == "F" else "integers"
        raise Undecodable(f"its pixels are 32-bit {kind} of unknown range; save it with 8 bits a channel")


def _choose_scale(image: Any, file: BinaryIO, reduction: Reduction, size: int) -> None:
    """Ask the decoder for a smaller picture. Raises Undecodable where even the smallest takes too much memory."""
    jpeg, jpeg2000 = image.format in ("JPEG", "MPO"), image.format == "JPEG2000"
    width, height = image.size[::-1] if jpeg and _orientation(image) in _TRANSPOSING else image.size
    fixed = _coefficient_bytes(image, file) if jpeg else size if image.format in _WHOLE_FILES else 0
    scale = max((s for s in (2, 4, 8) if jpeg and s <= reduction(width, height)), default=1)
    while (jpeg or jpeg2000) and scale < 8 and _memory(image, scale) + fixed > MEMORY_BYTES:
        scale *= 2
    _require_memory(image, scale, fixed)
    if jpeg and scale > 1:
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
    elif scale > 1:
        image.reduce = scale.bit_length() - 1


def _require_memory(image: Image.Image, scale: int, fixed: int = 0) -> None:
    if (needed := _memory(image, scale) + fixed) > MEMORY_BYTES:
        raise Undecodable(
            f"decoding its {image.width} x {image.height} pixels would take {needed / 1e6:,.0f} MB of memory, "
            f"more than {MEMORY_BYTES // 1_000_000}"
        )


def _memory(image: Image.Image, scale: int) -> int:
    width, height = (-(-side // scale) for side in image.size)
    pixel = _PIXEL_BYTES.get(image.mode, _ANY_PIXEL_BYTES) + _DECODER_BYTES.get(image.format or "", 0)
    if image.format == "JPEG2000":
        pixel += _JPEG2000_BAND_BYTES * len(image.getbands())
    return _FIXED_BYTES + height * _ROW_BYTES + width * height * pixel


def _coefficient_bytes(image: Any, file: BinaryIO) -> int:
    """What a JPEG of several scans takes beside its pixels: all coefficients, at any scale."""
    components = len(image.layer)
    at, header = file.tell(), struct.pack(">HHB", 0xFFDA, 6 + 2 * components, components)
    file.seek(max(0, at - 8 - 2 * components))
    one_scan = file.read(len(header)) == header and "progressive" not in image.info
    file.seek(at)
    most = max(h for _, h, _, _ in image.layer) * max(v for _, _, v, _ in image.layer)
    return 0 if one_scan else int(2 * image.width * image.height * sum(h * v for _, h, v, _ in image.layer) / most)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata do not spoil the pixels
        return None


class _Samples(NamedTuple):
    """The bits of a sample in the file, and how many of them are said to be significant."""

    bits: int = 16
    significant: int = 16


def _samples(image: Any) -> _Samples:
    if image.format != "TIFF":
        return _Samples()
    bits, most = (
        max(value) if isinstance(value, tuple) else value
        for value in (image.tag_v2.get(tag, 0) for tag in (_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE))
    )
    return _Samples(bits, min(bits, int(most).bit_length()) if most > 255 else bits)


def _upright_rgb(image: Image.Image, samples: _Samples) -> Decoded:
    """The pixels of a loaded image, which is changed."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged metadata do not spoil the pixels
        pass
    if image.mode.startswith("I"):
        return _gray16(np.asarray(image), samples)
    pixels = _rgb(image)
    return Decoded(
        pixels, _TOO_DARK if samples and samples.bits == 16 and image.format == "PNG" and 0 < pixels.max() < 16 else ""
    )


def _gray16(values: NDArray[Any], samples: _Samples) -> Decoded:
    """The upper 8 of 16 bits, or of the significant ones where only the lower bits are used.

    The PNG specification demands that samples are scaled up to 16 bits and sBIT says how many there were; some programs
    write sBIT and do not scale. Then no sample is larger than it says, and bits are set that scaling leaves 0.
    """
    bits, significant = samples.bits, min(max(samples.significant, 8), 16)
    most = int(values.max())
    is_scaled = bits == 16 and not (values & ((1 << (16 - significant)) - 1)).any()
    used = 16 if most >= 1 << significant or is_scaled else significant
    gray = (values >> (used - 8)).astype(np.uint8)
    return Decoded(np.repeat(gray[:, :, None], 3, axis=2), _TOO_DARK if significant == 16 and 0 < most < 4096 else "")


def _rgb(image: Image.Image) -> Pixels:
    """Convert in strips of rows, so that no second picture is held."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return _rgb_strip(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = _rgb_strip(image.crop((0, top, image.width, bottom)))
    return pixels


def _rgb_strip(image: Image.Image) -> Pixels:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


# Tags of EXIF and TIFF; orientations that swap the sides.
_ORIENTATION, _TRANSPOSING = 0x0112, (5, 6, 7, 8)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_TOO_DARK = (
    "has 16 bits a sample and no value over 4095: 12 bits that were not scaled up are nearly black (sBIT in a PNG or "
    "MaxSampleValue in a TIFF would say so)"
)
