"""The settings of a recipe as options of a command."""

import inspect
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from rrr_edge.cli.options import Command
from rrr_edge.errors import UsageError

if TYPE_CHECKING:
    from rrr_edge.bundle.settings import Setting


class SettingsCommand(Command):
    """A command with an option for each setting of every method; the context's `obj` holds their values.

    They are made when the command's own help or words need them, for their fields come with pydantic.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        first, second, *others = super().get_params(ctx)
        return [first, second, *setting_options(self.name or ""), *others]

    def invoke(self, ctx: Any) -> Any:
        ctx.obj = {option.name: ctx.params.pop(option.name) for option in setting_options(self.name or "")}
        return super().invoke(ctx)


@cache
def setting_options(command: str) -> tuple[Any, ...]:
    """Typer's options for the fields of the recipes: name, words to choose from, what it is for, default."""
    from rrr_edge.bundle.basis import PATENT
    from rrr_edge.bundle.recipe import METHODS
    from rrr_edge.bundle.settings import settings

    fields: dict[str, list[Setting]] = {}
    for setting in settings():
        fields.setdefault(setting.name, []).append(setting)
    default = next(iter(METHODS))
    kinds: dict[str, Any] = {
        "method": _option(str, f"How the network is made (default: {default}). {PATENT}", tuple(METHODS)),
        **{name: _described(alike, default) for name, alike in fields.items()},
    }

    def settings_of(**values: Any) -> None:
        """Typer reads its signature only."""

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in kinds.items()]
    settings_of.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    settings_of.__annotations__ = kinds
    app = typer.Typer(add_completion=False)
    app.command(command, cls=Command)(settings_of)
    return tuple(typer.main.get_command(app).params)


def _described(alike: list["Setting"], default: str) -> Any:
    """The option for the settings of one name; methods are named where it is not of the default one, or not alike."""
    said = []
    for setting in alike:
        text = f"{setting.field.description}{_default(setting)}"
        if len(alike) > 1 or default not in setting.methods:
            text = f"{', '.join(setting.methods)}: {text[0].lower()}{text[1:]}"
        said.append(text)
    kinds = {_kind(setting.field.annotation) for setting in alike}
    choices = tuple(dict.fromkeys(choice for setting in alike for choice in setting.choices))
    kind = kinds.pop() if len(kinds) == 1 else str
    return _option(kind, f"{'; '.join(said)}.", choices, option=alike[0].field.alias)


def _kind(annotation: Any) -> type:
    """What a word on the command line must be; a setting that may be a word of its own reads its numbers itself."""
    return next((kind for kind in (annotation, *get_args(annotation)) if kind in (bool, int, float)), str)


def _default(setting: "Setting") -> str:
    value = setting.field.default
    if value is None or value is False:
        return ""
    words = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if value == 0 else str(value)
    return f" (default: {setting.name if value is True else words})"


def _option(kind: type, text: str, choices: tuple[str, ...], *, option: str | None = None) -> Any:
    """Of that name, where it is not the setting's."""
    metavar = f"[{'|'.join(choices)}]" if choices else None
    return Annotated[kind | None, typer.Option(*([f"--{option}"] if option else []), help=text, metavar=metavar)]


def read_depths(text: str | None) -> tuple[int, ...] | str | None:
    """Four numbers with commas between, or the word auto. Raises UsageError."""
    if text is None or text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--depths takes four numbers such as 1,1,1,1, or auto, not {text!r}.") from error
