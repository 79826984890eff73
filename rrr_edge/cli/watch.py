"""`rrr-edge watch`."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrr_edge.cli.app import command_of_lines
from rrr_edge.cli.display import Display, printable
from rrr_edge.cli.options import (
    BundleFolder,
    PrecisionName,
    Quiet,
    RegionText,
    TargetName,
    Verbose,
    chosen_engine,
)
from rrr_edge.errors import BadInput, Interrupted, UsageError

if TYPE_CHECKING:
    from rrr_edge.runtime.streams import Source
    from rrr_edge.runtime.watch import StreamResult, UnsureFrames

_LIMIT, _ABOVE = 100, 0.5


@command_of_lines
def watch(
    bundle: BundleFolder,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            envvar="RRR_EDGE_WATCH_SOURCE",
            help="A camera's number, /dev/video0, a video, a folder, rtsp://... or http://...",
        ),
    ],
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify an engine that has not run on such a GPU yet.")
    ] = True,
    roi: RegionText = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Answer every n-th frame only.")] = 1,
    smooth: Annotated[
        int, typer.Option(min=1, metavar="N", help="The label is a vote over the last n frames, and does not flicker.")
    ] = 1,
    save_unsure: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep frames that the network is unsure of in this folder.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"--save-unsure: so many at most (default: {_LIMIT}).")
    ] = None,
    unsure_above: Annotated[
        float | None,
        typer.Option(min=0, max=1, help=f"--save-unsure: the uncertainty that is too much (default: {_ABOVE})."),
    ] = None,
    serve: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve a page with the live picture and the answer.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="--serve: what a browser must know; one is made where others can reach the page.")
    ] = None,
    record: Annotated[Path | None, typer.Option(metavar="FILE", help="Append each answer as a line of JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON a frame on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Classify the frames of a camera, video or stream as they come. Ctrl-C ends it.

    Of a live source the newest frame is answered and older ones are dropped; a lost one is opened again. Of a file or a
    folder every frame is answered, in order.
    """
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.images.fit import Region
    from rrr_edge.runtime.classifier import Classifier
    from rrr_edge.runtime.streams import Source, open_frames
    from rrr_edge.runtime.streams.video import require_av
    from rrr_edge.runtime.watch import LivePage, Summary
    from rrr_edge.runtime.watch import watch as watched

    _require_beside("--save-unsure", save_unsure, limit=limit, unsure_above=unsure_above)
    _require_beside("--serve", serve, token=token)
    display, line, summary = Display(as_json=as_json, quiet=quiet, verbose=verbose), Line(as_json), Summary()
    origin, region = Source.of(source), None if roi is None else Region.of(roi)
    if origin.kind != "pictures":
        require_av()
    chosen = chosen_engine(Bundle.open(bundle), target, precision, display)
    with ExitStack() as stack:
        # All that can be refused is, before the engine is loaded.
        page = None if serve is None else stack.enter_context(LivePage(serve, token=token))
        if page is not None:
            _tell_address(page.url, token, display)
        keep = None if save_unsure is None else _keeping(save_unsure, limit, unsure_above, origin)
        write = None if record is None else stack.enter_context(_recording(record))
        with display.progress() as on_progress:
            classifier = Classifier.open(bundle, chosen, roi=region, verify=verify, on_progress=on_progress)
        stack.enter_context(classifier)
        display.say(f"engine: {chosen.engine_name}")
        frames = stack.enter_context(open_frames(origin, every=every, on_change=lambda said: line.say(display, said)))
        if page is not None:
            page.lost = lambda: frames.lost
        sinks = [sink for sink in (summary, line, write, keep, page) if sink is not None]
        stack.callback(lambda: line.say(display, summary.text(frames)))
        with ending_quietly():
            for result in watched(classifier.stream(frames), classifier.labels, smooth=smooth):
                for sink in sinks:
                    sink(result)
    if not summary.frames:
        raise BadInput(f"No frame of {origin.shown} could be read.")


def _require_beside(option: str, value: object, **others: object) -> None:
    for name, other in others.items():
        if value is None and other is not None:
            raise UsageError(f"--{name.replace('_', '-')} means nothing without {option}.")


def _tell_address(url: str, token: str | None, display: Display) -> None:
    """Raises UsageError where nobody would be told the token that was made."""
    if display.quiet and token is None and "?token=" in url:
        raise UsageError(
            "With --quiet nobody is told the page's token.", advice="Give your own: --token or without -q."
        )
    display.say(f"page: {url}")


def _keeping(folder: Path, limit: int | None, above: float | None, source: "Source") -> "UnsureFrames":
    from rrr_edge.runtime.watch import UnsureFrames

    apart = {"apart_s": 0.0} if source.kind == "pictures" else {}
    return UnsureFrames(folder, limit=limit or _LIMIT, above=_ABOVE if above is None else above, **apart)


class Line:
    """The answers on stdout: rewritten in place on a terminal, else a line each; as JSON where asked."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._in_place = sys.stdout.isatty() and not as_json

    def __call__(self, result: "StreamResult") -> None:
        if self._as_json:
            print(json.dumps(result.record()), flush=True)
            return
        text = printable(_sentence(result))
        if self._in_place:
            columns = shutil.get_terminal_size().columns
            print(f"\r{text[: columns - 1]}\x1b[K", end="", flush=True)
        else:
            print(text, flush=True)

    def say(self, display: Display, text: str) -> None:
        """On stderr, with the line that is rewritten out of the way."""
        if self._in_place:
            print("\r\x1b[K", end="", flush=True)
        for line in text.splitlines():
            display.say(line)


def _sentence(result: "StreamResult") -> str:
    frame = result.answer.frame
    return (
        f"{frame.time_s:8.1f} s  {result.shown} {result.probability:.2f}  uncertainty {result.uncertainty:.2f}  "
        f"{result.answer.predict_ms:.1f} ms  {result.fps:.1f} fps  age {result.answer.age_ms:.0f} ms  "
        f"{frame.dropped} dropped"
    )


@contextmanager
def _recording(path: Path) -> Iterator[Callable[["StreamResult"], None]]:
    from rrr_edge.bundle.files import writing_to
    from rrr_edge.bundle.outputs import appended_lines, write_line

    with appended_lines(path) as file:

        def write(result: "StreamResult") -> None:
            with writing_to(path):
                write_line(file, json.dumps(result.record()))

        yield write


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ctrl-C and SIGTERM end with their exit codes and without another word, a closed pipe as if all were answered."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(Interrupted.exit_code) from None
    except SystemExit as stop:
        raise typer.Exit(int(stop.code or 0)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
