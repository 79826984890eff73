"""The report for a pull request: the verdict, a table, the environment in one line."""

from collections.abc import Sequence

from rrr_edge.report.appendix import environment_line
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.markup import plain_markdown
from rrr_edge.report.tables import Table, engines, measured
from rrr_edge.report.verdict import verdict
from rrr_edge.report.words import are_figures

MARK = "<!-- rrr-edge report -->"


def markdown_of(candidates: Sequence[Candidate]) -> str:
    table = measured(candidates[0].profile)[0] if len(candidates) == 1 else engines(candidates)
    places = dict.fromkeys(environment_line(c.profile.environment) for c in candidates)
    return "\n".join(
        (MARK, f"**{plain_markdown(verdict(candidates))}**", "", _table(table), "", *map(plain_markdown, places), "")
    )


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True))
    rules = ("---:" if are_figures(column) else "---" for column in columns)
    body = (f"| {' | '.join(map(plain_markdown, row))} |" for row in (table.header, *table.rows))
    head, *rows = body
    return "\n".join((head, f"| {' | '.join(rules)} |", *rows))
