"""The verdict of a study: one sentence on which method errs least, what faster ones cost, and how sure that is."""

from rrr_edge.errors import counted
from rrr_edge.study.results import Results
from rrr_edge.timing.statistics import Interval

# So many faster methods are named.
_NAMED = 3


def verdict(results: Results) -> str:
    """Such as "On your 4 data sets finetune errs least, 12.3 %; basis: 1.4 points more, 9.0 times faster."."""
    best, pareto = results.best, results.pareto
    error = results.overall(best)
    where = f"On {results.common[0]}" if len(results.common) == 1 else f"On your {counted(_sets(results), 'data set')}"
    if len(results.methods) == 1:
        return (
            f"{where} {best} errs {100 * error.mean:.1f} %{_span(error.interval)}; there is nothing to compare it with."
        )
    others = [_beside(results, method, best) for method in pareto if method != best][:_NAMED]
    costs = "; ".join(others) or f"no other method is {'faster' if results.timed else 'smaller'} without being worse"
    return f"{where} {best} errs least, {100 * error.mean:.1f} %{_span(error.interval)}; {costs}.{_surely(results)}"


def _sets(results: Results) -> int:
    return len(results.common) or len(results.data)


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (100 * min(1.0, max(0.0, edge)) for edge in interval)
    return f" ({low:.1f} to {high:.1f})"


def _beside(results: Results, method: str, best: str) -> str:
    """What a faster method costs and gains beside the most accurate one."""
    points = 100 * (results.overall(method).mean - results.overall(best).mean)
    if best in results.timed and method in results.timed:
        times, interval = results.times_faster(method, best)
        span = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
        return f"{method}: {points:.1f} points more, {times:.3g} times faster{span}"
    times = results.cost(best, "macs") / results.cost(method, "macs")
    return f"{method}: {points:.1f} points more, {times:.3g} times fewer MACs"


def _surely(results: Results) -> str:
    """Which methods the best one surely beats over data sets, and which it does not."""
    of_best = [pair for pair in results.pairs if pair.better == results.best]
    if not of_best:
        return " One data set tells nothing of others." if len(results.data) == 1 else ""
    unsure = [pair.worse for pair in of_best if pair.corrected >= 0.05]
    if not unsure:
        return " That it errs less than each of the others is significant (Wilcoxon, Holm)."
    named = ", ".join(unsure[:_NAMED]) + (f" and {len(unsure) - _NAMED} more" if len(unsure) > _NAMED else "")
    return f" Over so few data sets it is not surely better than {named} (Wilcoxon, Holm)."
