"""How long work tells what it is doing, without knowing who listens."""

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """`done` of `total` units of `stage` are finished; `note` is what there is to say (an accuracy, a file)."""

    stage: str
    done: int
    total: int
    note: str = ""


Report = Callable[[Step], None]


def silent(step: Step) -> None:
    """The listener that ignores everything."""
