"""Option types, and reading of their values."""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from rrr_edge.cli.display import Display, take_any_text
from rrr_edge.errors import UsageError, choose

if TYPE_CHECKING:
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.bundle.target import Target


class Command(TyperCommand):
    """A command whose option --such-a-one is also RRR_EDGE_COMMAND_SUCH_A_ONE, which its help says once for all."""

    def __init__(self, name: str | None, *, params: list[Any], **settings: Any) -> None:
        for option in params:
            if isinstance(option, TyperOption):
                option.envvar, option.show_envvar = _variable(name, max(option.opts, key=len)), False
        settings["epilog"] = f"Options can be set in the environment too: {_variable(name, '--json')}=1 is --json."
        super().__init__(name, params=params, **settings)


def _variable(command: str | None, option: str) -> str:
    return f"rrr-edge-{command or ''}-{option.removeprefix('--')}".replace("-", "_").upper()


_PREFIX = "RRR_EDGE_"
# Variables that are for programs around the command line.
_OTHERS = ("RRR_EDGE_TEST_",)
# What every command takes beside whatever else is said.
_ALWAYS = ("--target", "--precision", "--json", "--quiet", "--verbose")


def require_alone(context: typer.Context, option: str, *beside: str) -> None:
    """Raise UsageError where the command line has an option that `option` makes meaningless."""
    for other in context.command.params:
        name, source = max(other.opts, key=len), context.get_parameter_source(other.name or "")
        said = isinstance(other, TyperOption) and source is not None and source.name == "COMMANDLINE"
        if said and name not in (option, *beside, *_ALWAYS):
            raise UsageError(f"{name} means nothing with {option}.", advice=f"Leave one of them out: {option}, {name}")


class Commands(TyperGroup):
    """Commands whose misspelt arguments end like every other mistake: a sentence, an advice, a document, exit code."""

    def misspelt(self, environment: Mapping[str, str]) -> Iterator[str]:
        """A sentence for each variable that looks like an option's but is none."""
        said = sorted(name for name in environment if name.startswith(_PREFIX))
        if not said:
            return
        context = typer.Context(self)
        known = {
            str(option.envvar)
            for command in self.commands.values()
            for option in command.get_params(context)
            if getattr(option, "envvar", None)
        }
        for name in said:
            if name not in known and not name.startswith(_OTHERS):
                near = difflib.get_close_matches(name, sorted(known), n=1)
                yield f"warning: {name} is no option's variable." + (f" Did you mean {near[0]}?" if near else "")

    def main(self, args: Any = None, *others: Any, **settings: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        take_any_text(sys.stdout, sys.stderr)
        for warning in self.misspelt(os.environ):
            Display(quiet="--quiet" in words or "-q" in words).say(warning)
        try:
            code = super().main(words or ["--help"], *others, **{**settings, "standalone_mode": False})
        except Exception as wrong:
            if not hasattr(wrong, "format_message"):  # what Typer says of wrong words; its class has no stable name
                raise
            if isinstance(option := getattr(wrong, "param", None), TyperOption):
                option.show_envvar = True  # for the value may be from there
            said = wrong.format_message()
            command = " ".join(("rrr-edge", *(word for word in words[:1] if word in self.commands)))
            error = UsageError(said if said.endswith((".", "?")) else f"{said}.", advice=f"See: {command} --help")
            Display(as_json="--json" in words).failure(error)
            raise SystemExit(error.exit_code) from None
        raise SystemExit(code if words else UsageError.exit_code)


DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="Photos: train/CLASS/*, CLASS/*, or Meta-Album.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that `rrr-edge compress` wrote.")]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="A target's name (see `rrr-edge targets`), or its TOML file.")
]
PrecisionName = Annotated[
    str | None, typer.Option("--precision", help="fp32, bf16, fp16, int8 or fp8 (default: the target's).")
]
RegionText = Annotated[
    str | None,
    typer.Option("--roi", metavar="X,Y,W,H", help="The part of each picture to look at, in shares of its sides."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: versions, settings, causes of errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]


def chosen_target(name: str, precision: str | None, display: Display) -> "Target":
    """The target as asked; one of the current folder's own is said."""
    from rrr_edge.bundle.target import PACKAGED, PRECISIONS, Target, target_here

    if precision:
        choose(precision, PRECISIONS, "precision")
    target = Target.load(name)
    if (own := target_here(name)) and own.resolve() != (PACKAGED / own.name).resolve():
        display.say(f"note: the target {name} is {own} in this folder")
    return target.model_copy(update={"precision": precision}) if precision else target


def chosen_engine(bundle: "Bundle", name: str, precision: str | None, display: Display) -> "Target":
    """The target as asked, or where no precision is asked at one whose engine is there, which is said."""
    target = chosen_target(name, precision, display)
    found = target if precision else bundle.available(target)
    if found != target:
        display.say(f"note: there is no {target.engine_name} engine; {found.engine_name} is taken")
    return found


def scan_words(option: str, text: str) -> tuple[int, ...]:
    from rrr_edge.bundle.target import LARGEST_BATCH

    try:
        counts = tuple(int(word) for word in text.split(",") if text)
    except ValueError:
        counts = (0,)
    if not all(1 <= count <= LARGEST_BATCH for count in counts) or len(set(counts)) < len(counts):
        raise UsageError(
            f"{option} takes different whole numbers up to {LARGEST_BATCH} such as 1,2,4, not {text[:80]!r}."
        )
    return counts
