"""Output for people and programs: results on stdout, everything else on stderr."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rrr_edge.errors import RRREdgeError, redacted
from rrr_edge.timing.progress import OnProgress, Step, silent

if TYPE_CHECKING:
    from rrr_edge.bundle.profile import Profile

# In the place of a label that is not the answer.
UNSURE = "unsure"
_PLAIN_EVERY_S = 10.0
# What the first moments promise is not kept.
_TELLING_S = 2.0
# Control characters, halves of surrogate pairs, and what turns the direction of writing: names have no right to them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep: str = "") -> str:
    """`text` with the characters that would act on a terminal written as Python escapes them, but those to `keep`."""
    return _UNPRINTABLE.sub(lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), text)


def take_any_text(*streams: Any) -> None:
    """Let streams that cannot encode a character, such as an ASCII terminal's, write its escape in its place."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Display:
    """With `as_json` stdout carries exactly one JSON document; `quiet` leaves only results and errors.

    Of several processes at one task the one of `rank` 0 speaks; the others have only errors to tell. Texts are one
    line, but for results; without an `indent` documents are too.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        rank: int = 0,
        indent: int | None = 2,
    ) -> None:
        self.is_first = rank == 0
        self._indent = indent
        self.as_json = as_json
        self.quiet = quiet or not self.is_first
        self.verbose = verbose

    def say(self, text: str) -> None:
        if not self.quiet:
            _tell(text)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        if self.is_first:
            _tell(f"warning: {text}")

    def error(self, text: str, advice: str, cause: BaseException | None) -> None:
        _tell(f"error: {text}")
        if advice:
            _tell(f"       {advice}")
        while self.verbose and cause is not None:
            _tell(f"       caused by {type(cause).__name__}: {redacted(str(cause))}")
            cause = cause.__cause__

    def failure(self, error: RRREdgeError) -> None:
        """An expected error: a sentence with its advice, and as the document of programs."""
        self.error(str(error), error.advice, error.__cause__)
        self.result({"error": str(error), "advice": error.advice, "exit_code": error.exit_code})

    def result(self, document: Any, text: str = "") -> None:
        """Print the command's result: the document for programs, or the text for people."""
        if not self.is_first:
            return
        if self.as_json:
            print(json.dumps(document, indent=self._indent), flush=True)
        elif text:
            print(printable(text, keep="\n"), flush=True)

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Print `rows` with their keys as columns, for people only; a column that is empty in all rows is left out."""
        if self.as_json or not self.is_first:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(printable(title)) if title else None,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        columns = [column for column in (rows[0] if rows else ()) if any(row[column] for row in rows)]
        for column in columns:
            figures = all(_is_figure(row[column]) for row in rows if row[column])
            table.add_column(Text(column), justify="right" if figures else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(row[column])) for column in columns))
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)

    def profile(self, profile: "Profile", title: str) -> None:
        """The tables and the notes of `profile`, for people only; the first table has `title`."""
        from rrr_edge.report.tables import tables_of

        for caption, header, rows in tables_of(profile):
            self.table(caption or title, [dict(zip(header, row, strict=True)) for row in rows])
        for note in profile.notes:
            self.say(f"note: {note}")

    @contextmanager
    def progress(self) -> Iterator[OnProgress]:
        """A bar with an ETA on a terminal, a plain line every 10 s elsewhere, nothing when quiet."""
        if self.quiet:
            yield silent
        elif sys.stderr.isatty():
            with _bars() as on_progress:
                yield on_progress
        else:
            yield _PlainLines()


@contextmanager
def _bars() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(step.stage, total=step.total, note="")
            elif step.done < progress.tasks[tasks[step.stage]].completed:  # it begins again, and so does its time
                progress.reset(tasks[step.stage])
            progress.update(tasks[step.stage], completed=step.done, total=step.total, note=printable(step.note))

        yield on_progress


class _PlainLines:
    def __init__(self) -> None:
        self._stage, self._done = "", 0
        self._begun = self._printed = 0.0

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        if step.stage != self._stage or step.done < self._done:
            self._stage, self._begun, self._printed = step.stage, now, 0.0
        self._done = step.done
        if now - self._printed < _PLAIN_EVERY_S and step.done < step.total:
            return
        self._printed = now
        left = (now - self._begun) / step.done * (step.total - step.done) if step.done else 0.0
        tells = step.done and step.done < step.total and now - self._begun >= _TELLING_S
        eta = f", {int(left // 60)}:{int(left % 60):02d} left" if tells else ""
        _tell(f"{step.stage} {step.done}/{step.total}{eta} {step.note}".rstrip())


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _is_figure(text: str) -> bool:
    return text.lstrip("~-+")[:1].isdigit()
