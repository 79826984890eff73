import io
import itertools
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from rrr_edge.errors import BadInput
from rrr_edge.images.fit import fit
from rrr_edge.images.picture import load, without_warnings

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, encoding: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


class TestLoad:
    @pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.ppm", "x.webp"])
    def test_reads_lossless_files_exactly(self, tmp_path, name):
        Image.fromarray(NOISE).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
        np.testing.assert_array_equal(load(tmp_path / name), NOISE)
        np.testing.assert_array_equal(load(str(tmp_path / name)), NOISE)

    def test_bytes_pil_and_array_give_the_same(self):
        png = encode(Image.fromarray(NOISE), "PNG")
        assert load(NOISE) is NOISE
        np.testing.assert_array_equal(load(png), NOISE)
        np.testing.assert_array_equal(load(Image.open(io.BytesIO(png))), NOISE)

    def test_the_content_decides_not_the_name(self, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(encode(Image.fromarray(NOISE), "PNG"))
        np.testing.assert_array_equal(load(tmp_path / "photo.jpg"), NOISE)

    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_turns_are_undone_as_pillow_does(self, encoding, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(NOISE), encoding, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert expected.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
        np.testing.assert_array_equal(load(data), expected)

    def test_damaged_exif_does_not_spoil_the_pixels(self):
        plain = encode(Image.fromarray(NOISE), "JPEG")
        segment = b"Exif\0\0" + b"garbage that is no TIFF header"
        damaged = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
        np.testing.assert_array_equal(load(damaged), load(plain))

    @pytest.mark.parametrize("encoding", ["PNG", "TIFF", "PPM"])
    def test_16_bit_gray_keeps_its_upper_byte(self, encoding):
        values = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
        picture = load(encode(Image.fromarray(values), encoding))
        np.testing.assert_array_equal(picture, np.repeat((values >> 8)[..., None], 3, axis=-1))

    @pytest.mark.parametrize("alpha", [0, 77, 255])
    def test_transparency_is_composited_on_white(self, alpha):
        rgba = np.dstack([NOISE, np.full(NOISE.shape[:2], alpha, np.uint8)])
        expected = NOISE * (alpha / 255) + 255 * (1 - alpha / 255)
        for data in (encode(Image.fromarray(rgba), "PNG"), encode(Image.fromarray(rgba), "TIFF")):
            assert np.abs(load(data) - expected).max() <= 1

    def test_a_palette_is_resolved_and_its_transparent_entry_is_white(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putdata([0, 1])
        np.testing.assert_array_equal(load(encode(image, "PNG")), [[[10, 20, 30], [200, 100, 50]]])
        transparent = encode(image, "PNG", transparency=1)
        np.testing.assert_array_equal(load(transparent), [[[10, 20, 30], [255, 255, 255]]])

    def test_gray_with_alpha_and_one_bit(self):
        image = Image.merge("LA", [Image.new("L", (3, 2), 100), Image.new("L", (3, 2), 0)])
        np.testing.assert_array_equal(load(encode(image, "PNG")), np.full((2, 3, 3), 255))
        np.testing.assert_array_equal(load(encode(Image.new("1", (3, 2), 1), "PNG")), np.full((2, 3, 3), 255))

    def test_cmyk_is_converted(self):
        cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
        picture = load(encode(cmyk, "JPEG", quality=100))
        assert np.abs(picture.astype(int) - [0, 255, 255]).max() <= 3

    @pytest.mark.parametrize("encoding", ["GIF", "PNG", "WEBP"])
    def test_an_animation_gives_its_first_frame(self, encoding):
        frames = [Image.new("RGB", (8, 8), color) for color in ("black", "white", "red")]
        data = encode(frames[0], encoding, save_all=True, append_images=frames[1:])
        assert Image.open(io.BytesIO(data)).n_frames == 3
        np.testing.assert_array_equal(load(data), np.zeros((8, 8, 3)))

    @pytest.mark.parametrize("shape", [(1, 1, 3), (20000, 1, 3), (1, 20000, 3)])
    def test_extreme_shapes(self, shape):
        frame = np.full(shape, 77, np.uint8)
        picture = load(encode(Image.fromarray(frame), "PNG"))
        np.testing.assert_array_equal(picture, frame)
        np.testing.assert_array_equal(fit(picture, 32), np.full((32, 32, 3), 77))

    @pytest.mark.parametrize(
        ("encoding", "keep"), [("PNG", 0.5), ("JPEG", 0.5), ("GIF", 0.5), ("WEBP", 0.7), ("BMP", 0.9)]
    )
    def test_truncated(self, tmp_path, encoding, keep):
        path = tmp_path / "cut.jpg"
        data = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), encoding)
        path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(BadInput, match=r"cut\.jpg cannot be read: .+\.$"):
            load(path)

    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
    def test_damaged_bytes_give_a_picture_or_one_sentence(self, encoding):
        random, data = np.random.default_rng(1), encode(Image.fromarray(NOISE), encoding)
        refused = []
        for _ in range(40):
            damaged = bytearray(data)
            for at in random.integers(0, min(len(data), 400), 5):
                damaged[at] = random.integers(0, 256)
            try:
                assert load(bytes(damaged)).shape[2] == 3
            except BadInput as error:
                refused.append(str(error))
        assert refused
        assert all(sentence.startswith("The picture cannot be read: ") for sentence in refused)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "it is empty"),
            (b"just some text", "it is not a picture in one of the formats JPEG, PNG, .*"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not a picture in one of .*"),
        ],
    )
    def test_no_picture(self, tmp_path, content, reason):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(BadInput, match=rf"x\.png cannot be read: {reason}\.$"):
            load(tmp_path / "x.png")
        with pytest.raises(BadInput, match=rf"^The picture cannot be read: {reason}\.$"):
            load(content)

    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        for name, reason in [
            ("none.png", "there is no such file"),
            ("", "it is a folder"),
            ("pipe.png", "it is no regular file"),
            ("loop.png", "there is no such file"),
        ]:
            with pytest.raises(BadInput, match=f"cannot be read: {reason}\\.$"):
                load(tmp_path / name)

    @pytest.mark.parametrize("side", [12_000, 20_000, 100_000])
    def test_a_decompression_bomb_is_refused_by_its_header(self, side):
        """Pillow itself warns about the first and refuses the others; no row is there to be decoded."""
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(BadInput, match="would take .* MB of memory, more than 400"),
        ):
            load(png_header(side, side))

    def test_below_the_limit_the_header_passes(self):
        with pytest.raises(BadInput, match="truncated"):
            load(png_header(9_000, 10_000)[:-12])

    @pytest.mark.parametrize(("mode", "kind"), [("F", "floats"), ("I", "integers")])
    def test_pixels_of_unknown_range_are_refused(self, mode, kind):
        with pytest.raises(BadInput, match=f"its pixels are 32-bit {kind} of unknown range; save it with 8 bits"):
            load(encode(Image.new(mode, (4, 4)), "TIFF"))

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            (NOISE / 255, "A frame of float64 [24, 32, 3] is not a picture."),
            (NOISE[0, 0], "A frame of uint8 [3] is not a picture."),
            (NOISE[..., :2], "A frame of uint8 [24, 32, 2] is not a picture."),
            (NOISE[..., 0].astype(np.uint16), "A frame of uint16 [24, 32] is not a picture."),
            (NOISE[:0], "A frame of uint8 [0, 32, 3] is not a picture."),
            (7, "A picture cannot be read from int."),
        ],
    )
    def test_wrong_arguments_say_what_to_pass(self, wrong, sentence):
        with pytest.raises(BadInput) as caught:
            load(wrong)
        assert str(caught.value) == sentence
        assert "RGB [H, W, 3]" in caught.value.advice

    def test_warnings_do_not_leak_and_filters_are_restored(self):
        image = Image.new("RGB", (8, 8))
        large = png_header(9_999, 10_000)  # Pillow warns from 89 megapixels on
        before = warnings.filters[:]
        with warnings.catch_warnings(record=True, action="always") as seen:
            with pytest.raises(BadInput):
                load(large)
            load(encode(image, "PNG"))
        assert seen == []
        assert warnings.filters == before

    def test_threads_that_load_leave_the_filters_as_they_were(self, tmp_path):
        path = tmp_path / "x.png"
        Image.new("RGB", (8, 8)).save(path)
        large, before = png_header(9_999, 10_000), warnings.filters[:]

        def read(_):
            for _ in range(50):
                load(path)
                with pytest.raises(BadInput):
                    load(large)

        with ThreadPoolExecutor(8) as pool, warnings.catch_warnings(record=True, action="always") as seen:
            list(pool.map(read, range(8)))
        assert seen == []
        assert warnings.filters == before

    def test_a_catch_warnings_of_the_app_may_begin_or_end_within(self):
        before = warnings.filters[:]
        for makers in itertools.permutations((warnings.catch_warnings, without_warnings)):
            first, second = (make() for make in makers)
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)
            assert warnings.filters == before

    def test_the_users_file_and_image_are_not_touched(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_bytes(encode(Image.fromarray(NOISE), "PNG"))
        path.chmod(0o444)
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        load(path)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        image = Image.new("CMYK", (4, 4))
        load(image)
        assert image.mode == "CMYK"


def png_header(width: int, height: int) -> bytes:
    """A valid PNG up to its pixels, of which there are hardly any."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
