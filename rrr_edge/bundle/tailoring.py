"""Rows of a search for the blocks that a task does without."""

from typing import NamedTuple


class TailoringRow(NamedTuple):
    """A line of tailoring.csv: the network without its weakest proxies and `dropped` blocks.

    `accuracy` is on the photos that decide, `least` what is allowed, `within` whether it is reached.
    """

    dropped: int
    blocks: int
    proxies: int
    params: int
    macs: int
    accuracy: float
    least: float
    within: bool
    seconds: float
