"""Self-contained HTML pages: styles, script and figures inside, nothing loaded from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import STYLE
from rrr_edge.report.tables import Table
from rrr_edge.report.words import are_figures

_HERE = Path(__file__).parent


def document(title: str, generator: str, *, header: Iterable[Markup], main: Iterable[Markup], footer: str) -> str:
    """A complete document; whatever is no markup is escaped."""
    style, script = (
        Markup(STYLE + (_HERE / "page.css").read_text("utf-8")),
        Markup((_HERE / "page.js").read_text("utf-8")),
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=generator),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    body = element(
        "body",
        element("header", *header),
        element("main", *main),
        element("footer", footer),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def doubts(notes: Sequence[str]) -> Iterable[Markup]:
    """What a reader should know before he believes the numbers; nothing where there is nothing."""
    if notes:
        yield element("aside", *(element("p", note) for note in notes), class_="doubts", aria_label="What to doubt")


def folded(summary: str, content: Table) -> Iterable[Markup]:
    if content.rows:
        yield element("details", element("summary", summary), table(content))


def table(content: Table, *, head: bool = True) -> Markup:
    figures = [head and are_figures(column) for column in zip(*content.rows, strict=True)]
    sides = ["figure" if figure else None for figure in figures]
    header = element(
        "thead",
        element(
            "tr",
            *(element("th", name, scope="col", class_=side) for name, side in zip(content.header, sides, strict=True)),
        ),
    )
    rows = (
        element(
            "tr",
            element("th", row[0], scope="row", class_="part" if row[0].startswith(" ") else None),
            *(element("td", cell, class_=side) for cell, side in zip(row[1:], sides[1:], strict=True)),
        )
        for row in content.rows
    )
    body = element("table", *([header] if head else []), element("tbody", *rows), class_="sortable" if head else None)
    region = element("div", body, class_="wide", role="region", aria_label=content.caption, tabindex="0")
    return together((element("p", content.caption, class_="caption"), region))
