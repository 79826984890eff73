"""The report for a pull request: the verdict, a table, the environment in one line."""

from collections.abc import Sequence

from rrr_edge.report.candidate import Candidate
from rrr_edge.report.tables import Table, engines, environment_line, measured
from rrr_edge.report.verdict import verdict
from rrr_edge.report.words import are_figures

MARK = "<!-- rrr-edge report -->"
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "})


def markdown_of(candidates: Sequence[Candidate]) -> str:
    table = measured(candidates[0].profile)[0] if len(candidates) == 1 else engines(candidates)
    places = dict.fromkeys(environment_line(c.profile.environment) for c in candidates)
    return "\n".join((MARK, f"**{_plain(verdict(candidates))}**", "", _table(table), "", *map(_plain, places), ""))


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True))
    rules = ("---:" if are_figures(column) else "---" for column in columns)
    body = (f"| {' | '.join(map(_plain, row))} |" for row in (table.header, *table.rows))
    head, *rows = body
    return "\n".join((head, f"| {' | '.join(rules)} |", *rows))


def _plain(words: str) -> str:
    """As it is, whatever it holds."""
    return words.translate(_SPECIAL)
