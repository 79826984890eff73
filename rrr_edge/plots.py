"""The picture of a profile: every sample of every candidate on one logarithmic axis, as SVG.

Written by hand, so that a device without a plotting library can draw it. The text stays text, the background is
transparent, the colours follow the reader's light or dark mode, and the engine is told apart by filling, not by colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

import numpy as np

from rrr_edge.measurement import Measurement

_ROW, _TOP, _BOTTOM, _AXIS = 40, 52, 44, 420
_CHARACTER = 7.3  # the width reserved for one at 13 px
_STYLE = """
.latency text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328 }
.latency .title { font-size: 15px; font-weight: 600 }
.latency .small { font-size: 11.5px; fill: #59636e }
.latency .strong { font-weight: 700 }
.latency .grid { stroke: #59636e; stroke-opacity: .25 }
.latency .samples { stroke: #59636e; stroke-opacity: .45; fill: none }
.latency .box { fill: none; stroke: #1f2328; stroke-width: 1.3 }
.latency .engine { fill: #1f2328; fill-opacity: .55 }
.latency .median { stroke: #1f2328; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  .latency text { fill: #e6edf3 }
  .latency .small { fill: #9da7b1 }
  .latency .grid, .latency .samples { stroke: #9da7b1 }
  .latency .box, .latency .median { stroke: #e6edf3 }
  .latency .engine { fill: #e6edf3 }
}
"""


def draw_latency(
    measurements: Sequence[Measurement], *, title: str, engine: str, remarks: Mapping[str, str] | None = None
) -> str:
    """One row for each of `measurements`: its samples as ticks, their quartiles as a box, the median as a bar.

    The measurement named `engine` has a filled box; `remarks` are said behind the medians.
    """
    remarks = remarks or {}
    words = {m.name: f"{_milliseconds(m.summary.median_ms)} {remarks.get(m.name, '')}".rstrip() for m in measurements}
    axis = _Axis(measurements, left=24 + _CHARACTER * max(len(m.name) for m in measurements))
    width = round(axis.right + 24 + _CHARACTER * max(map(len, words.values())))
    height = _TOP + _ROW * len(measurements) + _BOTTOM
    rows = [
        _row(m, axis, _TOP + _ROW * index, words[m.name], filled=m.name == engine)
        for index, m in enumerate(measurements)
    ]
    told = "; ".join(f"{m.name}: median {words[m.name]}" for m in measurements)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'class="latency" role="img">',
            f"<title>{escape(title)}</title>",
            f"<desc>Latency of one image on a logarithmic axis. {escape(told)}.</desc>",
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="12" y="26">{escape(title)}</text>',
            *axis.lines(_TOP - 4, height - _BOTTOM + 4),
            *rows,
            f'<text class="small" x="{axis.left:.0f}" y="{height - 8}">ms for one image, logarithmic; '
            "tick: one run, box: the middle half, bar: the median</text>",
            "</svg>",
            "",
        )
    )


class _Axis:
    """From milliseconds to the picture's x, logarithmically, over all samples and the ticks 1, 2 and 5 around them."""

    def __init__(self, measurements: Iterable[Measurement], left: float) -> None:
        everything = np.concatenate([m.samples_ms for m in measurements])
        low, high = float(everything.min()), float(everything.max())
        decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
        steps = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        first = max(step for step in steps if step <= low)
        last = min((step for step in steps if step >= high), default=10.0 * steps[-1])
        self.ticks = [step for step in steps if first <= step <= last]
        self.left, self.right = left, left + _AXIS
        self._low, self._decades = log10(first), log10(last / first) or 1.0

    def x(self, ms: float) -> float:
        return self.left + _AXIS * (log10(ms) - self._low) / self._decades

    def lines(self, top: float, bottom: float) -> Iterable[str]:
        every = 1 if len(self.ticks) <= 10 else 3
        for index, tick in enumerate(self.ticks):
            x = f"{self.x(tick):.1f}"
            yield f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
            if index % every == 0:
                yield f'<text class="small" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'


def _row(measurement: Measurement, axis: _Axis, top: float, words: str, *, filled: bool) -> str:
    middle = top + _ROW / 2
    q1, median, q3 = (axis.x(float(q)) for q in np.quantile(measurement.samples_ms, [0.25, 0.5, 0.75]))
    places = sorted({round(2 * axis.x(ms)) / 2 for ms in measurement.samples_ms})
    ticks = "".join(f"M{place:g},{middle - 6:g}v12" for place in places)
    strong = ' class="strong"' if filled else ""
    return "\n".join(
        (
            f'<text x="{axis.left - 12:.0f}" y="{middle + 4.5:g}" text-anchor="end"{strong}>'
            f"{escape(measurement.name)}</text>",
            f'<path class="samples" d="{ticks}"/>',
            f'<rect class="box{" engine" if filled else ""}" x="{q1:.1f}" y="{middle - 10:g}" '
            f'width="{max(q3 - q1, 1.5):.1f}" height="20"/>',
            f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 13:g}" y2="{middle + 13:g}"/>',
            f'<text x="{axis.right + 12:.0f}" y="{middle + 4.5:g}"{strong}>{escape(words)}</text>',
        )
    )


def _milliseconds(ms: float) -> str:
    return f"{ms:.3g} ms" if ms < 100 else f"{ms:.0f} ms"
