"""Pictures read back: what a reader of the axes would find."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SPACE}svg"
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SPACE}text")]


def with_class(root: ElementTree.Element, name: str, tag: str = "*") -> list[ElementTree.Element]:
    return [e for e in root.iter(f"{SPACE}{tag}" if tag != "*" else None) if name in e.get("class", "").split()]


def numbers(words: str | None) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", words or "")]


def scale(root: ElementTree.Element, axis: str, *, logarithmic: bool = False) -> Callable[[float], float]:
    """From a value to a pixel by the numbers at the ticks alone, which must lie on one line."""
    ticks = with_class(root, axis, "text")
    assert len(ticks) > 2
    values = np.array([float(tick.text or "") for tick in ticks])
    values = np.log10(values) if logarithmic else values
    pixels = np.array([float(tick.get(axis, "")) for tick in ticks]) - (4 if axis == "y" else 0)
    slope, offset = np.polyfit(values, pixels, 1)
    np.testing.assert_allclose(values * slope + offset, pixels, atol=0.02)
    return lambda value: float((np.log10(value) if logarithmic else value) * slope + offset)


def marks(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    """The tip, x and y of every mark; those of legends have tips that are words only."""
    return [
        (mark.findtext(f"{SPACE}title") or "", *numbers(mark.get("transform")))  # type: ignore[misc]
        for mark in with_class(root, "mark", "path")
    ]
