"""Bounds of memory, reduced JPEGs, 16-bit samples, HEIC."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.images.decode import MAX_BYTES, MEMORY_BYTES
from rrr_edge.images.fit import Region, fit
from rrr_edge.images.picture import DarkPicture, load
from rrr_edge.images.preprocess import Preprocessor

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, encoding: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: np.ndarray, *chunks: bytes) -> bytes:
    """Gray or RGB of 8 or 16 bits, with further chunks before the pixels."""
    height, width = values.shape[:2]
    colour, bits = 2 if values.ndim == 3 else 0, 8 * values.itemsize
    rows = values.astype(values.dtype.newbyteorder(">"))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class TestSixteenBits:
    twelve = np.arange(24 * 32).reshape(24, 32).astype(np.uint16) * 5

    def expect(self, data: bytes, gray: np.ndarray) -> None:
        with warnings.catch_warnings(action="error"):
            np.testing.assert_array_equal(load(data), np.repeat(gray[..., None].astype(np.uint8), 3, axis=2))

    def test_sbit_says_how_many_of_the_lower_bits_are_used(self):
        self.expect(png(self.twelve, chunk(b"sBIT", b"\x0c")), self.twelve >> 4)
        ten = self.twelve >> 2
        self.expect(png(ten, chunk(b"sBIT", b"\x0a")), ten >> 2)

    def test_samples_that_were_scaled_up_keep_their_upper_byte(self):
        scaled = self.twelve << 4 | self.twelve >> 8
        self.expect(png(scaled, chunk(b"sBIT", b"\x0c")), self.twelve >> 4)
        dark = (self.twelve >> 4) << 4
        self.expect(png(dark, chunk(b"sBIT", b"\x0c")), dark >> 8)

    def test_a_tiff_says_it_by_its_largest_value(self):
        self.expect(encode(Image.fromarray(self.twelve), "TIFF", tiffinfo={281: 4095}), self.twelve >> 4)

    def test_a_tiff_of_12_bits_uses_them_all(self):
        packed = np.repeat(self.twelve, 2).reshape(24, 64)[:, ::2]
        pairs = packed.reshape(24, 16, 2).astype(int)
        rows = np.stack(
            [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], axis=-1
        ).astype(np.uint8)
        tags = [(256, 3, 32), (257, 3, 24), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
        tags += [(278, 3, 24), (279, 4, rows.size)]
        data = b"II*\0" + struct.pack("<I", 8 + rows.size) + rows.tobytes() + struct.pack("<H", len(tags))
        for tag, kind, value in tags:
            data += struct.pack("<HHI", tag, kind, 1) + struct.pack(
                "<HH" if kind == 3 else "<I", *(value, 0)[: 5 - kind]
            )
        self.expect(data + bytes(4), packed >> 4)

    def test_a_pgm_is_scaled_by_its_largest_value(self):
        data = b"P5 32 24 4095 " + self.twelve.astype(">u2").tobytes()
        assert np.abs(load(data)[..., 0] - np.round(self.twelve * (255 / 4095))).max() <= 1

    @pytest.mark.parametrize("deep", [twelve, np.repeat(twelve[..., None], 3, axis=2)], ids=["gray", "RGB"])
    def test_what_is_nearly_black_is_said(self, deep):
        with pytest.warns(DarkPicture, match="The picture has 16 bits a sample and no value over 4095"):
            load(png(deep))


class TestReducedJpegs:
    @pytest.mark.parametrize(
        ("shape", "mode", "roi", "scale"),
        [
            ((720, 1280), "crop", None, 2),
            ((255, 1280), "crop", None, 1),
            ((512, 512), "crop", None, 4),
            ((2000, 1024), "squash", None, 8),
            ((255, 1280), "pad", None, 8),
            ((720, 1280), "crop", Region(0, 0, 0.5, 1), 2),
            ((720, 1280), "crop", Region(0, 0, 0.5, 0.5), 1),
        ],
    )
    def test_are_decoded_at_the_smallest_scale_with_twice_the_side(self, shape, mode, roi, scale):
        size = 128 if shape == (720, 1280) else 64
        noise = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
        data = encode(noise.resize(shape[::-1]), "JPEG")
        image = Image.open(io.BytesIO(data))
        if scale > 1:
            image.draft(None, (shape[1] // scale, shape[0] // scale))
        expected = np.asarray(image)
        assert expected.shape[:2] == tuple(-(-side // scale) for side in shape)
        reduced = Preprocessor(Preprocess(image_size=size, fit=mode, decoding="reduced"), roi)
        np.testing.assert_array_equal(reduced.load(data), expected)
        np.testing.assert_array_equal(reduced(data), fit(roi.cut(expected) if roi else expected, size, mode))
        full = Preprocessor(Preprocess(image_size=size, fit=mode), roi)
        np.testing.assert_array_equal(full.load(data), np.asarray(Image.open(io.BytesIO(data))))

    def test_a_turned_picture_is_judged_upright(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(Image.new("RGB", (1280, 720)), "JPEG", exif=exif)
        narrow = Region(0, 0, 1, 0.2)  # of 720 x 1280 pixels, 720 x 256
        preprocess = Preprocess(image_size=64, decoding="reduced")
        assert Preprocessor(preprocess, narrow).load(data).shape == (640, 360, 3)

    def test_a_smooth_picture_stays_what_it_is(self):
        y, x = np.mgrid[:720, :1280] / 200
        smooth = (127 + 60 * np.stack([np.sin(x + y), np.cos(x), np.sin(y)], axis=-1)).astype(np.uint8)
        data = encode(Image.fromarray(smooth), "JPEG", quality=95)
        reduced, full = (Preprocessor(Preprocess(image_size=128, decoding=d))(data) for d in ("reduced", "full"))
        assert np.abs(reduced.astype(int) - full).mean() < 1

    def test_other_formats_are_decoded_in_full(self):
        preprocessor = Preprocessor(Preprocess(image_size=8, decoding="reduced"))
        np.testing.assert_array_equal(preprocessor.load(png(NOISE)), NOISE)

    def test_an_opened_image_is_left_as_it_is(self):
        image = Image.open(io.BytesIO(encode(Image.new("RGB", (640, 480)), "JPEG")))
        Preprocessor(Preprocess(image_size=32, decoding="reduced"))(image)
        assert image.size == (640, 480)


# Prints the peak that decoding takes and what is allowed for it, with small strips: then pixels decide.
PEAKS = """
import ctypes, io
import numpy as np
from PIL import Image, TiffImagePlugin, features
from rrr_edge.images import decode
decode._STRIP_PIXELS, decode._FIXED_BYTES = 20_000, 2_000_000
TiffImagePlugin.STRIP_SIZE = 1 << 30
SIDE = 600
noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8)
tiled = np.tile(noise[:50, :50], (SIDE // 50, SIDE // 50, 1))
turned = Image.Exif()
turned[0x112] = 6
CASES = [
    *(("PNG", mode, tiled, {"exif": turned}) for mode in ("RGBA", "RGB", "P", "1")),
    *(("WEBP", mode, tiled, {"exif": turned, "method": 0}) for mode in ("RGBA", "RGB")),
    ("WEBP", "RGB", noise, {"method": 0}),
    ("WEBP", "RGBA", tiled, {"lossless": True, "quality": 0}),
    *(("TIFF", mode, tiled, {"compression": kind}) for mode in ("RGBA", "L") for kind in ("raw", "tiff_adobe_deflate")),
    *(("JPEG2000", mode, tiled, {"irreversible": mode == "RGB"}) for mode in ("RGBA", "RGB", "L")),
    *(("JPEG", mode, tiled, {}) for mode in ("RGB", "CMYK")),
    *((kind, mode, tiled, {}) for kind, mode in (("GIF", "P"), ("BMP", "RGB"), ("PPM", "RGB"))),
]
if features.check("avif"):
    CASES += [("AVIF", "RGBA", tiled, {"speed": 10, "exif": turned})]
    CASES += [("AVIF", "RGB", tiled, {"speed": 10, "subsampling": "4:4:4"})]


def status(key):
    return 1024 * int(open("/proc/self/status").read().split(key + ":")[1].split()[0])


def report(kind, data):
    with Image.open(io.BytesIO(data)) as image:
        allowed = decode._memory(image, 1) + len(data)
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    decode.decode(io.BytesIO(data))
    print(kind, status("VmHWM") - before, allowed)


try:
    open("/proc/self/clear_refs", "w").write("5")
except OSError:
    CASES = []
for kind, mode, pixels, options in CASES:
    file = io.BytesIO()
    Image.fromarray(pixels if mode == "RGBA" else pixels[:, :, :3]).convert(mode).save(file, kind, **options)
    report(kind, file.getvalue())
deep = Image.fromarray(noise[:, :, 0] * np.uint16(257))
for kind in ("PNG", "TIFF", "JPEG2000") if CASES else ():
    file = io.BytesIO()
    deep.save(file, kind)
    report(kind, file.getvalue())
"""


class TestMemory:
    """In a process of its own, whose peak is that of the picture."""

    def peak_mb(self, *paths: Path) -> float:
        code = (
            "import sys\nfrom rrr_edge.errors import BadInput\nfrom rrr_edge.images.picture import load\n"
            "from PIL import Image\nImage.init()\n"
            "def peak_kb(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
            "before = peak_kb()\n"
            "for path in sys.argv[1:]:\n"
            "    try: said = load(path).shape\n    except BadInput as error: said = error\n"
            "    print(said, file=sys.stderr)\nprint(peak_kb() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
        self.said = done.stderr
        return int(done.stdout) * 1024 / 1e6

    def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(self, tmp_path):
        for number, (width, height) in enumerate([(1, 99_999_999), (99_999_999, 1), (1, 1_000_001), (9_990, 9_990)]):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
            (tmp_path / f"{number}.png").write_bytes(data)
        assert self.peak_mb(*sorted(tmp_path.iterdir())) < 20
        *sides, memory = self.said.splitlines()
        assert all("a side of more than 1,000,000 pixels" in said for said in sides)
        assert "831 MB of memory, more than 400" in memory

    def test_no_format_takes_more_than_it_is_allowed_for_a_pixel(self):
        """Each picture in memory that is given back, so that the peak is its own."""
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(
            [sys.executable, "-c", PEAKS], env=environment, capture_output=True, text=True, check=True
        )
        if done.stdout == "":
            pytest.skip("the peak of a process cannot be reset here")
        rows = [line.split() for line in done.stdout.splitlines()]
        assert len(rows) > 15
        assert [row for row in rows if int(row[1]) > int(row[2])] == []

    def test_a_jpeg_of_144_megapixels_is_read_at_a_smaller_scale(self, tmp_path):
        """Progressive, so that its coefficients take 288 MB beside its pixels."""
        Image.new("L", (12_000, 12_000), 77).save(tmp_path / "x.jpg", progressive=True)
        assert self.peak_mb(tmp_path / "x.jpg") < MEMORY_BYTES / 1e6
        assert self.said == "(3000, 3000, 3)\n"

    def test_metadata_of_a_png_is_not_read(self, tmp_path):
        bomb = b"x\0\0" + zlib.compress(bytes(3_000_000))
        text = chunk(b"tEXt", b"x\0" + bytes(MAX_BYTES + 1))
        data = png(NOISE, chunk(b"zTXt", bomb), chunk(b"iCCP", bomb), chunk(b"prVt", bytes(70_000)), text)
        np.testing.assert_array_equal(load(data), NOISE)
        (tmp_path / "x.png").write_bytes(data)
        assert self.peak_mb(tmp_path / "x.png") < 20

    def test_other_large_files_are_refused_unread(self, tmp_path):
        (tmp_path / "x.webp").write_bytes(encode(Image.fromarray(NOISE), "WEBP"))
        with (tmp_path / "x.webp").open("r+b") as file:
            file.truncate(MAX_BYTES + 10_000_000)
        with pytest.raises(BadInput, match="cannot be read: it has 110 MB, more than 100"):
            load(tmp_path / "x.webp")


class TestHeic:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"

    def test_without_its_library_the_library_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        with pytest.raises(BadInput, match=r"which needs pillow-heif \(pip install pillow-heif\)"):
            load(self.data)

    def test_with_it_pictures_are_read(self):
        heif = pytest.importorskip("pillow_heif")
        file = io.BytesIO()
        heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 40))).save(file, quality=90)
        picture = load(file.getvalue())
        assert picture.shape == (48, 64, 3)
        assert np.abs(picture.astype(int) - (200, 30, 40)).max() < 6


class TestSources:
    def test_arrays_are_taken_like_files_of_their_kind(self):
        gray, alpha = NOISE[..., 0], np.dstack([NOISE, NOISE[..., :1]])
        np.testing.assert_array_equal(load(gray), load(encode(Image.fromarray(gray), "PNG")))
        np.testing.assert_array_equal(load(gray[..., None]), load(gray))
        np.testing.assert_array_equal(load(alpha), load(encode(Image.fromarray(alpha), "PNG")))

    def test_bytes_of_any_kind_and_open_files(self, tmp_path):
        data = png(NOISE)
        (tmp_path / "x.png").write_bytes(data)
        for source in (bytearray(data), memoryview(data), io.BytesIO(data), (tmp_path / "x.png").open("rb")):
            np.testing.assert_array_equal(load(source), NOISE)
        moved = io.BytesIO(data)
        moved.read()
        np.testing.assert_array_equal(load(moved), NOISE)

    def test_a_file_of_text_is_one_sentence(self):
        with pytest.raises(BadInput, match="The picture cannot be read: "):
            load(io.StringIO("text"))

    def test_bgr_is_the_order_of_arrays_alone(self):
        bgr = Preprocessor(Preprocess(image_size=16, fit="pad"), channels="bgr")
        rgb = Preprocessor(Preprocess(image_size=16, fit="pad"))
        np.testing.assert_array_equal(bgr(NOISE[..., ::-1]), rgb(NOISE))
        alpha = np.dstack([NOISE, NOISE[..., :1]])
        np.testing.assert_array_equal(bgr(alpha[..., [2, 1, 0, 3]]), rgb(alpha))
        np.testing.assert_array_equal(bgr(NOISE[..., 0]), rgb(NOISE[..., 0]))
        np.testing.assert_array_equal(bgr(png(NOISE)), rgb(NOISE))
        np.testing.assert_array_equal(bgr(Image.fromarray(NOISE)), rgb(NOISE))
