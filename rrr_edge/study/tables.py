"""The tables of a study, for the terminal and the page alike."""

from collections.abc import Iterator
from statistics import fmean, median

from rrr_edge.errors import counted
from rrr_edge.report.tables import Table
from rrr_edge.report.words import count, milliseconds
from rrr_edge.study.choices import pick_each, pick_one
from rrr_edge.study.presets import paper_mean
from rrr_edge.study.results import Results
from rrr_edge.study.statistics import Estimate

# So many pairs are shown at once.
_PAIRS = 40


def errors(results: Results) -> Table:
    """Each method over the data sets that all have, most accurate first; where it is known, what the paper found."""
    published = {m.name: paper_mean(m) for m in results.plan.methods} if results.is_paper else {}
    paper = any(published.get(m) for m in results.methods)
    networks = ("its networks', %",) if results.of_engines else ()
    own = ("method", "mean error, %", "95% interval", "median error, %", *networks, "best on", "cells")
    rows = []
    for m in _most_accurate_first(results):
        overall = results.overall(m)
        rows.append(
            (
                m,
                f"{100 * overall.mean:.1f}" if overall else "",
                _span(overall) if overall else "",
                f"{100 * median(results.errors(m)):.1f}" if overall else "",
                *((_networks(results, m),) if results.of_engines else ()),
                f"{sum(_is_best(results, m, data) for data in results.common)}",
                f"{len(results.cells(m))}",
                *((published[m],) if paper else ()),
            )
        )
    number = len(results.common)
    over = (
        f"On {results.common[0]}, over seeds" if number == 1 else f"Over the {number} data sets that all methods have"
    )
    over = over if number else "No data set is common to all methods, so there are no means"
    header = (*own, *(("the paper's, its 40 data sets, %",) if paper else ()))
    whose = "engines on the bundles'" if results.of_engines else "networks on all"
    return Table(f"{over}; errors of the {whose} test photos", header, rows)


def _networks(results: Results, method: str) -> str:
    """The mean error of the networks themselves, on all test photos."""
    means = [fmean(record.error for record in results.cells(method, data)) for data in results.common]
    return f"{100 * fmean(means):.1f}" if means else ""


def costs(results: Results) -> Table:
    """What each method's networks and engines take, in the same order."""
    faster = results.times_faster_than_best
    rows = []
    for m in _most_accurate_first(results):
        latency = results.latency_ms(m) if m in results.timed else None
        engines = [record.engine for record in results.cells(m) if record.engine]
        lost = [engine.accuracy - engine.accuracy_reference for engine in engines]
        rows.append(
            (
                m,
                time_of(results, m).removesuffix(" ms"),
                f"{latency.interval[0]:.3g} to {latency.interval[1]:.3g}" if latency and latency.interval else "",
                *(_beside_best(results, m) if faster else ()),
                f"{100 * fmean(lost):+.1f}" if lost else "",
                f"{fmean(engine.bytes for engine in engines) / 1e6:.1f}" if engines else "",
                count(results.cost(m, "params")),
                count(results.cost(m, "macs")),
                f"{results.core_hours(m):.2g}",
            )
        )
    beside = (f"times faster than {results.best}", "95% interval", "in quiet groups") if faster else ()
    header = ("method", "ms, one image", "95% interval", *beside, "points gained by the engine", "engine MB", "params",
              "MACs", "core hours")  # fmt: skip
    target = results.plan.target
    engines_of = f"; engines are {target.engine_name}" if target else ""
    return _without_empty_columns(Table(f"Means over cells; core hours of training{engines_of}", header, rows))


def _without_empty_columns(table: Table) -> Table:
    """Without times, say, where nothing is timed yet."""
    filled = [place for place, _ in enumerate(table.header) if not table.rows or any(row[place] for row in table.rows)]
    header, *rows = (tuple(row[place] for place in filled) for row in (table.header, *table.rows))
    return Table(table.caption, header, rows)


def _beside_best(results: Results, method: str) -> tuple[str, str, str]:
    """How many times faster than the most accurate one, the interval, and how many of their groups tell it."""
    shared = len(results.groups(method, results.best)) if results.best and method != results.best else 0
    found = results.times_faster_than_best.get(method)
    quiet = f"{found.n if found else 0} of {shared}" if shared else ""
    if not found:
        return "", "", quiet
    low, high = found.interval or (found.mean, found.mean)
    return f"{found.mean:.3g}", f"{low:.3g} to {high:.3g}", quiet


def pairs(results: Results) -> Table:
    """One-tailed tests of "the first errs less", each pair in its surer direction, the surest first."""
    surer = list({frozenset((p.better, p.worse)): p for p in reversed(results.pairs)}.values())[::-1]
    rows = [
        (
            f"{p.better} < {p.worse}",
            f"{100 * p.difference.mean:+.1f}",
            _span(p.difference, "+"),
            f"{p.wins} : {p.ties} : {p.difference.n - p.wins - p.ties}",
            f"{p.p:.2g}",
            f"{p.corrected:.2g}",
        )
        for p in surer[:_PAIRS]
    ]
    header = ("claim", "points", "95% interval", "better : equal : worse", "p, exact", "p by Holm")
    cut = f", the {_PAIRS} surest of {len(surer)}" if len(surer) > _PAIRS else ""
    return Table(
        f"Does the first err less? Wilcoxon's signed-rank test over the {counted(len(results.common), 'data set')} "
        f"that all methods have, one-tailed; Holm over all {len(results.pairs)} claims, both directions of each "
        f"pair{cut}",
        header,
        rows,
    )


def data_sets(results: Results) -> Table:
    """The mean error over seeds of each method on each data set, and which of them may have only guessed."""
    rows = []
    for data in results.data:
        found = [results.error(m, data) for m in results.methods]
        judged = next(record for m in results.methods for record in results.cells(m, data))
        guesses = ", ".join(m for m in results.methods if results.guesses(m, data))
        errs = (f"{100 * e.mean:.1f}" if e else "" for e in found)
        rows.append((data, f"{results.photos_of(judged)}", f"{100 * (1 - 1 / judged.classes):.1f}", *errs, guesses))
    header = ("data set", "test photos", "guessing at random", *results.methods, "not surely better than guessing")
    return Table(
        "Errors in %, means over seeds; guessing at random among K classes errs in 1 - 1/K of the photos", header, rows
    )


def picks(results: Results) -> Table:
    rows = [
        (
            p.data,
            p.method,
            f"{100 * p.validation_error:.1f}",
            f"{100 * p.test_error:.1f}",
            p.best,
            f"{100 * (p.test_error - p.best_error):.1f}",
        )
        for p in pick_each(results)
    ]
    header = (
        "data set",
        "chosen",
        "validation error, %",
        "test error, %",
        "best by the test",
        "points lost by choosing",
    )
    return Table("Chosen on photos held out of the training photos; the test photos only report", header, rows)


def choice_words(results: Results) -> str:
    """What choosing a method for each data set by its validation photos gives, and what the best by the test would."""
    found = pick_each(results)
    chosen, best = (100 * fmean(values) for values in zip(*((p.test_error, p.best_error) for p in found), strict=True))
    single = pick_one(results)
    fixed = f" The one method for all, {single[0]}, chosen on them too, has {100 * single[1]:.1f}%." if single else ""
    return (
        f"Choosing a method for each of {counted(len(found), 'data set')} on validation photos gives a mean test error "
        f"of {chosen:.1f}%.{fixed} The best for each by the test photos themselves has {best:.1f}%, which flatters, "
        "for these photos have chosen it."
    )


def refused(results: Results) -> Table:
    rows = [
        (record.cell.data.name, record.cell.method, f"{record.cell.seed}", record.refused)
        for record in results.tested
        if record.refused
    ]
    return Table("Engines that were refused for their answers", ("data set", "method", "seed", "why"), rows)


def failures(results: Results) -> Table:
    rows = [(f.work.words, f.error, f.advice) for f in results.failures]
    return Table("What could not be done", ("cell", "why", "what to do"), rows)


def machines(results: Results) -> Iterator[tuple[str, str]]:
    """What was made and timed where."""
    for name in sorted({f"{r.machine}, {counted(r.threads, 'thread')} a cell" for r in results.records}):
        yield "trained on", name
    for timing in results.timings[:1]:
        here = timing.environment
        versions = ", ".join(f"{name} {number}" for name, number in here.versions.items())
        yield "timed on", f"{here.cpu}, {counted(here.threads, 'thread')}, {versions}; {timing.target.engine_name}"
    worst = max((timing.background_load or 0.0 for timing in results.timings), default=0.0)
    if worst:
        yield "other programs", f"took up to {worst:.0%} of the cores' time while engines were timed"


def summary(results: Results) -> Table:
    """The few columns that a terminal has room for."""
    rows = [
        (
            m,
            f"{100 * overall.mean:.1f}%" if (overall := results.overall(m)) else "",
            time_of(results, m),
            count(results.cost(m, "macs")),
        )
        for m in _most_accurate_first(results)
    ]
    return Table("", ("method", "error", "time", "MACs"), rows)


def time_of(results: Results, method: str) -> str:
    """The milliseconds of one image, with a tilde where a group's were unstable; "" where it was not timed."""
    if method not in results.timed:
        return ""
    unstable = any(timing.measurements[method].summary.unstable for timing in results.groups(method))
    return f"{'~' if unstable else ''}{milliseconds(results.latency_ms(method).mean)}"


def _most_accurate_first(results: Results) -> list[str]:
    return sorted(results.methods, key=lambda m: results.mean_error(m) if results.common else 0.0)


def _is_best(results: Results, method: str, data: str) -> bool:
    errors = {m: found.mean for m in results.methods if (found := results.error(m, data))}
    return errors[method] == min(errors.values())


def _span(found: Estimate, sign: str = "") -> str:
    return f"{100 * found.interval[0]:{sign}.1f} to {100 * found.interval[1]:{sign}.1f}" if found.interval else ""
