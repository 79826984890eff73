"""The Typer app: what every command has around it. Heavy imports happen inside the commands."""

import atexit
import functools
import os
import platform
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any, NoReturn

import typer

from rrr_edge import __version__
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import Command, Commands
from rrr_edge.cli.settings import SettingsCommand
from rrr_edge.errors import CannotRunHere, Interrupted, RRREdgeError, is_lack_of_memory, redacted
from rrr_edge.timing.processes import process_rank

app = typer.Typer(
    name="rrr-edge",
    help="Compress a ResNet152 for a small task, compile it for the box it must run on, measure what was gained.",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What is told of the versions.
_LIBRARIES = ("numpy", "pillow", "torch", "openvino", "nncf", "onnxruntime")
# What to do after an interruption.
_AGAIN = {
    "compress": "Go on with --resume.",
    "demo": "Start it anew with --force.",
    "profile": "Run it again: networks that were built, and what was finished of --sparsity, are kept.",
    "study": "Run it again: what is finished is kept.",
}


def main() -> None:
    require_home()
    signal.signal(signal.SIGTERM, _terminated)
    app()


def require_home() -> None:
    """Give libraries that insist on a home a temporary one, where this user has none."""
    try:
        Path.home()
    except RuntimeError:
        home = os.environ["HOME"] = mkdtemp(prefix="rrr-edge-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command whose expected errors are printed as sentences and end with their exit code."""
    return app.command(cls=Command)(_guarded(function))


def command_with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """A command, as above, that takes the settings of a recipe too."""
    return app.command(cls=SettingsCommand)(_guarded(function, many=True))


def command_of_lines(function: Callable[..., None]) -> Callable[..., None]:
    """A command, as above, whose JSON is one document a line."""
    return app.command(cls=Command)(_guarded(function, indent=None))


def _guarded(function: Callable[..., None], *, many: bool = False, indent: int | None = 2) -> Callable[..., None]:
    """`function` with its errors told; torchrun may start `many` processes of it, of which the first one speaks."""

    @functools.wraps(function)
    def run(**options: Any) -> None:
        rank = process_rank() if many else 0
        display = Display(**{name: options[name] for name in ("as_json", "quiet", "verbose")}, rank=rank, indent=indent)
        if options["verbose"]:
            for line in _particulars(options):
                display.detail(line)
        try:
            function(**options)
        except (KeyboardInterrupt, SystemExit, Interrupted) as stop:
            _fail(display, _interrupted(stop, function.__name__, options))
        except RRREdgeError as error:
            _fail(display, error)
        except Exception as error:
            limit = _limit_of(error)
            if limit is None:
                raise
            limit.__cause__ = error
            _fail(display, limit)

    return run


def _fail(display: Display, error: RRREdgeError) -> NoReturn:
    display.failure(error)
    raise typer.Exit(error.exit_code)


def _limit_of(error: Exception) -> CannotRunHere | None:
    """What this machine refused, where `error` says so: memory, or a file that is not read or written."""
    if is_lack_of_memory(error):
        return CannotRunHere(
            "There is not enough memory for this.", advice="Stop other programs, or use smaller batches or images."
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else str(error.filename)
        return CannotRunHere(f"{name}: {error.strerror}.", advice="Check the name, its permissions and the disk.")
    return None


def _interrupted(stop: BaseException, command: str, options: dict[str, Any]) -> Interrupted:
    """`stop` is a SystemExit where a signal came while no training was there to finish its step."""
    said = str(stop) if isinstance(stop, Interrupted) else "Interrupted."
    advice = _AGAIN.get(command, "Run it again.")
    if command == "compress":
        from rrr_edge.bundle.files import work_folder

        advice = advice if work_folder(options["out"]).exists() else "Run it again: nothing was kept."
    error = Interrupted(said, advice=advice)
    error.exit_code = int(getattr(stop, "exit_code", getattr(stop, "code", error.exit_code)))
    return error


def _particulars(options: dict[str, Any]) -> tuple[str, str]:
    """Whose versions decide what happens, and what was asked, from options and environment."""
    versions = {"rrr-edge": __version__, "Python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    settings = getattr(options.get("context"), "obj", None) or {}
    given = {name: value for name, value in {**options, **settings}.items() if value is not None}
    return said, ", ".join(f"{name}={_shown(name, value)}" for name, value in given.items() if name != "context")


def _shown(name: str, value: Any) -> str:
    """The value of an option, without what is secret in it."""
    if name == "token":
        return "***"
    if name == "source":
        from rrr_edge.runtime.streams.source import hidden

        return hidden(str(value))
    return redacted(str(value))


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(__version__)
        raise typer.Exit
