"""The verdict of a study, in at most three sentences: who errs least, what faster ones cost, how sure that is."""

from collections.abc import Sequence

from rrr_edge.errors import counted
from rrr_edge.study.results import Results
from rrr_edge.study.statistics import SIGNIFICANT
from rrr_edge.timing.statistics import Interval

# So many names are listed.
_NAMED = 3
# A method is called faster from so many times on.
_FASTER = 1.01


def verdict(results: Results) -> str:
    """Such as "On your 4 data sets finetune errs least, 12.3%. basis errs 1.4 points more and is 9 times faster."."""
    best = results.best
    if best is None:
        lacking = [m for m in results.methods if results.lacks(m)]
        lacks = [f"{m} lacks {some(results.lacks(m))}" for m in lacking[:_NAMED]]
        rest = [f"{counted(len(lacking) - _NAMED, 'more method')} likewise"] if len(lacking) > _NAMED else []
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
    errs = f"{100 * error.mean:.1f}%{'' if alike else _span(error.interval)}{_but(results, [best, *alike])}"
    if len(results.methods) == 1:
        return f"{where} {best} errs {errs}. There is nothing to compare it with."
    least = f"{some([best, *alike])} err alike and least" if alike else f"{best} errs least"
    return f"{where} {least}, {errs}."


def _where(results: Results) -> str:
    number, asked = len(results.common), len(results.plan.data)
    if number < asked:
        which = f"{results.common[0]}, the only one" if number == 1 else f"the {number}"
        return f"On {which} of {asked} data sets that all methods have,"
    return f"On {results.common[0]}" if number == 1 else f"On your {number} data sets"


def _but(results: Results, methods: Sequence[str]) -> str:
    """That even the least errors may be chance's, and where, as far as it is so of each of `methods`."""
    guessed = [data for data in results.common if all(results.guesses(m, data) for m in methods)]
    where = f" on {some(guessed)}" if 0 < len(guessed) < len(results.common) else ""
    return f", but that is not surely better than guessing at random{where}" if guessed else ""


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" (95% interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _costs(results: Results, best: str) -> str:
    """What faster methods cost and gain beside the most accurate one: the most accurate of them, and the fastest."""
    gains = _gains(results, best)
    if gains:
        nearest = min(gains, key=lambda m: (results.mean_error(m), -gains[m][0]))
        fastest = max(gains, key=lambda m: (gains[m][0], -results.mean_error(m)))
        named = dict.fromkeys((nearest, fastest))
        return f"{'; '.join(f'{m} {_errs_more(results, m, best)} and {gains[m][1]}' for m in named)}."
    if not results.timed:
        return "No other method has at least 1% fewer MACs."
    others = [m for m in results.methods if m not in (best, *results.times_faster_than_best)]
    never = [m for m in others if not results.groups(m, best)]
    disturbed = [m for m in others if m not in never]
    why = [f"never timed beside {best}: {some(never)}"] if never else []
    why += [f"other programs ran whenever {best} was timed beside {some(disturbed)}"] if disturbed else []
    known = "No other method is surely at least 1% faster"
    said = known if results.times_faster_than_best else "Whether another method is faster is not known"
    return f"{said} ({'; '.join(why)})." if why else f"{said}."


def _errs_more(results: Results, method: str, best: str) -> str:
    points = 100 * (results.mean_error(method) - results.mean_error(best))
    return f"errs {points:.1f} points more" if points >= 0.05 else "errs as often"


def _gains(results: Results, best: str) -> dict[str, tuple[float, str]]:
    """How many times faster each method is that surely is, and in words; where nothing was timed, by MACs."""
    if results.timed:
        times = {m: (t.mean, *t.interval) for m, t in results.times_faster_than_best.items() if t.interval}
        return {
            m: (mean, f"is {mean:.3g} times faster ({low:.3g} to {high:.3g})")
            for m, (mean, low, high) in times.items()
            if low >= _FASTER
        }
    macs = {m: results.cost(best, "macs") / results.cost(m, "macs") for m in results.methods}
    return {m: (n, f"has {n:.3g} times fewer MACs") for m, n in macs.items() if n >= _FASTER}


def _surely(results: Results, best: str, alike: Sequence[str]) -> str:
    """Which methods the best one surely beats over data sets, and which it does not."""
    rest = [m for m in results.methods if m not in (best, *alike)]
    if len(results.common) == 1:
        (data,) = results.common
        highest = results.interval_of(best, data)[1]
        near = [m for m in rest if results.interval_of(m, data)[0] <= highest]
        here = f", and on it {best} is not surely better than {some(near)}: their intervals overlap" if near else ""
        return f"One data set tells nothing of others{here}."
    of_best = [pair for pair in results.pairs if pair.better == best and pair.worse in rest]
    unsure = [pair.worse for pair in of_best if pair.corrected >= SIGNIFICANT]
    if unsure:
        return f"Over these data sets {best} is not surely better than {some(unsure)} (Wilcoxon, Holm)."
    each = "each of the rest" if alike else "each of the others"
    return f"That {best} errs less than {each} is significant (Wilcoxon, Holm)." if of_best else ""
