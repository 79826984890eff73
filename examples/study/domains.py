"""Small tasks that draw themselves, every picture a function of nothing but its place.

Letters, textures, handwritten digits and shapes share nothing but the way a picture is spoiled: a structured ground,
little contrast, patches in front, noise. What a test asks for was never in the training: other fonts, other writers,
other draws. Greek letters, signs and curves were drawn later: no default of rrr-edge was chosen on them.
"""

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from rrr_edge.training import Examples

Split = Literal["train", "test"]
Floats = NDArray[np.float64]
Generator = np.random.Generator

CANVAS = 128


class Spoiling(NamedTuple):
    """How hard a picture is to read.

    `contrast` bounds the step of brightness from ground to figure, `patches` is the largest number of patches in front,
    and `noise` the largest deviation of Gaussian noise; brightness goes from 0 to 1.
    """

    contrast: tuple[float, float]
    patches: int
    noise: float


class Domain(NamedTuple):
    """`draw` makes a picture of a class's index for a split: RGB of about 0 .. 1, [CANVAS, CANVAS, 3]."""

    classes: tuple[str, ...]
    draw: Callable[[int, Split, Spoiling, Generator], Floats]
    spoiling: Spoiling


# What a backbone learns from is easy to read, so that few epochs teach it something.
CLEAR = Spoiling(contrast=(0.3, 0.7), patches=1, noise=0.03)


def draw_examples(
    domain: str, split: Split, per_class: int, *, size: int = CANVAS, spoiling: Spoiling | None = None
) -> Examples:
    """`per_class` pictures [size, size] of each class, class by class.

    Spoiled as the domain says, unless told otherwise. The same every time; a class's first n do not depend on how many
    follow.
    """
    classes, draw, usual = ALL[domain]
    images = np.empty((len(classes) * per_class, size, size, 3), np.uint8)
    for place in range(len(images)):
        label, index = divmod(place, per_class)
        rng = np.random.default_rng([zlib.crc32(f"{domain} {split}".encode()), label, index])
        picture = Image.fromarray(
            np.round(255 * draw(label, split, spoiling or usual, rng).clip(0, 1)).astype(np.uint8)
        )
        images[place] = picture if size == CANVAS else picture.resize((size, size), Image.Resampling.BOX)
    return Examples(images, np.repeat(np.arange(len(classes)), per_class))


LETTERS = tuple("012BDEIKLPWbdfimopsv")
FONTS: dict[Split, tuple[str, ...]] = {
    "train": tuple(
        f"{family}{style}"
        for family, styles in (
            ("DejaVuSans", ("", "-Bold", "-Oblique", "-BoldOblique")),
            ("DejaVuSansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
            ("STIXGeneral", ("", "Bol", "Italic", "BolIta")),
        )
        for style in styles
    ),
    "test": (
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
    ),
}


# TeX's fonts lack some of these.
GREEK = tuple("ΓΔΘΛΞΠΣΦΨΩβγδθλμξπφψ")
SIGNS = {
    "plus-minus": "±",
    "times": "\u00d7",
    "divided": "÷",
    "section": "§",
    "paragraph": "¶",
    "dagger": "†",
    "euro": "€",
    "pound": "£",
    "yen": "¥",
    "dollar": "$",
    "copyright": "©",
    "question": "?",
    "exclamation": "!",
    "and": "&",
    "at": "@",
    "percent": "%",
    "number": "#",
    "less": "<",
    "equals": "=",
    "asterisk": "*",
}
SIGN_FONTS: dict[Split, tuple[str, ...]] = {"train": FONTS["train"], "test": FONTS["test"][:4]}


def _letter(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    return _glyph(LETTERS[label], FONTS[split], spoiling, rng)


def _greek(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    return _glyph(GREEK[label], SIGN_FONTS[split], spoiling, rng)


def _sign(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    return _glyph(tuple(SIGNS.values())[label], SIGN_FONTS[split], spoiling, rng)


def _glyph(glyph: str, fonts: tuple[str, ...], spoiling: Spoiling, rng: Generator) -> Floats:
    font = _font(str(rng.choice(fonts)), int(rng.integers(64, 104)))
    stencil = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(stencil).text((CANVAS / 2, CANVAS / 2), glyph, font=font, fill=255, anchor="mm")
    mask = _placed(stencil, rng, degrees=10, shift=8)
    return _pictured(mask, spoiling, rng)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def _digit(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    """From 8x8 pixels of real handwriting; half of each class's writings are for the training, half for the test."""
    writing = rng.choice(_writings(label, split))
    side = int(rng.integers(84, 108))
    stencil = Image.new("L", (CANVAS, CANVAS))
    stencil.paste(Image.fromarray(writing).resize((side, side), Image.Resampling.BICUBIC), (64 - side // 2,) * 2)
    mask = _placed(stencil, rng, degrees=8, shift=5)
    return _pictured(mask, spoiling, rng)


@cache
def _writings(label: int, split: Split) -> NDArray[np.uint8]:
    digits = load_digits()
    mine = np.round(digits.images[digits.target == label] * (255 / 16)).astype(np.uint8)
    # The collection goes from writer to writer, so that its halves are those of different people.
    half = len(mine) // 2
    return mine[:half] if split == "train" else mine[half:]


def _shape(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    """Drawn at twice the size for soft edges."""
    turn = np.radians(rng.uniform(-30, 30))
    stretch = np.diag(rng.uniform(0.85, 1.15, 2)) * rng.uniform(28, 46)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    outline = _SHAPES[_SHAPE_NAMES[label]] @ stretch @ rotation + CANVAS / 2 + rng.uniform(-12, 12, 2)
    stencil = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    ImageDraw.Draw(stencil).polygon([(x, y) for x, y in (2 * outline).tolist()], fill=255)
    mask = np.asarray(stencil.resize((CANVAS, CANVAS), Image.Resampling.BOX)) / 255
    return _pictured(mask, spoiling, rng)


def _round(radius: float | Floats = 1.0, *, start: float = 0.0, stop: float = 2 * np.pi, points: int = 72) -> Floats:
    """Points [points, 2] on an arc."""
    angles = np.linspace(start, stop, points, endpoint=stop - start < 2 * np.pi)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star(rays: int, inner: float) -> Floats:
    return _round(np.resize([1.0, inner], 2 * rays), points=2 * rays)


def _band(inner: float, stop: float) -> Floats:
    """Along a circle and back on a smaller one."""
    return np.concatenate([_round(stop=stop), _round(inner, stop=stop)[::-1]])


def _bite() -> Floats:
    """The inner edge of the crescent."""
    return np.asarray(_round(0.78, start=0.9, stop=5.38)[::-1] + np.array([0.14, 0]))


def _corners(*xy: float) -> Floats:
    return np.array(xy).reshape(-1, 2)


def _heart() -> Floats:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, y], axis=1) / 16


_SHAPES: dict[str, Floats] = {
    "triangle": _round(points=3),
    "square": _round(points=4),
    "pentagon": _round(points=5),
    "hexagon": _round(points=6),
    "circle": _round(0.9),
    "rectangle": _corners(-1, -0.5, 1, -0.5, 1, 0.5, -1, 0.5),
    "ellipse": _round() * [1.1, 0.55],
    "half disc": _round(stop=np.pi) - [0, 0.4],
    "pie": np.concatenate([_round(start=np.pi / 4, stop=7 * np.pi / 4), [[0.0, 0.0]]]),
    "ring": _band(0.55, 2 * np.pi - 1e-6),
    "arc": _band(0.6, 1.3 * np.pi),
    "crescent": np.concatenate([_round(start=0.9, stop=5.38), _bite()]),
    "star of 4": _star(4, 0.4),
    "star of 5": _star(5, 0.45),
    "star of 6": _star(6, 0.55),
    "cross": _corners(*(-1, -0.3, -0.3, -0.3, -0.3, -1, 0.3, -1, 0.3, -0.3, 1, -0.3),
                      *(1, 0.3, 0.3, 0.3, 0.3, 1, -0.3, 1, -0.3, 0.3, -1, 0.3)),
    "L": _corners(-0.8, -0.9, -0.2, -0.9, -0.2, 0.4, 0.8, 0.4, 0.8, 0.9, -0.8, 0.9),
    "T": _corners(-0.9, -0.9, 0.9, -0.9, 0.9, -0.35, 0.28, -0.35, 0.28, 0.9, -0.28, 0.9, -0.28, -0.35, -0.9, -0.35),
    "arrow": _corners(-1, -0.25, 0.1, -0.25, 0.1, -0.75, 1, 0, 0.1, 0.75, 0.1, 0.25, -1, 0.25),
    "heart": _heart(),
}  # fmt: skip
_SHAPE_NAMES = tuple(_SHAPES)


def _lissajous(across: int, up: int) -> Floats:
    t = np.linspace(0, 2 * np.pi, 400)
    return np.stack([np.cos(across * t), np.sin(up * t)], axis=1)


def _rose(petals: float) -> Floats:
    angles = np.linspace(0, 4 * np.pi, 600)
    radius = np.cos(petals * angles)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _spiral(turns: float, power: float = 1.0) -> Floats:
    t = np.linspace(0, 1, 400)
    return np.stack([t**power * np.cos(2 * np.pi * turns * t), t**power * np.sin(2 * np.pi * turns * t)], axis=1)


def _rolling(cusps: int, *, inside: bool) -> Floats:
    """The path of a point on a circle that rolls on another one, inside or outside of it."""
    t, sign = np.linspace(0, 2 * np.pi, 400), -1 if inside else 1
    path = (cusps + sign) * np.exp(1j * t) - sign * np.exp(1j * (cusps + sign) * sign * t)
    path /= np.abs(path).max()
    return np.stack([path.real, path.imag], axis=1)


_CURVES: dict[str, Floats] = {
    **{f"lissajous {a} to {b}": _lissajous(a, b) for a, b in ((1, 2), (1, 3), (2, 3), (3, 4), (1, 4), (3, 5))},
    **{f"rose of {name}": _rose(k) for name, k in (("3", 3), ("4", 2), ("5", 5), ("8", 4), ("6 that overlap", 1.5))},
    **{f"spiral of {turns}": _spiral(turns) for turns in (1.5, 2.5, 4)},
    "steep spiral": _spiral(3, 2.5),
    **{f"{n} cusps inside": _rolling(n, inside=True) for n in (3, 5)},
    **{f"{n} cusps outside": _rolling(n, inside=False) for n in (2, 3, 5)},
}
_CURVE_NAMES = tuple(_CURVES)


def _curve(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    """A line at any angle; drawn at twice the size for soft edges."""
    turn = np.radians(rng.uniform(0, 360))
    stretch = np.diag(rng.uniform(0.85, 1.15, 2)) * rng.uniform(32, 46)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    line = 2 * (_CURVES[_CURVE_NAMES[label]] @ stretch @ rotation + CANVAS / 2 + rng.uniform(-8, 8, 2))
    stencil = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    width = int(rng.integers(5, 11))
    ImageDraw.Draw(stencil).line([(x, y) for x, y in line.tolist()], fill=255, width=width, joint="curve")
    mask = np.asarray(stencil.resize((CANVAS, CANVAS), Image.Resampling.BOX)) / 255
    return _pictured(mask, spoiling, rng)


def _texture(label: int, split: Split, spoiling: Spoiling, rng: Generator) -> Floats:
    """A pattern at any angle and scale in two colours that differ little; angle, scale and colour tell nothing."""
    pattern = _TEXTURES[_TEXTURE_NAMES[label]](_plane(rng), rng)
    low, high = np.quantile(pattern, (0.02, 0.98))
    weight = ((pattern - low) / (high - low)).clip(0, 1)
    return _pictured(weight, spoiling, rng)


def _plane(rng: Generator) -> Floats:
    """Coordinates [2, CANVAS, CANVAS] in periods of the pattern, turned, scaled and shifted."""
    turn, period = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(10), np.log(24)))
    y, x = np.mgrid[:CANVAS, :CANVAS] / period
    shift = rng.uniform(0, 1, (2, 1, 1))
    return np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y]) + shift


def _wave(t: Floats) -> Floats:
    return np.asarray(np.sin(2 * np.pi * t))


def _near(t: Floats, width: float) -> Floats:
    """1 within `width` periods of a whole number."""
    return (np.abs((t + 0.5) % 1 - 0.5) < width / 2).astype(float)


def _lattice(plane: Floats, *, hexagonal: bool = False) -> Floats:
    """Distance to the next point of a lattice, in periods."""
    u, v = plane
    if not hexagonal:
        return np.hypot((u + 0.5) % 1 - 0.5, (v + 0.5) % 1 - 0.5)
    rows = np.sqrt(3)
    apart = [np.hypot((u + s + 0.5) % 1 - 0.5, (v + rows * s + rows / 2) % rows - rows / 2) for s in (0, 0.5)]
    return np.minimum(*apart)


def _bricks(plane: Floats) -> Floats:
    u, v = plane
    return np.maximum(_near(v, 0.16), _near(u / 2 + np.floor(v) / 2, 0.08))


def _basket(plane: Floats) -> Floats:
    u, v = plane / 1.5
    return np.where((np.floor(u) + np.floor(v)) % 2 == 0, _wave(3 * u), _wave(3 * v))


def _cells(plane: Floats, rng: Generator) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Distances to the nearest and the second nearest of scattered points, in periods, and which is the nearest."""
    low, high = plane.min((1, 2)), plane.max((1, 2))
    points = rng.uniform(low, high, (max(8, round(0.35 * np.prod(high - low))), 2)).astype(np.float32)
    flat = plane.reshape(2, -1).T.astype(np.float32)
    square = (flat**2).sum(1)[:, None] - 2 * flat @ points.T + (points**2).sum(1)
    nearest, second = np.sort(np.sqrt(np.partition(square, 1, axis=1)[:, :2].clip(0)), axis=1).T
    return (
        nearest.reshape(CANVAS, CANVAS).astype(float),
        second.reshape(CANVAS, CANVAS).astype(float),
        square.argmin(1).reshape(CANVAS, CANVAS),
    )


def _edges(plane: Floats, rng: Generator) -> Floats:
    nearest, second, _ = _cells(plane, rng)
    return (second - nearest < 0.18).astype(float)


def _mosaic(plane: Floats, rng: Generator) -> Floats:
    _, _, cell = _cells(plane, rng)
    return np.asarray(rng.uniform(0, 1, cell.max() + 1)[cell])


def _band_noise(plane: Floats, rng: Generator, *, squeeze: float = 1.0) -> Floats:
    """Gaussian noise of about one period; squeezed along the pattern's first axis, it is oriented."""
    period, turn = _period_and_turn(plane)
    along, across = np.cos(turn) * _FREQUENCY[1] - np.sin(turn) * _FREQUENCY[0], np.sin(turn) * _FREQUENCY[1]
    across = across + np.cos(turn) * _FREQUENCY[0]
    radius = period * np.hypot(along, squeeze * across)
    return _filtered(np.exp(-((radius - 1) ** 2) / 0.08), rng)


def _power_noise(plane: Floats, rng: Generator, *, power: float) -> Floats:
    return _filtered(np.maximum(np.hypot(*_FREQUENCY), 1 / CANVAS) ** -power, rng)


def _period_and_turn(plane: Floats) -> tuple[float, float]:
    step = plane[:, 0, 1] - plane[:, 0, 0]
    return float(1 / np.hypot(*step)), float(np.arctan2(step[1], step[0]))


def _filtered(gain: Floats, rng: Generator) -> Floats:
    return np.fft.ifft2(np.fft.fft2(rng.standard_normal((CANVAS, CANVAS))) * gain).real


_FREQUENCY = np.stack(np.meshgrid(np.fft.fftfreq(CANVAS), np.fft.fftfreq(CANVAS), indexing="ij"))

_TEXTURES: dict[str, Callable[[Floats, Generator], Floats]] = {
    "grating": lambda p, rng: _wave(p[0]),
    "stripes": lambda p, rng: np.sign(_wave(p[0])),
    "thin lines": lambda p, rng: _near(p[0], 0.2),
    "waves": lambda p, rng: np.sign(_wave(p[0] + 0.3 * _wave(p[1] / 2))),
    "zigzag": lambda p, rng: np.sign(_wave(p[0] + 0.8 * np.abs(p[1] / 1.5 % 1 - 0.5))),
    "checks": lambda p, rng: np.sign(_wave(p[0] / 2) * _wave(p[1] / 2)),
    "grid": lambda p, rng: np.maximum(_near(p[0], 0.2), _near(p[1], 0.2)),
    "plaid": lambda p, rng: _wave(p[0]) + _wave(p[1]),
    "bricks": lambda p, rng: _bricks(p),
    "basket": lambda p, rng: _basket(p),
    "dots": lambda p, rng: (_lattice(p) < 0.28).astype(float),
    "hexagonal dots": lambda p, rng: (_lattice(p, hexagonal=True) < 0.28).astype(float),
    "rings": lambda p, rng: (np.abs(_lattice(p) - 0.32) < 0.1).astype(float),
    "scattered dots": lambda p, rng: (_cells(p, rng)[0] < 0.3).astype(float),
    "cell walls": _edges,
    "mosaic": _mosaic,
    "blobs": lambda p, rng: np.sign(_band_noise(p, rng)),
    "grain": lambda p, rng: _band_noise(p, rng, squeeze=3.0),
    "pink noise": lambda p, rng: _power_noise(p, rng, power=1.0),
    "clouds": lambda p, rng: _power_noise(p, rng, power=1.8),
}
_TEXTURE_NAMES = tuple(_TEXTURES)


def _placed(stencil: Image.Image, rng: Generator, *, degrees: float, shift: int) -> Floats:
    """The stencil as a mask in 0 .. 1, turned and moved a little."""
    moved = stencil.rotate(
        rng.uniform(-degrees, degrees),
        Image.Resampling.BILINEAR,
        translate=(int(rng.integers(-shift, shift + 1)), int(rng.integers(-shift, shift + 1))),
    )
    return np.asarray(moved) / 255


def _pictured(mask: Floats, spoiling: Spoiling, rng: Generator) -> Floats:
    """`mask` in a colour of its own, brighter or darker than its textured ground, then spoiled."""
    tint = rng.uniform(*spoiling.contrast) * rng.choice((-1, 1)) + rng.normal(0, 0.06, 3)
    picture = _ground(rng) + mask[..., None] * tint
    for _ in range(rng.integers(spoiling.patches + 1)):
        height, width = rng.integers(14, 40, 2)
        top, left = rng.integers(0, CANVAS - 20, 2)
        patch = np.s_[top : top + height, left : left + width]
        picture[patch] = _ground(rng)[patch]
    return np.asarray(picture + rng.normal(0, rng.uniform(spoiling.noise / 3, spoiling.noise), picture.shape))


def _ground(rng: Generator) -> Floats:
    """A colour that varies slowly, brighter to one side."""
    colour = rng.uniform(0.3, 0.7, 3) * 0.5 + rng.uniform(0.3, 0.7) * 0.5
    side = int(rng.integers(3, 12))
    clouds = Image.fromarray(rng.standard_normal((side, side)).astype(np.float32))
    texture = np.asarray(clouds.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))[..., None]
    return np.asarray(colour + 0.06 * texture + rng.normal(0, 0.02, 3) * texture)


DOMAINS: dict[str, Domain] = {
    "letters": Domain(LETTERS, _letter, Spoiling((0.25, 0.6), patches=2, noise=0.05)),
    "textures": Domain(_TEXTURE_NAMES, _texture, Spoiling((0.15, 0.5), patches=2, noise=0.07)),
    "digits": Domain(tuple("0123456789"), _digit, Spoiling((0.35, 0.7), patches=1, noise=0.04)),
    "shapes": Domain(_SHAPE_NAMES, _shape, Spoiling((0.25, 0.6), patches=2, noise=0.05)),
}

KEPT_BACK: dict[str, Domain] = {
    "greek": Domain(GREEK, _greek, DOMAINS["letters"].spoiling),
    "signs": Domain(tuple(SIGNS), _sign, DOMAINS["letters"].spoiling),
    "curves": Domain(_CURVE_NAMES, _curve, DOMAINS["shapes"].spoiling),
}
ALL = {**DOMAINS, **KEPT_BACK}


def contact_sheet(domain: str, *, columns: int = 10, side: int = 96) -> Image.Image:
    """A row of training pictures and a row of test pictures of the first `columns` classes, then of the next ones."""
    rows = []
    for first in range(0, len(ALL[domain].classes), columns):
        for split in ("train", "test"):
            examples = draw_examples(domain, split, 1, size=side)
            rows.append(np.concatenate(list(examples.images[first : first + columns]), axis=1))
    return Image.fromarray(np.concatenate(rows))
