import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage, stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from rrr_edge.training import augment as module
from rrr_edge.training.augment import TRANSFORMS, augment, warp


class Spy:
    """A generator that remembers what it drew."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.drawn: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def draw(*args: Any, **kwargs: Any) -> Any:
            self.drawn.append(getattr(self._rng, name)(*args, **kwargs))
            return self.drawn[-1]

        return draw


def photo(height: int = 48, width: int = 40) -> Tensor:
    """Smooth, with an edge and all values."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 127 * np.sin(x / 7 + y / 11 + c) for c in range(2)] + [np.where(x > y, 230, 15)]
    return torch.from_numpy(np.stack(channels).round().astype(np.uint8))


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def values(image: Tensor | Image.Image) -> NDArray[np.int64]:
    array = image.numpy() if isinstance(image, Tensor) else np.asarray(image).transpose(2, 0, 1)
    return array.astype(np.int64)


def rounded(array: NDArray[Any]) -> NDArray[np.int64]:
    return np.clip(np.round(array), 0, 255).astype(np.int64)


def difference(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a) - np.asarray(b)).max())


SEEDS = range(20)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("size", [(32, 32), (17, 40), (8, 8)])
def test_a_transform_keeps_type_and_shape_and_its_input(transform: Any, size: tuple[int, int]) -> None:
    image = photo(*size)
    before = image.clone()
    for seed in SEEDS:
        result = transform(image, np.random.default_rng(seed))
        assert (result.dtype, result.shape) == (torch.uint8, image.shape)
        assert result.data_ptr() != image.data_ptr()
        assert torch.equal(result, transform(image, np.random.default_rng(seed)))
    assert torch.equal(image, before)


def test_augmentation_reads_and_moves_no_global_randomness() -> None:
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = [augment(photo(), np.random.default_rng(seed)) for seed in range(50)]
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    torch.rand(3)
    again = [augment(photo(), np.random.default_rng(seed)) for seed in range(50)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.numpy().tobytes() for image in first}) > 40


def test_two_transforms_are_drawn_uniformly_with_replacement_and_applied_in_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(TRANSFORMS) == 12
    # Each stand-in appends its own digit, in base 12, to the "image".
    stand_ins = tuple(lambda image, rng, i=i: image * 12 + i for i in range(12))
    monkeypatch.setattr(module, "TRANSFORMS", stand_ins)
    rng = np.random.default_rng(1)
    pairs = [int(augment(torch.tensor(0), rng)) for _ in range(14_400)]
    assert stats.chisquare(np.bincount(pairs, minlength=144)).pvalue > 0.001


@pytest.mark.parametrize("seed", SEEDS)
def test_shear_is_pillows(seed: int) -> None:
    spy = Spy(seed)
    result = module.shear(photo(), spy)
    (angles,) = spy.drawn
    assert len(angles) == 2
    assert np.abs(angles).max() <= 10
    expected = vision.affine(
        pillow(photo()), 0.0, [0, 0], 1.0, angles.tolist(), interpolation=InterpolationMode.BILINEAR
    )
    # Where the border or the edge crosses a pixel the two samplers weigh it differently.
    assert np.mean(np.abs(values(result) - values(expected)) <= 4) > 0.95


def test_shear_leaves_black_outside() -> None:
    corners = [module.shear(torch.full((3, 64, 64), 200, dtype=torch.uint8), np.random.default_rng(s)) for s in SEEDS]
    assert max(int((image == 0).sum()) for image in corners) > 3 * 64


@pytest.mark.parametrize(
    ("shift", "scale", "degrees"),
    [((0.0, 0.0), 1.0, 0.0), ((0.1, -0.05), 1.0, 0.0), ((0.0, 0.0), 1.01, 30.0), ((-0.1, 0.1), 0.99, -17.0)],
)
def test_warp_mirrors_without_repeating_the_edge(shift: tuple[float, float], scale: float, degrees: float) -> None:
    image = photo()
    height, width = image.shape[1:]
    angle, centre = math.radians(degrees), np.array([(width - 1) / 2, (height - 1) / 2])
    forward = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    y, x = np.mgrid[0:height, 0:width]
    moved = np.stack([x, y], -1) - centre - np.array([shift[0] * width, shift[1] * height])
    source = moved @ np.linalg.inv(forward).T + centre
    expected = [
        ndimage.map_coordinates(channel.astype(float), [source[..., 1], source[..., 0]], order=1, mode="mirror")
        for channel in image.numpy()
    ]
    assert difference(values(warp(image, shift=shift, scale=scale, degrees=degrees)), rounded(np.stack(expected))) <= 1


def test_shift_scale_rotate_stays_in_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "warp", lambda image, **parameters: calls.append(parameters))
    rng = np.random.default_rng(0)
    for _ in range(500):
        module.shift_scale_rotate(photo(), rng)
    shifts = np.array([call["shift"] for call in calls])
    scales = np.array([call["scale"] for call in calls])
    degrees = np.array([call["degrees"] for call in calls])
    for drawn, low, high in ((shifts, -0.1, 0.1), (scales, 0.99, 1.01), (degrees, -30, 30)):
        margin = (high - low) / 50
        assert low <= drawn.min() < low + margin
        assert high - margin < drawn.max() <= high


@pytest.mark.parametrize("seed", SEEDS)
def test_shift_rgb_adds_to_each_channel(seed: int) -> None:
    spy = Spy(seed)
    result = module.shift_rgb(photo(), spy)
    (shifts,) = spy.drawn
    assert np.abs(shifts).max() <= 15
    assert difference(values(result), rounded(values(photo()) + shifts[:, None, None])) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_brightness_contrast_is_a_line(seed: int) -> None:
    spy = Spy(seed)
    result = module.brightness_contrast(photo(), spy)
    contrast, brightness = spy.drawn
    assert abs(contrast - 1) <= 0.2
    assert abs(brightness) <= 0.2
    assert difference(values(result), rounded(contrast * values(photo()) + 255 * brightness)) <= 1


@pytest.mark.parametrize(
    ("transform", "reference"),
    [
        (module.posterize, lambda image: ImageOps.posterize(image, 4)),
        (module.solarize, lambda image: ImageOps.solarize(image, 128)),
        (module.equalize, ImageOps.equalize),
        (module.invert, ImageOps.invert),
    ],
)
def test_the_fixed_transforms_are_pillows(transform: Any, reference: Callable[[Image.Image], Image.Image]) -> None:
    result = transform(photo(), np.random.default_rng(0))
    assert difference(values(result), values(reference(pillow(photo())))) == 0
    assert difference(values(result), values(photo())) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_blur_averages_along_a_line(seed: int) -> None:
    impulse = torch.zeros(3, 15, 15, dtype=torch.uint8)
    impulse[:, 7, 7] = 255
    response = module.motion_blur(impulse, np.random.default_rng(seed))[0].numpy()
    rows, columns = np.nonzero(response)
    count = len(rows)
    assert 2 <= count <= 7
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == count
    assert np.abs(np.stack([rows, columns]) - 7).max() <= 3
    assert np.all(np.abs(response[rows, columns] - 255 / count) <= 0.5)
    # On a line: no point is farther than half a pixel from the one through the ends.
    ends = np.array([[rows[i], columns[i]] for i in (0, -1)], dtype=float)
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    offsets = np.stack([rows, columns], 1) - ends[0]
    assert np.abs(offsets @ np.array([-along[1], along[0]])).max() <= 0.5 + 1e-9
    kernel = (response > 0)[::-1, ::-1] / count
    expected = [ndimage.correlate(channel.astype(float), kernel, mode="mirror") for channel in photo().numpy()]
    result = module.motion_blur(photo(), np.random.default_rng(seed))
    assert difference(values(result), rounded(np.stack(expected))) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_jpeg_is_pillows(seed: int) -> None:
    spy = Spy(seed)
    result = module.jpeg(photo(), spy)
    (quality,) = spy.drawn
    assert quality in (99, 100)
    file = io.BytesIO()
    pillow(photo()).save(file, "JPEG", quality=int(quality))
    assert np.abs(values(result) - values(Image.open(file))).mean() < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_has_the_variance_drawn(seed: int) -> None:
    spy = Spy(seed)
    result = module.noise(torch.full((3, 200, 200), 128, dtype=torch.uint8), spy)
    deviation = math.sqrt(spy.drawn[0])
    assert 10 <= deviation**2 <= 50
    added = values(result) - 128
    # Rounding adds 1/12 to the variance.
    assert (
        stats.kstest(
            added.ravel() + np.random.default_rng(0).uniform(-0.5, 0.5, added.size),
            "norm",
            args=(0, math.sqrt(deviation**2 + 1 / 12)),
        ).statistic
        < 0.01
    )
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_sharpen_is_its_kernel(seed: int) -> None:
    spy = Spy(seed)
    result = module.sharpen(photo(), spy)
    alpha, lightness = spy.drawn
    assert 0.2 <= alpha <= 0.5
    assert 0.5 <= lightness <= 1.0
    kernel = np.full((3, 3), -alpha)
    kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
    expected = [ndimage.correlate(channel.astype(float), kernel, mode="mirror") for channel in photo().numpy()]
    assert difference(values(result), rounded(np.stack(expected))) <= 1
