import io
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.fit import PADDING, Region, fit
from rrr_edge.images.picture import load
from rrr_edge.images.preprocess import Preprocessor

RNG = np.random.default_rng(0)
BILINEAR = Image.Resampling.BILINEAR
SHAPES = [(720, 1280), (256, 256), (301, 257), (97, 31), (33, 40), (500, 500)]


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / width * 5 + c) * np.cos(y / height * 4 - c) for c in range(3)]
    return (127.5 + 127 * np.stack(channels, axis=-1)).astype(np.uint8)


def zone_plate(side: int) -> np.ndarray:
    """A chirp whose frequency grows from the centre to the Nyquist limit at the middle of each edge."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    wave = 127.5 + 127 * np.cos(np.pi * (x**2 + y**2) / side)
    return np.repeat(wave[..., None], 3, axis=-1).astype(np.uint8)


def box_means(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The formula, box by box in float64."""

    def boxes(old: int, new: int) -> list[slice]:
        k = -(-old // new)
        corners = [round(i * (old - k) / max(new - 1, 1)) for i in range(new)]
        return [slice(corner, corner + k) for corner in corners]

    rows, columns = boxes(picture.shape[0], height), boxes(picture.shape[1], width)
    means = [[picture[y, x].astype(np.float64).mean((0, 1)) for x in columns] for y in rows]
    return np.floor(np.array(means) + 0.5).astype(np.uint8)


def centre(frame: np.ndarray) -> np.ndarray:
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    return frame[top : top + side, left : left + side]


def png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


class TestCrop:
    @pytest.mark.parametrize(
        ("shape", "size"),
        list(zip(SHAPES, (128, 128, 128, 8, 1, 30), strict=True)),
    )
    def test_equals_the_formula(self, shape, size):
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame, size), box_means(centre(frame), size, size))

    @pytest.mark.parametrize("k", [15, 16, 17])
    def test_sums_do_not_overflow_around_the_edge_of_16_bits(self, k):
        frame = RNG.integers(250, 256, (k * 4, k * 4, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame, 4), box_means(frame, 4, 4))

    def test_sums_do_not_overflow_around_the_edge_of_32_bits(self):
        white = np.broadcast_to(np.uint8(255), (4200, 4200, 3))
        np.testing.assert_array_equal(fit(white, 1), [[[255, 255, 255]]])

    @pytest.mark.parametrize("side", [1, 20, 63, 64, 65, 100, 127, 128, 129, 640, 2000])
    @pytest.mark.parametrize("value", [0, 1, 128, 255])
    def test_a_constant_stays_constant(self, side, value):
        frame = np.full((side, side + 3, 3), value, np.uint8)
        np.testing.assert_array_equal(fit(frame, 64), np.full((64, 64, 3), value))

    def test_the_right_size_is_untouched(self):
        frame = RNG.integers(0, 256, (64, 100, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame, 64), frame[:, 18:82])

    @pytest.mark.parametrize("side", [40, 100])
    def test_small_pictures_are_resized_by_pillow(self, side):
        frame = RNG.integers(0, 256, (side, side + 10, 3), dtype=np.uint8)
        square = Image.fromarray(frame).crop((5, 0, 5 + side, side))
        np.testing.assert_array_equal(fit(frame, 64), np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR)))

    def test_agrees_with_pillow_on_a_whole_factor(self):
        frame = RNG.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(frame).reduce(4)).astype(int)
        assert np.abs(fit(frame, 128) - expected).max() <= 1

    @pytest.mark.parametrize("side", [256, 300, 480, 720, 1080])
    def test_close_to_pillow_on_smooth_pictures(self, side):
        frame = smooth(side, side)
        expected = np.asarray(Image.fromarray(frame).resize((128, 128), Image.Resampling.BOX)).astype(int)
        assert np.abs(fit(frame, 128) - expected).mean() < 1

    @pytest.mark.parametrize("side", [300, 480, 720, 1080])
    def test_aliases_little(self, side):
        """Where a zone plate is too fine for the result, only gray may be left: near what Pillow's filters leave."""
        plate = zone_plate(side)
        nearest = np.asarray(Image.fromarray(plate).resize((128, 128), Image.Resampling.NEAREST))
        boxes = np.asarray(Image.fromarray(plate).resize((128, 128), Image.Resampling.BOX))
        y, x = np.mgrid[:128, :128] - 63.5
        too_fine = np.hypot(x, y) > 1.5 * 64 * 128 / side  # 1.5 times the Nyquist limit of the result

        def residue(picture: np.ndarray) -> float:
            return float(np.std(picture[too_fine].astype(float)))

        ours = residue(fit(plate, 128))
        assert ours < 1.1 * residue(boxes)
        assert ours < 0.25 * residue(nearest)

    @pytest.mark.parametrize(
        "view",
        [
            lambda frame: frame[:, ::-1],
            lambda frame: frame[..., ::-1],
            lambda frame: frame.transpose(1, 0, 2),
            lambda frame: frame[::2, ::2],
            lambda frame: frame[40:340, 100:500],
            np.asfortranarray,
        ],
    )
    @pytest.mark.parametrize("size", [32, 200])
    def test_views_give_what_their_copies_give(self, view, size):
        frame = view(RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8))
        before = frame.copy()
        np.testing.assert_array_equal(fit(frame, size), fit(np.ascontiguousarray(frame), size))
        np.testing.assert_array_equal(frame, before)

    def test_the_order_of_the_channels_does_not_matter(self):
        frame = RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame[..., ::-1], 64), fit(frame, 64)[..., ::-1])

    def test_refuses_what_load_refuses(self):
        with pytest.raises(BadInput, match=r"A frame of float32 \[9, 9, 3\] is not a picture"):
            fit(np.zeros((9, 9, 3), np.float32), 4)

    def test_many_threads(self):
        frame = RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        encoded, expected, wrong = png(frame), fit(frame, 64), []

        def work() -> None:
            wrong.extend(1 for _ in range(10) if not np.array_equal(fit(load(encoded), 64), expected))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_is_faster_than_pillow(self):
        """Interleaved best times of one 720p frame; the measured ratio is about four."""
        frame = RNG.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
        image = Image.fromarray(frame)
        best = {"ours": float("inf"), "pillow": float("inf")}
        for _ in range(30):
            for name, call in {
                "ours": lambda: fit(frame, 128),
                "pillow": lambda: image.resize((128, 128), Image.Resampling.BILINEAR, box=(280, 0, 1000, 720)),
            }.items():
                start = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - start)
        assert best["ours"] < best["pillow"]


def columns_by_pillow(frame: np.ndarray, size: int) -> np.ndarray:
    """Each column of `frame` alone, so that there is one way only to resize it."""
    return np.stack(
        [np.asarray(Image.fromarray(c[:, None]).resize((1, size), BILINEAR))[:, 0] for c in frame.transpose(1, 0, 2)], 1
    )


class TestSquash:
    @pytest.mark.parametrize(("shape", "size"), [((720, 1280), 128), ((257, 301), 64), ((64, 1000), 32), ((9, 80), 4)])
    def test_large_frames_are_averaged_over_boxes(self, shape, size):
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame, size, "squash"), box_means(frame, size, size))

    @pytest.mark.parametrize("shape", [(40, 50), (127, 4000), (64, 100), (1, 1), (1, 20000)])
    def test_where_a_side_is_small_it_is_pillows_resize(self, shape):
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(frame).resize((64, 64), BILINEAR))
        np.testing.assert_array_equal(fit(frame, 64, "squash"), expected)

    def test_rows_are_resized_before_columns_in_every_version_of_pillow(self):
        """So that a device answers as the machine that trained; the order shows in the rounding between the steps."""
        frame = RNG.integers(0, 256, (100, 8, 3), dtype=np.uint8)
        other_way = fit(frame.transpose(1, 0, 2), 64, "squash").transpose(1, 0, 2)
        found = fit(frame, 64, "squash")
        expected = columns_by_pillow(columns_by_pillow(frame.transpose(1, 0, 2), 64).transpose(1, 0, 2), 64)
        np.testing.assert_array_equal(found, expected)
        assert (found != other_way).any()


class TestPad:
    @pytest.mark.parametrize("shape", [(40, 51), (51, 40), (120, 90), (63, 125), (30, 64), (62, 64), (40, 46)])
    def test_small_frames_are_what_pillow_pads(self, shape):
        """Where Pillow and we round alike: no half pixels."""
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        rows, columns = (side * 64 / max(shape) for side in shape)
        assert rows % 1 != 0.5
        assert columns % 1 != 0.5
        assert round(rows) % 2 == round(columns) % 2 == 0
        padded = ImageOps.pad(Image.fromarray(frame), (64, 64), BILINEAR, color=(PADDING,) * 3)
        np.testing.assert_array_equal(fit(frame, 64, "pad"), np.asarray(padded))

    @pytest.mark.parametrize("shape", [(720, 1280), (1280, 720), (640, 480), (300, 301)])
    def test_large_frames_are_averaged_over_boxes(self, shape):
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        rows, columns = (int(side * 128 / max(shape) + 0.5) for side in shape)
        top, left = (128 - rows) // 2, (128 - columns) // 2
        expected = np.full((128, 128, 3), PADDING)
        expected[top : top + rows, left : left + columns] = box_means(frame, rows, columns)
        np.testing.assert_array_equal(fit(frame, 128, "pad"), expected)

    @pytest.mark.parametrize(("shape", "row"), [((1, 20000), slice(15, 16)), ((3, 128), slice(15, 16))])
    def test_a_strip_keeps_one_row(self, shape, row):
        padded = fit(np.zeros((*shape, 3), np.uint8), 32, "pad")
        assert (padded[row] == 0).all()
        assert (padded == PADDING).sum() == 31 * 32 * 3

    def test_a_half_row_is_rounded_up(self):
        assert (fit(np.zeros((5, 20, 3), np.uint8), 10, "pad") == 0).sum() == 3 * 10 * 3  # 2.5 rows


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
class TestEveryMode:
    def test_a_square_is_resized_alike(self, mode):
        for side in (20, 32, 50, 64, 200):
            frame = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
            np.testing.assert_array_equal(fit(frame, 32, mode), fit(frame, 32))

    def test_a_region_is_the_cut_out_frame(self, mode):
        frame = RNG.integers(0, 256, (100, 200, 3), dtype=np.uint8)
        preprocessor = Preprocessor(Preprocess(image_size=32, fit=mode), Region(0.1, 0.25, 0.5, 0.7))
        np.testing.assert_array_equal(preprocessor(frame), fit(frame[25:95, 20:120], 32, mode))

    @pytest.mark.parametrize("size", [16, 200])
    def test_views_give_what_their_copies_give(self, mode, size):
        large = RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8)
        for frame in (large[:, ::-1], large[..., ::-1], large[40:340, 100:500], large.transpose(1, 0, 2)):
            np.testing.assert_array_equal(fit(frame, size, mode), fit(np.ascontiguousarray(frame), size, mode))

    def test_the_order_of_the_channels_does_not_matter(self, mode):
        frame = RNG.integers(0, 256, (200, 300, 3), dtype=np.uint8)
        np.testing.assert_array_equal(fit(frame[..., ::-1], 64, mode), fit(frame, 64, mode)[..., ::-1])


class TestRegion:
    @pytest.mark.parametrize(
        ("region", "rows", "columns"),
        [
            ((0, 0, 1, 1), (0, 9), (0, 16)),
            ((0.5, 0.5, 0.5, 0.5), (5, 9), (8, 16)),  # 4.5 is rounded up
            ((0.58, 0, 0.42, 1), (0, 9), (9, 16)),
            ((0.999, 0.999, 0.001, 0.001), (8, 9), (15, 16)),
            ((0.3, 0.3, 1e-9, 1e-9), (3, 4), (5, 6)),
        ],
    )
    def test_edges_are_rounded_to_pixels_of_which_one_is_left(self, region, rows, columns):
        frame = RNG.integers(0, 256, (9, 16, 3), dtype=np.uint8)
        cut = Region(*region).cut(frame)
        np.testing.assert_array_equal(cut, frame[slice(*rows), slice(*columns)])

    @pytest.mark.parametrize(
        "numbers",
        [
            *[(0, 0, 0, 1), (0, 0, 1, 0), (-0.1, 0, 1, 1), (0.5, 0, 0.6, 1), (0, 0.01, 1, 1), (10, 10, 100, 100)],
            *[(0, 0, float("nan"), 1), (0, 0, float("inf"), 1)],
        ],
    )
    def test_what_is_not_inside_the_frame_is_refused(self, numbers):
        with pytest.raises(UsageError, match=r"^The region .* is not inside the frame\.$") as caught:
            Region(*numbers)
        assert "shares of the frame" in caught.value.advice

    def test_text(self):
        assert Region.of("0.1, 0.2,.3,0.4") == Region(0.1, 0.2, 0.3, 0.4)
        for wrong in ("", "1,2,3", "a,b,c,d", "0,0,1,1,1", "0;0;1;1"):
            with pytest.raises(UsageError, match=f"four numbers x,y,w,h such as 0.25,0.25,0.5,0.5, not {wrong!r}"):
                Region.of(wrong)


def test_the_first_bundles_fit_is_crop():
    assert Preprocess.model_validate({"image_size": 32, "fit": "centre-crop"}) == Preprocess(image_size=32, fit="crop")
