"""The page of a study: the verdict, figures, tables, and what was made where."""

from collections.abc import Iterable
from pathlib import Path

from rrr_edge import __version__
from rrr_edge.bundle.outputs import require_output, write_output
from rrr_edge.errors import counted
from rrr_edge.report.document import document, doubts, folded, table
from rrr_edge.report.markup import Markup, element
from rrr_edge.report.plots import Picture
from rrr_edge.report.tables import Table
from rrr_edge.study import tables
from rrr_edge.study.charts import WIDE, draw_boxes, draw_data_sets, draw_pareto
from rrr_edge.study.choices import pick_each
from rrr_edge.study.comparisons import draw_criteria, draw_curves, draw_heat_map
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Method
from rrr_edge.study.results import Results
from rrr_edge.study.statistics import SIGNIFICANT
from rrr_edge.study.verdict import some, verdict

GENERATOR = "rrr-edge study"
REPORT = "report.html"
_CAPTIONS = {
    "pareto": "Down and to the left is better. The line joins what no other method beats in both.",
    "data-sets": "A mark is the mean over seeds, short strokes are single seeds, the line the 95% t-interval, cut off "
    "where the axis ends. Easy data sets first; the method that errs least over all of them is coloured.",
    "boxes": "The box is the middle half of the data sets, its bar the median, the diamond the mean.",
    "heat-map": "The darker, the more points worse than the data set's best method. Neighbours are alike (average "
    "linkage).",
    "criteria": "Towards the centre is better. Each arm is as long as the largest value.",
    "curves": "Means over all cells, with the weights and the augmentation of that moment.",
}


def write_study_report(study: StudyFolder) -> tuple[Path, Results]:
    """Write STUDY/report.html from what is finished. Raises BadInput (nothing is), CorruptArtifact, MissingLibrary."""
    out = study.path / REPORT
    require_output(out, GENERATOR)
    results = Results.read(study)
    write_output(out, page_of(results), GENERATOR)
    return out, results


def page_of(results: Results) -> str:
    """A complete document; whatever comes from the user is escaped."""
    names = results.data[0] if len(results.data) == 1 else counted(len(results.data), "data set")
    title = f"{names}, {counted(len(results.methods), 'method')}, {counted(len(results.plan.seeds), 'seed')}"
    header = (
        element("h1", f"{title}: {GENERATOR}"),
        element("p", verdict(results), class_="verdict"),
        _tiles(results),
        *doubts(_doubtful(results)),
    )
    return document(f"{title}: {GENERATOR}", GENERATOR, header=header, main=_main(results), footer=_footer())


def _main(results: Results) -> Iterable[Markup]:
    yield element("h2", "Methods")
    yield table(tables.errors(results))
    yield table(tables.costs(results))
    yield _figures(draw_pareto(results), draw_criteria(results), draw_boxes(results), draw_curves(results))
    if pick_each(results):
        yield element("h2", "A fair choice")
        yield element("p", tables.choice_words(results))
        yield from folded("The choice for each data set", tables.picks(results))
    yield element("h2", "Data sets")
    yield _figures(draw_data_sets(results), draw_heat_map(results))
    yield from folded("All errors as a table", tables.data_sets(results))
    if results.pairs:
        yield element("h2", "Which differences are sure")
        yield table(tables.pairs(results))
    for heading, found in (("Refused engines", tables.refused(results)), ("Failures", tables.failures(results))):
        if found.rows:
            yield element("h2", heading)
            yield table(found)
    yield element("h2", "How it was made")
    yield table(Table("", ("", ""), list(tables.machines(results))), head=False)
    for method in results.plan.methods:
        for recipe in method.recipes:
            yield element("details", element("summary", f"Recipe of {method.name}"), element("pre", recipe.to_json()))


def _tiles(results: Results) -> Markup:
    """The numbers that one remembers."""
    done, asked = len(results.records), len(results.plan.cells)
    hours = sum(record.own_core_hours for record in results.records)
    best = results.best
    found = [(f"{100 * results.mean_error(best):.1f}%", f"mean error of {best}, the least")] if best else []
    if results.timed:
        fastest = results.timed[0]
        found.append((tables.time_of(results, fastest), f"one image by {fastest}{_how_fast(results)}"))
    found += [(f"{done} of {asked}", "cells finished"), (f"{hours:.2g}", "core hours of training")]
    tiles = (element("div", element("dt", what), element("dd", value)) for value, what in found)
    return element("dl", *tiles, class_="tiles")


def _how_fast(results: Results) -> str:
    """Whether the method with the least time is surely the fastest of all that were timed."""
    fastest, *others = results.timed
    if not others:
        return ""
    ratios = [results.times_faster(fastest, other) for other in others]
    surely = all(times and times.interval and times.interval[0] > 1 for times in ratios)
    return ", the fastest" if surely else ", the least time, but not surely the fastest"


def _doubtful(results: Results) -> list[str]:
    """What a reader should know before the numbers."""
    found = []
    if (missing := len(results.plan.cells) - len(results.records)) > 0:
        found.append(f"{counted(missing, 'cell')} not finished: means are over the data sets that all methods have.")
    tested = {record.cell.data.name for record in results.tested}
    if left_out := sorted(tested - {*results.common}):
        found.append(f"Not in the means, as not every method has results there: {some(left_out)}.")
    if refused := [m.name for m in results.plan.methods if m.name not in results.methods and _is_refused(results, m)]:
        found.append(f"Without errors and times, as each of their engines was refused: {', '.join(refused)}.")
    for m, data in results.fewer_seeds.items():
        found.append(f"{m} is judged by fewer seeds than other methods on {some(data)}: refused or not finished.")
    for m in results.methods:
        if (timed := len(results.groups(m))) < len(results.timings):
            groups = counted(len(results.timings), "group")
            found.append(f"{m} has times in {timed} of {groups}: elsewhere it has no engine, or a newer one.")
    if len({timing.environment.machine_id for timing in results.timings}) > 1:
        found.append("The times come from different machines; what differs between data sets may be the machine.")
    disturbed = [timing for timing in results.timings if any(m.disturbed for m in timing.measurements.values())]
    if disturbed:
        every = len(disturbed) == len(results.timings)
        where = "every group" if every else f"{len(disturbed)} of {len(results.timings)} groups"
        found.append(
            f"Other programs ran while engines were timed, in {where}; ratios suffer less than times, as engines of a "
            "group ran in turns."
        )
    claims, least = len(results.pairs), 0.5 ** len(results.common)
    if claims * least >= SIGNIFICANT:
        found.append(
            f"With {len(results.common)} data sets and {claims} claims no difference can be significant: p by Holm is "
            f"at least {min(1.0, claims * least):.2g}."
        )
    return found


def _is_refused(results: Results, method: Method) -> bool:
    return any(record.refused for record in results.tested if record.cell.method == method.name)


def _figures(*found: Picture | None) -> Markup:
    return element("div", *(_figure(picture) for picture in found if picture), class_="figures")


def _figure(picture: Picture) -> Markup:
    caption = element("figcaption", _CAPTIONS[picture.name])
    if picture.width < WIDE:
        return element("figure", element("h3", picture.title), picture.inline(), caption)
    scrolled = element("div", picture.inline(), class_="wide", role="region", aria_label=picture.title, tabindex="0")
    return element("figure", element("h3", picture.title), scrolled, caption, class_="all")


def _footer() -> str:
    return (
        f"Made by rrr-edge {__version__}. A tilde marks a time that was unstable. Errors are shares of wrong answers; "
        "a data set's is the mean over seeds, and data sets count alike. Intervals are at 95%: Student's over data "
        "sets (of a single one: as far as Student's over seeds or Wilson's over photos reaches; none where all errors "
        "are equal), of times over groups of engines that ran in turns. p is exact (Wilcoxon's signed ranks, all "
        "signs), corrected by Holm over all pairs."
    )
