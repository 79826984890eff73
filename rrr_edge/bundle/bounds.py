"""Bounds of the ratio of two times where too few rounds were quiet, and whom the rounds flatter."""

import math
from typing import Self

import numpy as np
from pydantic import model_validator

from rrr_edge.bundle.measurements import UNSTABLE_SPREAD, Measurement
from rrr_edge.bundle.record import Record

# Beside other programs caches are cold: a run's own time on the cores was seen to grow by up to 27% where no core
# computes for two programs at once.
_WARM = 0.75
# So much less of the cores than the other one had says that a candidate was held up more.
_HELD_UP = 0.8


class Bound(Record):
    """How many times as long `of` takes as `to` on a quiet machine, `at_least` and `at_most`; None: not known.

    A run took at most what it took beside other programs, and at least its own time on the cores, shared out among its
    threads and less what cold caches cost. Where that time varies its threads spin while they wait, and it says
    nothing; nor does it where cores are shared with what else runs on them (SMT), or where it would contradict what
    runs took. `disturbed` is the ratio of the medians of all rounds, which may be far off, and `by_cpu` that of their
    own times on the cores. `favours` is the candidate that `disturbed` flatters, as the other one had less of the
    cores.
    """

    of: str
    to: str
    at_least: float | None
    at_most: float | None
    disturbed: float
    by_cpu: float | None
    favours: str

    @model_validator(mode="after")
    def _is_no_contradiction(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"{self.of!r} cannot take {self.at_least:g} times at least and {self.at_most:g} at most")
        return self

    @classmethod
    def between(cls, a: Measurement, b: Measurement, *, shared_cores: bool) -> Self:
        """Of two measurements whose rounds were interleaved, on cores that are `shared_cores` by SMT or not."""
        longest_a, longest_b = (float(np.median(m.samples_ms)) for m in (a, b))
        shortest_a, shortest_b = (None, None) if shared_cores else map(_shortest_ms, (a, b))
        if shortest_a and shortest_b and shortest_a * shortest_b > longest_a * longest_b:
            shortest_a = shortest_b = None
        return cls(
            of=a.name,
            to=b.name,
            at_least=shortest_a / longest_b if shortest_a else None,
            at_most=longest_a / shortest_b if shortest_b else None,
            disturbed=longest_a / longest_b,
            by_cpu=float(np.median(a.cpu_ms) / np.median(b.cpu_ms)) if a.cpu_ms and any(b.cpu_ms) else None,
            favours=_flattered(a, b),
        )

    def agrees_with(self, other: Self) -> bool:
        """Whether both say the same, but for rounding."""
        names = ("at_least", "at_most", "disturbed", "by_cpu")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return self.favours == other.favours and all(
            a == b or (a and b and math.isclose(a, b, rel_tol=1e-6)) for a, b in pairs
        )

    @property
    def words(self) -> str:
        """Such as "between 9.1 and 99 times"; empty where nothing is known."""
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least:.3g} and {self.at_most:.3g} times"
        if self.at_least is not None:
            return f"at least {self.at_least:.3g} times"
        return f"at most {self.at_most:.3g} times" if self.at_most is not None else ""

    @property
    def bias(self) -> str:
        """Whom the disturbed rounds flatter, in words."""
        said = f"the disturbed rounds' {self.disturbed:.3g}"
        return f"{said} flatters {self.favours}" if self.favours else f"{said} may be off in either direction"


def _shortest_ms(m: Measurement) -> float | None:
    """A run took no less on a quiet machine, as far as its own time on the cores tells."""
    if not m.cpu_ms:
        return None
    q1, median, q3 = np.quantile(m.cpu_ms, [0.25, 0.5, 0.75])
    return _WARM * float(q1) / m.subject.threads if q1 > 0 and q3 - q1 <= UNSTABLE_SPREAD * median else None


def _flattered(a: Measurement, b: Measurement) -> str:
    if not (a.cpu_ms and b.cpu_ms):
        return ""
    of_a, of_b = (float(np.median(m.cpu_ms) / np.median(m.samples_ms)) for m in (a, b))
    return b.name if of_a < _HELD_UP * of_b else a.name if of_b < _HELD_UP * of_a else ""
