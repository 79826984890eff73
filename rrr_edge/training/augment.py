"""Augmentation of small photo collections: two of twelve transforms for every image (Sun et al. 2023, Appendix C).

The list and its parameters are the authors' (albumentations 1.2.0), done here with torchvision and formulas. The
deviations are all of about a rounding: results are rounded where albumentations truncates, colour shifts are whole
numbers, equalisation is Pillow's, geometry turns about the centre of the pixel grid, and the line of a motion blur is
drawn by rounding, not by OpenCV.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

DRAWS = 2


def augment(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Apply two transforms, drawn uniformly with replacement, in sequence. uint8 [3, H, W] in and out, a new tensor.

    All randomness comes from `rng`. H and W of at least 4, for the borders of the blur.
    """
    for choice in rng.integers(len(TRANSFORMS), size=DRAWS):
        image = TRANSFORMS[choice](image, rng)
    return image


def shear(image: Tensor, rng: np.random.Generator) -> Tensor:
    """By -10 to 10 degrees along each axis; black outside."""
    angles = [float(angle) for angle in rng.uniform(-10, 10, size=2)]
    sheared: Tensor = vision.affine(image, 0.0, [0, 0], 1.0, angles, interpolation=InterpolationMode.BILINEAR)
    return sheared


def shift_scale_rotate(image: Tensor, rng: np.random.Generator) -> Tensor:
    """By up to 10%, 1% and 30 degrees; outside, the image is mirrored without repeating its edge."""
    return warp(
        image,
        shift=(rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)),
        scale=1 + rng.uniform(-0.01, 0.01),
        degrees=rng.uniform(-30, 30),
    )


def warp(image: Tensor, *, shift: tuple[float, float], scale: float, degrees: float) -> Tensor:
    """Scale and turn clockwise about the centre, then move right and down by `shift` of the width and height."""
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    right, down = shift[0] * width, shift[1] * height
    # The inverse map, from pixels of the result to pixels of the image, in grid_sample's units (-1 to 1 from the
    # centre of the first to the centre of the last pixel, where "reflection" mirrors about the edge pixel).
    half_x, half_y = max(width - 1, 1) / 2, max(height - 1, 1) / 2
    theta = torch.tensor(
        [
            [cos, sin * half_y / half_x, -(cos * right + sin * down) / half_x],
            [-sin * half_x / half_y, cos, (sin * right - cos * down) / half_y],
        ]
    )
    grid = nn.affine_grid(theta[None], [1, 3, height, width], align_corners=True)
    return _to_uint8(nn.grid_sample(image[None].float(), grid, padding_mode="reflection", align_corners=True)[0])


def shift_rgb(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Add -15 to 15 to each channel."""
    shifts = torch.from_numpy(rng.integers(-15, 16, size=3, dtype=np.int16))
    return (image.to(torch.int16) + shifts[:, None, None]).clamp_(0, 255).to(torch.uint8)


def brightness_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Multiply by 0.8 to 1.2 and add up to a fifth of the full range."""
    contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
    return _to_uint8(image.float().mul_(contrast).add_(255 * brightness))


def posterize(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep the four highest bits."""
    result: Tensor = vision.posterize(image, 4)
    return result


def motion_blur(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Average along a random line inside a square of 3, 5 or 7 pixels; borders mirrored."""
    size = int(rng.choice((3, 5, 7)))
    (x1, y1), (x2, y2) = rng.integers(size, size=(2, 2))
    if (x1, y1) == (x2, y2):
        y2 = (y1 + rng.integers(1, size)) % size
    points = max(abs(x2 - x1), abs(y2 - y1)) + 1
    xs, ys = np.linspace(x1, x2, points).round().astype(int), np.linspace(y1, y2, points).round().astype(int)
    height, width = image.shape[-2:]
    padded = _mirrored(image.to(torch.int16), size // 2)
    # A sum of shifted copies: several times faster than a 7x7 convolution that is mostly zeros.
    total = torch.zeros_like(image, dtype=torch.int16)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        total += padded[:, y : y + height, x : x + width]
    return _to_uint8(total.float().div_(points))


def jpeg(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Compress at quality 99 or 100: almost nothing happens, as in the authors' code."""
    result: Tensor = vision.jpeg(image, int(rng.integers(99, 101)))
    return result


def noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Add independent Gaussian noise of variance 10 to 50 to every value."""
    deviation = math.sqrt(rng.uniform(10, 50))
    # torch draws normal numbers three times faster than numpy.
    generator = torch.Generator().manual_seed(int(rng.integers(2**32)))
    return _to_uint8(torch.randn(image.shape, generator=generator).mul_(deviation).add_(image))


def equalize(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Flatten the histogram of each channel."""
    result: Tensor = vision.equalize(image)
    return result


def solarize(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Invert the values from 128 up."""
    result: Tensor = vision.solarize(image, 128)
    return result


def sharpen(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Mix in 0.2 to 0.5 of a Laplacian-sharpened image whose centre weight is 8.5 to 9; borders mirrored."""
    alpha, lightness = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.0)
    # The kernel (1 - alpha) I + alpha (8 + lightness at the centre, -1 around it), by the sum over the 3x3 square.
    padded = _mirrored(image.to(torch.int16), 1)
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return _to_uint8(image.float().mul_(1 - alpha + alpha * (9 + lightness)).sub_(square, alpha=alpha))


def invert(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn into the negative."""
    result: Tensor = vision.invert(image)
    return result


def _to_uint8(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _mirrored(image: Tensor, border: int) -> Tensor:
    return nn.pad(image, (border,) * 4, mode="reflect")


TRANSFORMS: tuple[Callable[[Tensor, np.random.Generator], Tensor], ...] = (
    shear,
    shift_scale_rotate,
    shift_rgb,
    brightness_contrast,
    posterize,
    motion_blur,
    jpeg,
    noise,
    equalize,
    solarize,
    sharpen,
    invert,
)
