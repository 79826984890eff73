"""The names that figures, tables and sentences give to things."""

from collections.abc import Iterable

from rrr_edge.bundle.profile import Profile
from rrr_edge.timing.statistics import Interval


def milliseconds(ms: float) -> str:
    return f"{three_digits(ms)} ms"


def three_digits(value: float) -> str:
    """Three of them, or three decimals, where so many say anything."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"


def count(value: float) -> str:
    """Parameters and MACs, three digits of them."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def title_of(profile: Profile) -> str:
    return f"{profile.bundle}, {profile.target.name} {profile.target.precision}"


def interval_of(interval: Interval) -> str:
    return f"{three_digits(interval[0])} to {three_digits(interval[1])}"


def are_figures(words: Iterable[str]) -> bool:
    """Whether all that is there are numbers, as far as a column's alignment goes."""
    return all(word.lstrip("~-+")[:1].isdigit() for word in words if word)
