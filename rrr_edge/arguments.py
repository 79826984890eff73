"""How the command line's words are read: environment variables named like the options, and mistakes as sentences."""

import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from rrr_edge.display import Display
from rrr_edge.errors import UsageError

# Of the click that Typer carries, or in older versions depends on.
_WrongWords: Any = typer.BadParameter.__bases__[0]


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


# What every command takes beside whatever else is said.
_ALWAYS = ("--target", "--precision", "--json", "--quiet", "--verbose")


def demand_alone(context: typer.Context, option: str, *beside: str) -> None:
    """Raise UsageError where the command line has an option that `option` makes meaningless."""
    for other in context.command.params:
        name, source = max(other.opts, key=len), context.get_parameter_source(other.name or "")
        said = isinstance(other, TyperOption) and source is not None and source.name == "COMMANDLINE"
        if said and name not in (option, *beside, *_ALWAYS):
            raise UsageError(f"{name} means nothing with {option}.", advice=f"Leave one of them out: {option}, {name}")


class Commands(TyperGroup):
    """Commands whose misspelt arguments end like every other mistake: a sentence, an advice, a document, exit code."""

    def main(self, args: Any = None, *others: Any, **settings: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(words or ["--help"], *others, **{**settings, "standalone_mode": False})
        except _WrongWords as wrong:
            if isinstance(option := getattr(wrong, "param", None), TyperOption):
                option.show_envvar = True  # for the value may be from there
            said = wrong.format_message()
            command = " ".join(("rrr-edge", *(word for word in words[:1] if word in self.commands)))
            error = UsageError(said if said.endswith((".", "?")) else f"{said}.", advice=f"See: {command} --help")
            Display(as_json="--json" in words).failure(error)
            raise SystemExit(error.exit_code) from None
        raise SystemExit(code if words else UsageError.exit_code)
