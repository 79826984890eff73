"""Drawing by hand, as SVG: axes, marks, legends and the frame around them.

No plotting library, so a device can draw, and the pictures follow the reader's light or dark mode: everything has
`currentColor`. Series differ in dashes, markers and hatches; colour only highlights the user's own network. Text stays
text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple

from rrr_edge.report.markup import Markup, element, together

WIDTH = 420
# A plot's sides and its height, and the room for its x axis.
LEFT, RIGHT, TOP, PLOT, BOTTOM = 36, WIDTH - 12, 30, 220, 50
_LEGEND_ROW = 19
_TITLE, _MARGIN = 30, 14

STYLE = """
.plot { color-scheme: light dark; color: #1f2328; font: 12px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif }
.plot text { fill: currentColor }
.plot .soft { fill-opacity: .72 }
.plot .strong { font-weight: 600 }
.plot .own { color: #0b57d0 }
.plot .grid { stroke: currentColor; stroke-opacity: .14 }
.plot .base { stroke: currentColor; stroke-opacity: .6 }
.plot .line { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round }
.plot .own.line, .plot .own .line { stroke-width: 2.4 }
.plot .thin { fill: none; stroke: currentColor; stroke-width: 1.1 }
.plot .faint { fill: none; stroke: currentColor; stroke-opacity: .45 }
.plot .full { fill: currentColor; stroke: currentColor; stroke-width: 1.4 }
.plot .hollow { fill: currentColor; fill-opacity: .12; stroke: currentColor; stroke-width: 1.4 }
@media (prefers-color-scheme: dark) {
  .plot { color: #e6edf3 }
  .plot .own { color: #7cb3ff }
}
"""

# Paths around 0, 0.
SHAPES = {
    "circle": "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z",
    "square": "M-3.3,-3.3h6.6v6.6h-6.6z",
    "triangle": "M0,-4.4L4.2,3.2H-4.2z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "point": "M0,4.4L4.2,-3.2H-4.2z",
    "pillar": "M-1.8,-4.6h3.6v9.2h-3.6z",
}


class Look(NamedTuple):
    """How a series is told from others: by the dashes of its line and the shape of its marks, if it has them."""

    dash: str | None
    shape: str | None
    own: bool = False
    lined: bool = True


LOOKS = (
    Look(None, "triangle"),
    Look("7 3", "square"),
    Look("1.5 3", "circle"),
    Look("9 3 2 3", "diamond"),
    Look("16 3", "point"),
    Look("9 3 2 3 2 3", "pillar"),
)
OWN = Look(None, "diamond", own=True)


@dataclass(frozen=True)
class Axis:
    """From values `low` .. `high` to pixels `start` .. `end`: straight with `step` between ticks, or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    step: float | None = None

    @classmethod
    def straight(cls, values: Iterable[float], start: float, end: float, *, least_step: float = 0) -> "Axis":
        """From tick to tick, with `values` between."""
        values = list(values)
        span, size = max(values) - min(values), max(map(abs, values))
        # Values that are one but for rounding have an axis as long as they are large.
        step = max(_nice_step(span if span > 1e-6 * size else size or 1.0), least_step)
        low = floor(min(values) / step + 1e-9) * step
        return cls(low, max(ceil(max(values) / step - 1e-9) * step, low + step), start, end, step)

    @classmethod
    def decades(cls, values: Iterable[float], start: float, end: float) -> "Axis":
        """Logarithmic, from tick to tick, with the positive `values` between."""
        values = list(values)
        powers = range(floor(log10(min(values))) - 1, ceil(log10(max(values))) + 2)
        steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        low = max(step for step in steps if step <= min(values))
        return cls(low, min(s for s in steps if s >= max(values) and s > low), start, end)

    def __call__(self, value: float) -> float:
        low, high, value = (v if self.step else log10(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    @property
    def ticks(self) -> tuple[float, ...]:
        if self.step:
            return tuple(self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1))
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        digits = (1, 2, 5) if self.high / self.low < 1000 else (1,)
        steps = (digit * 10.0**power for power in powers for digit in digits)
        return tuple(step for step in steps if self.low * 0.999 <= step <= self.high * 1.001)


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten: four to nine of them fill the span."""
    rough = span / 5
    power = 10.0 ** floor(log10(rough))
    return min((digit * power for digit in (1, 2, 5, 10)), key=lambda step: abs(log10(step / rough)))


class Picture(NamedTuple):
    """A drawing `width` x `height` large, the `title` above it, and what it shows `told` for who cannot see it."""

    name: str
    title: str
    told: str
    body: Markup
    height: float
    width: float = WIDTH

    def inline(self, title: str | None = None) -> Markup:
        """The `svg` element for a page that has STYLE, and a heading of its own."""
        return element(
            "svg",
            element("title", title or self.title),
            element("desc", self.told),
            self.body,
            class_="plot",
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
        )

    def alone(self) -> str:
        """A file of its own, with the title in the picture."""
        width, height = self.width + 2 * _MARGIN, self.height + _TITLE + 2 * _MARGIN
        drawing = element(
            "svg",
            element("title", self.title),
            element("desc", self.told),
            element("style", Markup(STYLE)),
            element("text", self.title, class_="strong", x=0, y=8, font_size=14),
            element("g", self.body, transform=f"translate(0,{_TITLE})"),
            xmlns="http://www.w3.org/2000/svg",
            class_="plot",
            role="img",
            width=width,
            height=height,
            viewBox=f"{-_MARGIN} {-_MARGIN} {width:g} {height:g}",
        )
        return f"{drawing}\n"


def beside(pictures: Sequence[Picture], *, name: str, title: str) -> Picture:
    """One picture of several, left to right, each under its own title."""
    panels, x = [], 0.0
    for picture in pictures:
        heading = text(picture.title, 0, 14, look="strong")
        panels.append(
            element(
                "g",
                heading,
                element("g", picture.body, transform="translate(0,22)"),
                transform=f"translate({x:g},0)",
            )
        )
        x += picture.width + 2 * _MARGIN
    told = " ".join(f"{picture.title}: {picture.told}" for picture in pictures)
    return Picture(name, title, told, together(panels), max(p.height for p in pictures) + 22, x - 2 * _MARGIN)


def frame(x: Axis, y: Axis, *, x_label: str, y_label: str) -> Markup:
    """Grid, ticks and labels; the y axis' label lies above it, so that nothing is read sideways."""
    bottom, top = y.start, y.end
    return together(
        (
            *(element("path", class_="grid", d=f"M{x.start:g},{y(tick):.2f}H{x.end:g}") for tick in y.ticks),
            *(text(f"{tick:g}", x.start - 8, y(tick) + 4, look="soft y", anchor="end") for tick in y.ticks),
            axis_below(x, bottom, x_label),
            text(y_label, 0, top - 14, look="soft"),
        )
    )


def row_of(x: Axis, words: str, top: float, height: float, *, own: bool) -> Markup:
    """A row of a chart that has no y axis: what it is, and below that the grid, which leaves the words alone."""
    grid = "".join(f"M{x(tick):.2f},{top + 18:g}v{height:g}" for tick in x.ticks)
    return together((text(words, 0, top + 12, look="strong" if own else None), element("path", class_="grid", d=grid)))


def axis_below(x: Axis, bottom: float, label: str) -> Markup:
    """The line, its ticks, their numbers, and what they are numbers of."""
    marks = "".join(f"M{x(tick):.2f},{bottom:g}v4" for tick in x.ticks)
    parts = [element("path", class_="base", d=f"M{x.start:g},{bottom:g}H{x.end:g}{marks}")]
    parts += [text(f"{tick:g}", x(tick), bottom + 17, look="soft x", anchor="middle") for tick in x.ticks]
    return together((*parts, text(label, (x.start + x.end) / 2, bottom + 34, look="soft", anchor="middle")))


def text(words: str, x: float, y: float, *, look: str | None = None, anchor: str | None = None) -> Markup:
    """`look` is a class of STYLE; `anchor` is middle or end where (x, y) is not where the words begin."""
    return element("text", words, x=x, y=y, class_=look, text_anchor=anchor)


def line(points: Iterable[tuple[float, float]], look: Look) -> Markup:
    path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("path", class_="line own" if look.own else "line", d=f"M{path}", stroke_dasharray=look.dash)


def mark(x: float, y: float, look: Look, *, tip: str) -> Markup:
    """`tip` is shown by browsers where the pointer rests on the mark."""
    return element(
        "path",
        element("title", tip),
        class_="mark full own" if look.own else "mark hollow",
        d=SHAPES[look.shape or "circle"],
        transform=f"translate({x:.2f},{y:.2f})",
    )


def error_bar(x: float, low: float, high: float, look: Look) -> Markup:
    return element(
        "path",
        class_="bar thin own" if look.own else "bar thin",
        d=f"M{x - 3:.2f},{low:.2f}h6M{x:.2f},{low:.2f}V{high:.2f}M{x - 3:.2f},{high:.2f}h6",
    )


def texture(kind: int, x: float, y: float, width: float, height: float) -> Markup:
    """A rectangle in one of seven fillings that differ without colour."""
    opacity, down, across = _TEXTURES[kind % len(_TEXTURES)]
    columns = "".join(f"M{x + 3 + 6 * i:.1f},{y:g}v{height:g}" for i in range(int((width + 2) // 6)) if down)
    rows = "".join(f"M{x:.1f},{y + 3 + 6 * i:g}h{width:.1f}" for i in range(int((height + 2) // 6)) if across)
    box = {"x": x, "y": y, "width": width, "height": height}
    return together(
        (
            element("rect", class_="segment base", fill="currentColor", fill_opacity=opacity, **box),
            *([element("path", class_="base", d=columns + rows)] if columns + rows else []),
        )
    )


# How dark, and whether there are lines down and across.
_TEXTURES = (
    (0.8, False, False),
    (0, True, False),
    (0.35, False, False),
    (0, False, True),
    (0, True, True),
    (0, False, False),
    (0.15, False, True),
)


def legend(entries: Sequence[tuple[Look, str]], top: float, *, left: float = 0) -> Markup:
    """A row for each entry; `legend_height` says how much room they take."""
    rows = []
    for index, (look, words) in enumerate(entries):
        y = top + _LEGEND_ROW * index + 8
        rows += [
            *([line(((left, y), (left + 30, y)), look)] if look.lined else []),
            *([mark(left + 15, y, look, tip=words)] if look.shape else []),
            text(shorten(words), left + 40, y + 4, look="strong" if look.own else None),
        ]
    return together(rows)


def legend_height(entries: Sequence[object]) -> float:
    return _LEGEND_ROW * len(entries) + 6


def shorten(words: str, most: int = 50) -> str:
    """For names that their givers made longer than a picture is wide."""
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"
