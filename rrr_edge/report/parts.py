"""Figures of the time by part of the network, and of the arithmetic against the machine's ceiling."""

from collections.abc import Mapping
from itertools import accumulate
from math import ceil

from rrr_edge.bundle.measurements import WHOLE
from rrr_edge.bundle.profile import PARTS, PHOTO, Profile, part_name
from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import RIGHT, Axis, Picture, axis_below, row_of, text, texture
from rrr_edge.report.words import milliseconds, three_digits, title_of

_BAR = 30
_COLUMNS = 2
_RATE = 44


def draw_parts(profile: Profile) -> Picture:
    """From photo to answer, and below it the engine's own share, by part of the network."""
    photo = {part: profile.measurement(part_name(part)).summary.median_ms for part in PARTS}
    stacks = {f"From photo to answer: {milliseconds(profile.measurement(PHOTO).summary.median_ms)}": photo}
    if inside := {part.part: part.ms for part in profile.parts if part.ms > 0 and part.part != WHOLE}:
        stacks[f"One run of the engine: {milliseconds(profile.engine.summary.median_ms)}"] = inside
    drawn, top = [], 0.0
    for title, times in stacks.items():
        drawn.append(_stack(title, times, top))
        top += _BAR + 60 + 20 * ceil(len(times) / _COLUMNS)
    told = " ".join(f"{title}, {_said(times)}." for title, times in stacks.items())
    return Picture("parts", f"Where the time goes, {title_of(profile)}", told, together(drawn), top - 24)


def _stack(title: str, times: Mapping[str, float], top: float) -> Markup:
    """A bar whose segments are as long as their times, and under it what each is."""
    axis = Axis(0, sum(times.values()), 0, RIGHT, 1)
    edges = [axis(time) for time in accumulate(times.values(), initial=0)]
    drawn = [text(title, 0, top + 12, look="strong")]
    for index, (name, time) in enumerate(times.items()):
        drawn.append(texture(index, edges[index], top + 24, edges[index + 1] - edges[index], _BAR))
        x, y = 210 * (index % _COLUMNS), top + _BAR + 46 + 20 * (index // _COLUMNS)
        drawn.append(texture(index, x, y - 10, 18, 11))
        share = time / axis.high if axis.high else 0
        drawn.append(text(f"{name} {milliseconds(time)}, {share:.0%}", x + 25, y))
    return together(drawn)


def _said(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {milliseconds(time)}" for name, time in times.items())


def draw_roofline(profile: Profile) -> Picture | None:
    """Multiply-accumulates a second over the most that the machine reaches: of the engine, and of each of its parts."""
    ceiling = profile.ceiling
    rates = {p.part: p.macs / p.ms / 1e6 for p in sorted(profile.parts, key=lambda p: p.part != WHOLE) if p.share}
    if ceiling is None or not rates:
        return None
    shares = {name: 100 * rate / ceiling.gmacs_per_s for name, rate in rates.items()}
    interval = [100 * edge / ceiling.gmacs_per_s for edge in ceiling.interval]
    x = Axis.straight((0, 100, *shares.values(), *interval), 2, RIGHT)
    edges = [x(edge) for edge in interval]
    drawn = []
    for index, (name, share) in enumerate(shares.items()):
        top, bar = _RATE * index, "rate hollow" if index else "rate full own"
        words = f"{name}: {three_digits(rates[name])} GMAC/s, {_said_of(share)} of the ceiling"
        band = {"x": edges[0], "y": top + 18, "width": edges[1] - edges[0], "height": 20}
        drawn += [
            row_of(x, words, top, 20, own=not index),
            element("rect", class_=bar, x=x.start, y=top + 22, width=x(share) - x.start, height=12),
            element("rect", class_="interval", fill="currentColor", fill_opacity=0.25, **band),
            element("path", class_="ceiling line", d=f"M{x(100):.2f},{top + 18}v20"),
        ]
    bottom = _RATE * len(shares) + 2
    label = f"% of the {three_digits(ceiling.gmacs_per_s)} GMAC/s that this machine reaches in {ceiling.precision}"
    drawn.append(axis_below(x, bottom, label))
    told = ", ".join(f"{name} {_said_of(share)}" for name, share in shares.items())
    return Picture(
        "roofline",
        f"Arithmetic against the ceiling, {title_of(profile)}",
        f"{label}: {told}.",
        together(drawn),
        bottom + 42,
    )


def _said_of(share: float) -> str:
    """A share in per cent; the most that was found is too low where there would be more than that."""
    return f"{share:.0f}%" if share <= 100 else "more than 100%"
