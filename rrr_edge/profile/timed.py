"""A session whose runs are clocked."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from rrr_edge.backends import Session
from rrr_edge.bundle.reference import Images, Outputs

S = TypeVar("S", bound=Session)


class TimedSession(Generic[S]):
    """A session that notes when its last run began and ended, in ns, and the mean of all its runs.

    With `images` of its own it takes those, whatever it is given.
    """

    def __init__(self, session: S, clock: Callable[[], int] | None = None, *, images: Images | None = None) -> None:
        self.session = session
        self.started = self.ended = 0
        self._clock, self._images = clock or time.perf_counter_ns, images
        self._runs = self._spent_ns = 0

    @property
    def mean_ms(self) -> float:
        """Over all runs so far, of which there must be one."""
        return self._spent_ns / self._runs / 1e6

    def run(self, images: Images) -> Outputs:
        self.started = self._clock()
        outputs = self.session.run(images if self._images is None else self._images)
        self.ended = self._clock()
        self._spent_ns += self.ended - self.started
        self._runs += 1
        return outputs

    def precision_found(self) -> dict[str, float]:
        return self.session.precision_found()

    def close(self) -> None:
        self.session.close()
