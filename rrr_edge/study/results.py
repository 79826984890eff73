"""The results of a study: errors, times and costs of its methods, by data set and over all of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import exp, log
from statistics import fmean
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.measurements import ratio
from rrr_edge.errors import BadInput
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Plan
from rrr_edge.study.records import CellRecord, Failure, Timing
from rrr_edge.study.statistics import Estimate, estimate, holm, wilcoxon_less
from rrr_edge.timing.statistics import Interval

Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """The claim that `better` errs less than `worse`, over the data sets that both have.

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
    """The finished cells of a plan, and the times of their engines. Errors and shares go from 0 to 1."""

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
        timings = tuple(t for t in study.timings() if all(engine.card_sha256 in cards for engine in t.engines))
        return cls(plan, records, timings, tuple(study.failures()))

    @cached_property
    def tested(self) -> tuple[CellRecord, ...]:
        return tuple(record for record in self.records if record.cell.purpose == "test")

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Those with a finished cell, in the plan's order."""
        there = {record.cell.method for record in self.tested}
        return tuple(method.name for method in self.plan.methods if method.name in there)

    @cached_property
    def data(self) -> tuple[str, ...]:
        there = {record.cell.data.name for record in self.tested}
        return tuple(data.name for data in self.plan.data if data.name in there)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[CellRecord]]:
        cells = defaultdict(list)
        for record in sorted(self.tested, key=lambda record: record.cell.seed):
            cells[record.cell.method, record.cell.data.name].append(record)
        return cells

    def cells(self, method: str, data: str | None = None) -> list[CellRecord]:
        """Of a data set or of all, by seed."""
        return [record for each in ([data] if data else self.data) for record in self._cells.get((method, each), [])]

    def error(self, method: str, data: str) -> Estimate | None:
        """The mean over seeds, of the networks on all test photos."""
        found = [record.error for record in self.cells(method, data)]
        return estimate(found) if found else None

    @cached_property
    def common(self) -> tuple[str, ...]:
        """The data sets that every method has."""
        return tuple(d for d in self.data if all((m, d) in self._cells for m in self.methods))

    def errors(self, method: str) -> Floats:
        """Mean errors of the common data sets; of those that the method has where none is common."""
        shown = self.common or tuple(d for d in self.data if (method, d) in self._cells)
        return np.array([fmean(record.error for record in self.cells(method, d)) for d in shown])

    def overall(self, method: str) -> Estimate:
        """The mean error over data sets; of a single one over its seeds."""
        errors = self.errors(method)
        if len(errors) > 1:
            return estimate(errors)
        return estimate([record.error for record in self.cells(method, (self.common or (None,))[0])])

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every ordered pair of methods with two data sets or more in common, the surest claims first.

        Both directions of a pair are claims, and Holm's correction counts them all.
        """
        found = []
        for better, worse in permutations(self.methods, 2):
            both = [d for d in self.data if {(better, d), (worse, d)} <= self._cells.keys()]
            if len(both) < 2:
                continue
            means = [[fmean(r.error for r in self.cells(m, d)) for d in both] for m in (better, worse)]
            differences = np.round(np.array(means[0]) - np.array(means[1]), 9)
            wins, ties = int((differences < 0).sum()), int((differences == 0).sum())
            found.append(Pair(better, worse, estimate(differences), wins, ties, wilcoxon_less(differences), 1.0))
        corrected = holm([pair.p for pair in found])
        paired = [pair._replace(corrected=p) for pair, p in zip(found, corrected, strict=True)]
        return tuple(sorted(paired, key=lambda pair: pair.p))

    def engine_error(self, method: str) -> Estimate | None:
        """The mean over data sets (of a single one, over seeds) of the engines' errors on the bundles' test photos."""
        known = [record for record in self.cells(method) if record.engine]
        by_data = defaultdict(list)
        for record in known:
            assert record.engine
            by_data[record.cell.data.name].append(1 - record.engine.accuracy)
        if len(by_data) > 1:
            return estimate([fmean(errors) for errors in by_data.values()])
        return estimate(next(iter(by_data.values()))) if by_data else None

    @cached_property
    def timed(self) -> tuple[str, ...]:
        """The methods that were timed in every group in which any was, fastest first."""
        groups = [set(timing.measurements) for timing in self.timings]
        there = [m for m in self.methods if groups and all(m in group for group in groups)]
        return tuple(sorted(there, key=lambda method: self.latency_ms(method).mean))

    def latency_ms(self, method: str) -> Estimate:
        """The geometric mean over the groups of the median of one image, with its t-interval.

        Of a single group it is that median, with its own interval by the bootstrap.
        """
        if len(self.timings) == 1:
            found = self.timings[0].measurements[method].summary
            return Estimate(found.median_ms, found.median_interval_ms, 1)
        return _geometric([timing.median_ms(method) for timing in self.timings])

    def times_faster(self, method: str, other: str) -> tuple[float, Interval | None]:
        """How many times as long `other` takes: over groups the geometric mean of their ratios, with its t-interval.

        In one group both ran in turns, so what slowed both cancels; the single group's interval is the bootstrap's.
        """
        if len(self.timings) == 1:
            (timing,) = self.timings
            found = ratio(timing.measurements[other], timing.measurements[method])
            return found.value, found.interval
        ratios = [timing.median_ms(other) / timing.median_ms(method) for timing in self.timings]
        mean, interval, _ = _geometric(ratios)
        return mean, interval

    def cost(self, method: str, what: str) -> float:
        """The mean over cells of a cost's `params`, `macs` or `weights_bytes`."""
        return fmean(getattr(record.cost, what) for record in self.cells(method))

    def core_hours(self, method: str) -> float:
        return sum(record.core_hours for record in self.records if record.cell.method == method)

    @property
    def is_paper(self) -> bool:
        """Whether the data are Meta-Album's."""
        return all(data.is_album for data in self.plan.data)

    @cached_property
    def best(self) -> str:
        """The method with the least mean error."""
        return min(self.methods, key=lambda method: float(self.errors(method).mean()))

    @cached_property
    def pareto(self) -> tuple[str, ...]:
        """The methods that no other beats in error and speed (where nothing was timed: MACs), most accurate first."""
        known = self.timed or self.methods
        points = {m: (float(self.errors(m).mean()), self.slowness(m)) for m in known}
        front = [m for m in known if not any(_beats(points[other], points[m]) for other in known)]
        return tuple(sorted(front, key=points.__getitem__))

    def slowness(self, method: str) -> float:
        """Milliseconds where engines were timed, else MACs."""
        return self.latency_ms(method).mean if self.timed else self.cost(method, "macs")

    @cached_property
    def picks(self) -> tuple["Pick", ...]:
        """The method of each data set that errs least on the photos held out for validation."""
        return tuple(_picks(self))


class Pick(NamedTuple):
    """The choice for a data set: its mean error on the validation photos, and on the test photos, which took no part.

    `best` is the method that the test photos would have chosen, with its error on these very photos, which flatters.
    """

    data: str
    method: str
    validation_error: float
    test_error: float
    best: str
    best_error: float


def _picks(results: Results) -> Iterator[Pick]:
    held_out: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in results.records:
        if record.cell.purpose == "validation":
            held_out[record.cell.data.name][record.cell.method].append(record.error)
    for data in results.data:
        tested = {m: found.mean for m in results.methods if (found := results.error(m, data))}
        errors = {m: fmean(e) for m, e in held_out[data].items() if m in tested}
        if errors:
            chosen = min(errors, key=lambda m: (errors[m], results.cost(m, "macs")))
            best = min(tested, key=tested.__getitem__)
            yield Pick(data, chosen, errors[chosen], tested[chosen], best, tested[best])


def _geometric(values: Sequence[float]) -> Estimate:
    mean, interval, n = estimate([log(value) for value in values])
    return Estimate(exp(mean), (exp(interval[0]), exp(interval[1])) if interval else None, n)


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
