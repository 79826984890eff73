from math import log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrr_edge.report.plots import OWN, Axis, Picture, beside, mark, shorten

POSITIVE = st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=5)


@given(POSITIVE)
def test_a_straight_axis_holds_its_values_between_ticks_at_its_ends(values: list[float]) -> None:
    axis = Axis.straight(values, 300, 20)
    ticks = axis.ticks
    assert axis.low <= min(values) + 1e-9 * abs(min(values))
    assert max(values) <= axis.high * (1 + 1e-9)
    assert ticks[0] == axis.low
    assert ticks[-1] == pytest.approx(axis.high)
    assert 2 <= len(ticks) <= 12
    assert axis(axis.low) == 300
    assert axis(axis.high) == pytest.approx(20)
    middle = (axis.low + axis.high) / 2
    assert axis(middle) == pytest.approx(160)


@given(POSITIVE)
def test_a_logarithmic_axis_holds_its_values_and_spaces_decades_evenly(values: list[float]) -> None:
    axis = Axis.decades(values, 10, 410)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis(axis.low) == pytest.approx(10)
    assert axis(axis.high) == pytest.approx(410)
    assert axis((axis.low * axis.high) ** 0.5) == pytest.approx(210)
    for tick in axis.ticks:
        assert round(tick / 10.0 ** int(f"{tick:e}".partition("e")[2]), 6) in (1, 2, 5)
    expected = 10 + 400 * (log10(values[0]) - log10(axis.low)) / (log10(axis.high) - log10(axis.low))
    assert axis(values[0]) == pytest.approx(expected)


def test_panels_stand_beside_each_other_and_are_told_together() -> None:
    panels = [Picture("p", f"panel {i}", f"shows {i}.", mark(0, 0, OWN, tip="here"), 100 + i, 200) for i in range(3)]
    both = beside(panels, name="all", title="All of them")
    assert both.told == "panel 0: shows 0. panel 1: shows 1. panel 2: shows 2."
    assert both.width >= 600
    assert both.height >= 102
    assert both.body.count("here") == 3


def test_names_too_long_are_cut_and_say_so() -> None:
    assert shorten("a" * 50) == "a" * 50
    assert shorten("b" * 51) == "b" * 49 + "…"
