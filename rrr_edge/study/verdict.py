"""The verdict of a study, in three sentences: who errs least, what faster methods cost, and how sure that is."""

from collections.abc import Sequence

from rrr_edge.study.results import Results
from rrr_edge.study.statistics import SIGNIFICANT
from rrr_edge.timing.statistics import Interval

# So many names are listed.
_NAMED = 3


def verdict(results: Results) -> str:
    """Such as "On your 4 data sets finetune errs least, 12.3 %. basis errs 1.4 points more and is 9 times faster."."""
    best = results.best
    if best is None:
        lacking = [m for m in results.methods if results.lacks(m)]
        lacks = [f"{m} lacks {some(results.lacks(m))}" for m in lacking[:_NAMED]]
        rest = [f"{len(lacking) - _NAMED} more lack some too"] if len(lacking) > _NAMED else []
        return f"No data set is common to all methods, so none is called the best. {'; '.join((*lacks, *rest))}."
    alike = [m for m in results.methods if m != best and results.mean_error(m) == results.mean_error(best)]
    sentences = [_errs_least(results, best, alike)]
    if len(results.methods) > 1:
        sentences += [_costs(results, best), _surely(results, best, alike)]
    return " ".join(filter(None, sentences))


def some(names: Sequence[str]) -> str:
    """Such as "a, b, c and 4 more"."""
    rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    *most, last = [*names[:_NAMED], *rest]
    return f"{', '.join(most)} and {last}" if most else last


def _errs_least(results: Results, best: str, alike: Sequence[str]) -> str:
    error = results.overall(best)
    assert error
    where = _where(results)
    errs = f"{100 * error.mean:.1f} %{_span(error.interval)}{_but(results, best)}"
    if len(results.methods) == 1:
        return f"{where} {best} errs {errs}. There is nothing to compare it with."
    least = f"{some([best, *alike])} err alike and least" if alike else f"{best} errs least"
    return f"{where} {least}, {errs}."


def _where(results: Results) -> str:
    number, asked = len(results.common), len(results.plan.data)
    if number < asked:
        which = f"{results.common[0]}, the only one" if number == 1 else f"the {number}"
        return f"On {which} of {asked} data sets that all methods have{',' * (number == 1)}"
    return f"On {results.common[0]}" if number == 1 else f"On your {number} data sets"


def _but(results: Results, best: str) -> str:
    """That the least errors are still chance's, and where; "" where they are not."""
    guessed = [data for data in results.common if results.guesses(best, data)]
    where = f" on {some(guessed)}" if 0 < len(guessed) < len(results.common) else ""
    return f", but that is no better than guessing{where}" if guessed else ""


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (100 * min(1.0, max(0.0, edge)) for edge in interval)
    return f" (95 % interval {low:.1f} to {high:.1f})"


def _costs(results: Results, best: str) -> str:
    """What faster methods cost and gain beside the most accurate one: the most accurate of them, and the fastest."""
    others = [m for m in results.pareto if m != best]
    gains = {m: words for m in others if (words := _gain(results, m, best))}
    if gains:
        named = dict.fromkeys((next(iter(gains)), list(gains)[-1]))
        return f"{'; '.join(f'{m} errs {_more(results, m, best)} points more and {gains[m]}' for m in named)}."
    unknown = [m for m in others if results.timed and m not in results.times_faster_than_best]
    if any(results.groups(m, best) for m in unknown):
        return "How much faster others are cannot be said: other programs ran whenever they were timed."
    if unknown:
        return f"How much faster others are cannot be said: none was timed beside {best}."
    return f"No other method is {'surely faster' if results.timed else 'smaller'}."


def _more(results: Results, method: str, best: str) -> str:
    return f"{100 * (results.mean_error(method) - results.mean_error(best)):.1f}"


def _gain(results: Results, method: str, best: str) -> str:
    """How much faster `method` is than the most accurate one; "" where it is not surely."""
    if not results.timed:
        return f"has {results.cost(best, 'macs') / results.cost(method, 'macs'):.3g} times fewer MACs"
    found = results.times_faster_than_best.get(method)
    if found is None or not found.interval or found.interval[0] <= 1:
        return ""
    low, high = found.interval
    return f"is {found.mean:.3g} times faster ({low:.3g} to {high:.3g})"


def _surely(results: Results, best: str, alike: Sequence[str]) -> str:
    """Which methods the best one surely beats over data sets, and which it does not."""
    if len(results.common) == 1:
        return "One data set tells nothing of others."
    of_best = [pair for pair in results.pairs if pair.better == best and pair.worse not in alike]
    unsure = [pair.worse for pair in of_best if pair.corrected >= SIGNIFICANT]
    if unsure:
        return f"Over these data sets it is not surely better than {some(unsure)} (Wilcoxon, Holm)."
    return "That it errs less than each of the others is significant (Wilcoxon, Holm)." if of_best else ""
