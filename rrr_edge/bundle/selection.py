"""Rows and decisions of a block selection."""

from typing import Literal, NamedTuple

Decision = Literal["start", "append", "stop", "look"]


class Row(NamedTuple):
    """A line of selection.csv.

    `accuracy` is on the validation photos after `epochs` in all, `gain` is (Acc - Old) / Acc over the network that was
    the best to build on. "append" is a gain of at least `epsilon`, "stop" the first that is less, "look" what comes
    after it. `control` is the smallest network's accuracy after as many epochs.
    """

    step: int
    block: str
    depths: str
    accuracy: float
    gain: float | None
    epsilon: float
    decision: Decision
    epochs: int
    seconds: float
    control: float | None = None
