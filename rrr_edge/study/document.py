"""The results of a study for programs: numbers, where the tables have words."""

from typing import Any

from rrr_edge.study.choices import pick_each, pick_one
from rrr_edge.study.results import Results
from rrr_edge.study.statistics import Estimate


def results_document(results: Results) -> dict[str, Any]:
    """Shares from 0 to 1, times in ms; an interval is at 95%, and null where one value has none.

    `errors_of` says whose errors they are. Without a data set that is `common` to all methods, these have no error.
    """
    each, one = pick_each(results), pick_one(results)
    picks: dict[str, Any] = {"picks": [pick._asdict() for pick in each]} if each else {}
    if one:
        picks["single_pick"] = dict(zip(("method", "test_error"), one, strict=True))
    return {
        "errors_of": "engines" if results.of_engines else "networks",
        "common": list(results.common),
        "best": results.best,
        "pareto": list(results.pareto),
        "methods": [_method(results, method) for method in results.methods],
        "data_sets": [
            {"data": data, "errors": {m: _estimate(results.error(m, data)) for m in results.methods}}
            for data in results.data
        ],
        "pairs": [pair._asdict() | {"difference": _estimate(pair.difference)} for pair in results.pairs],
        **picks,
    }


def _method(results: Results, method: str) -> dict[str, Any]:
    return {
        "method": method,
        "error": _estimate(results.overall(method)),
        "ms": _estimate(results.latency_ms(method) if method in results.timed else None),
        "times_faster_than_best": _estimate(results.times_faster_than_best.get(method)),
        **{what: results.cost(method, what) for what in ("params", "macs", "weights_bytes")},
        "core_hours": results.core_hours(method),
        "lacks": list(results.lacks(method)),
        "guesses_on": [data for data in results.data if results.guesses(method, data)],
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return found._asdict() if found else None
