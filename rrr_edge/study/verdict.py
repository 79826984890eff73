"""The verdict of a study: one sentence on which method errs least, what faster ones cost, and how sure that is."""

from collections.abc import Sequence

from rrr_edge.study.results import Results
from rrr_edge.timing.statistics import Interval

# So many faster methods are named.
_NAMED = 3


def verdict(results: Results) -> str:
    """Such as "On your 4 data sets finetune errs least, 12.3 %; basis: 1.4 points more, 9.0 times faster."."""
    best = results.best
    if best is None:
        lacks = (f"{m} lacks {some(results.lacks(m))}" for m in results.methods if results.lacks(m))
        return f"No data set is common to all methods, so none is called the best: {'; '.join(lacks)}."
    error = results.overall(best)
    assert error
    where = f"On {results.common[0]}" if len(results.common) == 1 else f"On your {len(results.common)} data sets"
    errs = f"{100 * error.mean:.1f} %{_span(error.interval)}"
    if len(results.methods) == 1:
        return f"{where} {best} errs {errs}; there is nothing to compare it with."
    alike = [m for m in results.methods if m != best and results.mean_error(m) == results.mean_error(best)]
    least = f"{some([best, *alike])} err alike and least" if alike else f"{best} errs least"
    others = [_beside(results, method, best) for method in results.pareto if method != best][:_NAMED]
    costs = "; ".join(others) or f"no other method is {'faster' if results.timed else 'smaller'} than {best}"
    return f"{where} {least}, {errs}; {costs}.{_surely(results, best, alike)}"


def some(names: Sequence[str]) -> str:
    """Such as "a, b, c and 4 more"."""
    rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    *most, last = [*names[:_NAMED], *rest]
    return f"{', '.join(most)} and {last}" if most else last


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (100 * min(1.0, max(0.0, edge)) for edge in interval)
    return f" ({low:.1f} to {high:.1f})"


def _beside(results: Results, method: str, best: str) -> str:
    """What a faster method costs and gains beside the most accurate one."""
    points = f"{method}: {100 * (results.mean_error(method) - results.mean_error(best)):.1f} points more"
    if not results.timed:
        times = results.cost(best, "macs") / results.cost(method, "macs")
        return f"{points}, {times:.3g} times fewer MACs"
    found = results.times_faster(method, best)
    if found is None and results.groups(method, best):
        return f"{points}, and timed only while other programs ran: how much faster cannot be said"
    if found is None:
        return f"{points}, and never timed beside {best}"
    times, interval = found
    span = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    quiet, both, every = results.quiet_groups(method, best), len(results.groups(method, best)), len(results.timings)
    undisturbed = " and were not disturbed" if quiet < both else ""
    where = f" in the {quiet} of {every} groups of engines that have both{undisturbed}" if quiet < every else ""
    return f"{points}, {times:.3g} times faster{span}{where}"


def _surely(results: Results, best: str, alike: Sequence[str]) -> str:
    """Which methods the best one surely beats over data sets, and which it does not."""
    if len(results.common) == 1:
        return " One data set tells nothing of others."
    of_best = [pair for pair in results.pairs if pair.better == best and pair.worse not in alike]
    unsure = [pair.worse for pair in of_best if pair.corrected >= 0.05]
    if unsure:
        return f" Over so few data sets it is not surely better than {some(unsure)} (Wilcoxon, Holm)."
    return " That it errs less than each of the others is significant (Wilcoxon, Holm)." if of_best else ""
