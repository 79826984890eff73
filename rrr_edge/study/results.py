"""The results of a study: errors, times and costs of its methods, by data set and over all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import exp, log
from statistics import fmean
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.measurements import ratio
from rrr_edge.bundle.verification import may_guess
from rrr_edge.errors import BadInput
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Plan
from rrr_edge.study.records import CellRecord, Failure, Timing
from rrr_edge.study.statistics import Estimate, estimate, holm, wilcoxon_less
from rrr_edge.timing.statistics import Interval, wilson_interval

Floats = NDArray[np.float64]
# Errors are counts over counts: what is equal must not differ by a rounding.
_DIGITS = 9


class Pair(NamedTuple):
    """The claim that `better` errs less than `worse`, over the data sets that all methods have.

    `difference` is of the errors, data set by data set; `p` is Wilcoxon's, one-tailed and exact, and `corrected` is
    that by Holm over all pairs.
    """

    better: str
    worse: str
    difference: Estimate
    wins: int
    ties: int
    p: float
    corrected: float


@dataclass(frozen=True)
class Results:
    """The finished cells of a plan, and the times of their engines. Errors and shares go from 0 to 1.

    Where there are engines, a method is judged by their errors, as by their times; else by its networks'.
    """

    plan: Plan
    records: tuple[CellRecord, ...]
    timings: tuple[Timing, ...]
    failures: tuple[Failure, ...]

    @classmethod
    def read(cls, study: StudyFolder) -> Self:
        """Raises BadInput (no study, nothing finished) and CorruptArtifact."""
        plan = study.plan()
        wanted = {cell.words: cell for cell in plan.cells}
        records = tuple(r for r in study.records() if (c := wanted.get(r.cell.words)) and r.cell.makes_same_network(c))
        if not any(record.cell.purpose == "test" for record in records):
            raise BadInput(f"No cell of {study.path} is finished.", advice="Run the study first, without --report.")
        cards = {record.engine.card_sha256 for record in records if record.engine}
        known = ((t, tuple(e for e in t.engines if e.card_sha256 in cards)) for t in study.timings())
        timings = tuple(timing.model_copy(update={"engines": engines}) for timing, engines in known if engines)
        return cls(plan, records, timings, tuple(study.failures()))

    @cached_property
    def tested(self) -> tuple[CellRecord, ...]:
        return tuple(record for record in self.records if record.cell.purpose == "test")

    @cached_property
    def of_engines(self) -> bool:
        """Whether errors are those of engines on the bundles' test photos, not of networks on all test photos."""
        return any(record.engine for record in self.tested)

    def error_of(self, record: CellRecord) -> float:
        return 1 - record.engine.accuracy if self.of_engines and record.engine else record.error

    def photos_of(self, record: CellRecord) -> int:
        """The test photos that `error_of` is about."""
        return record.engine.images if self.of_engines and record.engine else record.accuracy.images

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[CellRecord]]:
        cells = defaultdict(list)
        for record in sorted(self.tested, key=lambda record: record.cell.seed):
            if record.engine or not self.of_engines:
                cells[record.cell.method, record.cell.data.name].append(record)
        return cells

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Those with a finished cell and, where there are engines, with one of its own, in the plan's order."""
        there = {method for method, _ in self._cells}
        return tuple(method.name for method in self.plan.methods if method.name in there)

    @cached_property
    def data(self) -> tuple[str, ...]:
        there = {data for _, data in self._cells}
        return tuple(data.name for data in self.plan.data if data.name in there)

    def cells(self, method: str, data: str | None = None) -> list[CellRecord]:
        """Of a data set or of all, by seed."""
        return [record for each in ([data] if data else self.data) for record in self._cells.get((method, each), [])]

    def guesses(self, method: str, data: str) -> bool:
        """Whether `method` may be no better than guessing at random there, as far as its photos tell."""
        records = self.cells(method, data)
        return bool(records) and may_guess(1 - self._of_photos(method, data)[1], records[0].classes)

    def _of_photos(self, method: str, data: str) -> Interval:
        """Wilson's interval of the error at 95%: of the mean over seeds, on the photos of one."""
        photos = min(map(self.photos_of, self.cells(method, data)))
        return wilson_interval(round(fmean(self.seed_errors(method, data)) * photos), photos)

    def interval_of(self, method: str, data: str) -> Interval:
        """That of the error on one data set at 95%: as far as Wilson's over photos or Student's over seeds reaches."""
        seeds = _error(self.seed_errors(method, data)).interval
        lows, highs = zip(self._of_photos(method, data), *([seeds] if seeds else []), strict=True)
        return min(lows), max(highs)

    def seed_errors(self, method: str, data: str) -> list[float]:
        return [self.error_of(record) for record in self.cells(method, data)]

    def error(self, method: str, data: str) -> Estimate | None:
        """The mean over seeds."""
        found = self.seed_errors(method, data)
        return _error(found) if found else None

    @cached_property
    def common(self) -> tuple[str, ...]:
        """The data sets that every method has."""
        return tuple(d for d in self.data if all((m, d) in self._cells for m in self.methods))

    def lacks(self, method: str) -> tuple[str, ...]:
        """The data sets that another method has and this one lacks."""
        return tuple(d for d in self.data if (method, d) not in self._cells)

    @cached_property
    def fewer_seeds(self) -> dict[str, tuple[str, ...]]:
        """By method the common data sets where it lacks a seed that another method has there."""
        seeds = {key: {record.cell.seed for record in records} for key, records in self._cells.items()}
        every = {d: set[int]().union(*(seeds[m, d] for m in self.methods)) for d in self.common}
        found = {m: tuple(d for d in self.common if seeds[m, d] < every[d]) for m in self.methods}
        return {m: data for m, data in found.items() if data}

    def errors(self, method: str) -> Floats:
        """Mean errors of the common data sets."""
        return np.array([fmean(self.seed_errors(method, d)) for d in self.common])

    def overall(self, method: str) -> Estimate | None:
        """The mean error over the common data sets, with Student's interval; None where none is common.

        Of a single one that is the mean over seeds, with the interval of `interval_of`.
        """
        if len(self.common) == 1:
            (data,) = self.common
            return _error(self.seed_errors(method, data))._replace(interval=self.interval_of(method, data))
        return _error(self.errors(method)) if self.common else None

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every ordered pair of methods, the surest claims first; none with fewer than two common data sets.

        Both directions of a pair are claims, and Holm's correction counts them all.
        """
        found = []
        for better, worse in permutations(self.methods, 2) if len(self.common) > 1 else ():
            differences = np.round(self.errors(better) - self.errors(worse), _DIGITS)
            wins, ties = int((differences < 0).sum()), int((differences == 0).sum())
            found.append(Pair(better, worse, _of_shares(differences), wins, ties, wilcoxon_less(differences), 1.0))
        corrected = holm([pair.p for pair in found])
        paired = [pair._replace(corrected=p) for pair, p in zip(found, corrected, strict=True)]
        return tuple(sorted(paired, key=lambda pair: pair.p))

    @cached_property
    def timed(self) -> tuple[str, ...]:
        """The methods that were timed, fastest first."""
        there = [m for m in self.methods if self.groups(m)]
        return tuple(sorted(there, key=lambda method: self.latency_ms(method).mean))

    def groups(self, *methods: str) -> list[Timing]:
        """The groups in which all of `methods` were timed."""
        return [timing for timing in self.timings if timing.measurements.keys() >= set(methods)]

    def latency_ms(self, method: str) -> Estimate:
        """The geometric mean over the method's groups of the median of one image, with its t-interval.

        Of a single group it is that median, with its own interval by the bootstrap.
        """
        groups = self.groups(method)
        if len(groups) == 1:
            found = groups[0].measurements[method].summary
            return Estimate(found.median_ms, found.median_interval_ms, 1)
        return _geometric([timing.median_ms(method) for timing in groups])

    def times_faster(self, method: str, other: str) -> Estimate | None:
        """How many times as long `other` takes: over groups the geometric mean of their ratios, with its t-interval.

        In one group both ran in turns, so what slowed both cancels; a single group's interval is the bootstrap's. Only
        groups that have both and enough quiet rounds count; None where there is none.
        """
        quiet = [t for t in self.groups(method, other) if t.measurements[method].is_quiet]  # rounds are the group's
        if len(quiet) == 1:
            found = ratio(quiet[0].measurements[other], quiet[0].measurements[method])
            return Estimate(found.value, found.interval, 1)
        return _geometric([t.median_ms(other) / t.median_ms(method) for t in quiet]) if quiet else None

    @cached_property
    def times_faster_than_best(self) -> dict[str, Estimate]:
        """By method, where a group tells."""
        found = {m: self.times_faster(m, self.best) for m in self.methods if m != self.best} if self.best else {}
        return {m: times for m, times in found.items() if times}

    def cost(self, method: str, what: str) -> float:
        """The mean over cells of a cost's `params`, `macs` or `weights_bytes`."""
        return fmean(getattr(record.cost, what) for record in self.cells(method))

    def core_hours(self, method: str) -> float:
        """The mean over cells of what the training of a network takes."""
        return fmean(record.core_hours for record in self.cells(method))

    @property
    def is_paper(self) -> bool:
        """Whether the data are Meta-Album's."""
        return all(data.is_album for data in self.plan.data)

    def mean_error(self, method: str) -> float:
        """Over the common data sets, of which there must be one, without the last digits, for equal ones to be so."""
        return round(float(self.errors(method).mean()), _DIGITS)

    @cached_property
    def best(self) -> str | None:
        """The method with the least mean error, of equal ones the fastest; None where no data set is common."""
        if not self.common:
            return None
        return min(self.methods, key=lambda m: (self.mean_error(m), m not in self.timed, self._slowness(m)))

    @cached_property
    def pareto(self) -> tuple[str, ...]:
        """The methods that no other beats in error and speed (where nothing was timed: MACs), most accurate first.

        Of two that were never timed together neither beats the other.
        """
        known = (self.timed or self.methods) if self.common else ()
        front = [m for m in known if not any(self._beats(other, m) for other in known)]
        return tuple(sorted(front, key=lambda m: (self.mean_error(m), self._slowness(m))))

    def _slowness(self, method: str) -> float:
        """Milliseconds where the method was timed, else MACs."""
        return self.latency_ms(method).mean if method in self.timed else self.cost(method, "macs")

    def _beats(self, one: str, other: str) -> bool:
        """Whether `one` is worse in neither error nor speed, and better in either."""
        worse = self.mean_error(one) - self.mean_error(other)
        if self.timed:
            pairs = [(timing.median_ms(one), timing.median_ms(other)) for timing in self.groups(one, other)]
            slower = _geometric([a / b for a, b in pairs]).mean - 1 if pairs else 1.0
        else:
            slower = self.cost(one, "macs") - self.cost(other, "macs")
        return worse <= 0 and slower <= 0 and (worse < 0 or slower < 0)


def _of_shares(values: Sequence[float] | Floats) -> Estimate:
    """Their mean with Student's interval; none where all are equal, for it would have no width and seem certain."""
    found = estimate(values)
    return found._replace(interval=None) if np.ptp(np.round(values, _DIGITS)) == 0 else found


def _error(errors: Sequence[float] | Floats) -> Estimate:
    """Their mean, its interval cut off where no error can be."""
    mean, interval, n = _of_shares(errors)
    return Estimate(mean, (max(0.0, interval[0]), min(1.0, interval[1])) if interval else None, n)


def _geometric(values: Sequence[float]) -> Estimate:
    mean, interval, n = estimate([log(value) for value in values])
    return Estimate(exp(mean), (exp(interval[0]), exp(interval[1])) if interval else None, n)
