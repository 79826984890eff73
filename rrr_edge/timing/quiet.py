"""Quiet rounds told from those that other programs disturb, and the wait for a quiet machine."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from rrr_edge.errors import UsageError
from rrr_edge.timing import machine
from rrr_edge.timing.progress import OnProgress, Step, silent

# The load of a quiet round at most: a tenth of a core where there are two; an idle system was seen to take 0.02.
QUIET_LOAD = 0.05
# Fewer quiet rounds tell too little, unless there are no others: intervals of so many were seen to hold the ratio in
# 97% where rounds were independent, and in 94% where each was like the one before (correlation 0.6).
ENOUGH_ROUNDS = 50
# Where none of so many rounds was quiet, more of them would not be either.
HOPELESS_ROUNDS = 40

Loads = tuple[float | None, ...]


@dataclass
class Patience:
    """How many seconds all measurements together may still wait for other programs to end."""

    left_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of_minutes(cls, minutes: float) -> Self:
        """Raises UsageError for what is no number of minutes."""
        if not 0 <= minutes < math.inf:
            raise UsageError(f"--patience is a number of minutes such as 10, not {minutes:g}.")
        return cls(60 * minutes)

    def wait(self, on_progress: OnProgress = silent) -> bool:
        """Sleep until the machine is quiet, or nothing is left; whether it is quiet."""
        total = round(self.left_s)
        while self.left_s > 0:
            began, load = self.clock(), machine.BackgroundLoad()
            self.sleep(machine.TELLING_S)
            share = load.share
            self.left_s = max(0.0, self.left_s - max(self.clock() - began, machine.TELLING_S))
            if is_quiet(load_of(share)):
                return True
            done = total - round(self.left_s)
            on_progress(Step("wait", done, total, f"others take {share:.0%} of the cores' time; seconds at most"))
        return False


class RoundLoads:
    """The load by other programs in each round, told for all rounds of a second or more at once."""

    def __init__(self) -> None:
        self._told: list[float] = []
        self._loads: list[float | None] = []
        self._pending = 0
        self._load = machine.BackgroundLoad()

    def end_round(self) -> float | None:
        """Count a round. The load of the stretch that ends with it, or None where it goes on."""
        self._pending += 1
        share = self._load.share
        load = load_of(share)
        if share is not None:
            self._told += [share] * self._pending
            self._loads += [load] * self._pending
            self.skip()
        return load

    def skip(self) -> None:
        """What happened since the last stretch belongs to no round."""
        self._pending = 0
        self._load = machine.BackgroundLoad()

    @property
    def is_known(self) -> bool:
        """Whether the system tells what others take."""
        return self._load.is_known

    @property
    def share(self) -> float | None:
        """Of the cores' time: the mean of all rounds that were told, if any were."""
        return statistics.fmean(self._told) if self._told else None

    @property
    def quiet(self) -> int:
        """How many rounds count as quiet; those of which nothing is known do."""
        return sum(map(is_quiet, self.told))

    @property
    def told(self) -> Loads:
        """Of all rounds; None: nothing is known. The last, of less than a second, have the load of those before."""
        return (*self._loads, *((self._loads[-1:] or [None]) * self._pending))


def load_of(share: float | None) -> float | None:
    """Other programs' share of the cores' time, as one of two cores' where there are more.

    A program that keeps a core busy is one that runs may have to wait for, however many others there are.
    """
    return None if share is None else share * max(1.0, machine.allowed_cores() / 2)


def is_quiet(load: float | None) -> bool:
    return load is None or load <= QUIET_LOAD


def quiet_rounds(loads: Loads, rounds: int) -> list[int]:
    """Those of so many rounds that can be judged: the quiet ones where there are enough of them, else none."""
    quiet = [round_ for round_ in range(rounds) if not loads or is_quiet(loads[round_])]
    return quiet if len(quiet) >= min(ENOUGH_ROUNDS, rounds) else []
