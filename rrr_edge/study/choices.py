"""A method chosen by the photos that `--pick` holds out of the training photos: for each data set, and one for all."""

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

from rrr_edge.study.results import Results


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


def pick_each(results: Results) -> tuple[Pick, ...]:
    """The method of each data set that errs least on the photos held out for validation."""
    return tuple(_picks(results))


def pick_one(results: Results) -> tuple[str, float] | None:
    """The method that errs least on the validation photos of all data sets with a choice, and its test error."""
    sets = [pick.data for pick in _picks(results)]
    held_out = _held_out(results)
    means = {
        m: fmean(fmean(held_out[d][m]) for d in sets)
        for m in results.methods
        if sets and all(m in held_out[d] and results.cells(m, d) for d in sets)
    }
    if not means:
        return None
    chosen = min(means, key=lambda m: (means[m], results.cost(m, "macs")))
    return chosen, fmean(fmean(results.seed_errors(chosen, d)) for d in sets)


def _picks(results: Results) -> Iterator[Pick]:
    held_out = _held_out(results)
    for data in results.data:
        tested = {m: found.mean for m in results.methods if (found := results.error(m, data))}
        errors = {m: fmean(e) for m, e in held_out[data].items() if m in tested}
        if errors:
            chosen = min(errors, key=lambda m: (errors[m], results.cost(m, "macs")))
            best = min(tested, key=tested.__getitem__)
            yield Pick(data, chosen, errors[chosen], tested[chosen], best, tested[best])


def _held_out(results: Results) -> dict[str, dict[str, list[float]]]:
    """By data set and method the errors on the photos held out for validation."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in results.records:
        if record.cell.purpose == "validation":
            found[record.cell.data.name][record.cell.method].append(record.error)
    return found
