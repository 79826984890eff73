"""Settings of a recipe from options and TOML files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rrr_edge.bundle.recipe import METHODS, Recipe, Selection, Training
from rrr_edge.bundle.record import Record, faults, read_toml
from rrr_edge.errors import UsageError, choose

# Parts of a recipe whose settings are given as options like the recipe's own.
_PARTS: dict[str, type[Record]] = {"training": Training, "selection": Selection}


class Setting(NamedTuple):
    """A field that recipes have: `methods` are those of METHODS in which it is the same."""

    name: str
    field: FieldInfo
    methods: tuple[str, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be, where there are only some."""
        annotation = self.field.annotation
        return get_args(annotation) if get_origin(annotation) is Literal else ()


def settings() -> list[Setting]:
    """Every field of every method but the method itself, those of its parts among them."""
    found: list[Setting] = []
    for method, recipe in METHODS.items():
        for name, field in _fields(recipe):
            same = next((i for i, s in enumerate(found) if s.name == name and _alike(s.field, field)), None)
            if same is None:
                found.append(Setting(name, field, (method,)))
            else:
                found[same] = found[same]._replace(methods=(*found[same].methods, method))
    return found


def settings_of(method: str) -> set[str]:
    """The names of the settings that a method of METHODS has, those of its parts among them."""
    return {name for name, _ in _fields(METHODS[method])}


def option_of(name: str) -> str:
    """The option of the setting of that name, without its hyphens in front."""
    aliases = (setting.field.alias for setting in settings() if setting.name == name)
    return (next(filter(None, aliases), name)).replace("_", "-")


def read_recipe(path: Path | None, **options: Any) -> Recipe:
    """The recipe in the TOML file `path`, with every option that is not None in its place.

    Options named like a field of Training or Selection go there. Raises BadInput for the file and UsageError for the
    options.
    """
    stored = _read(path) if path else {}
    recipe = METHODS[choose(options.pop("method", None) or stored.get("method", "rrr"), METHODS, "method")]
    chosen = {name: value for name, value in options.items() if value is not None}
    _require_known(recipe, chosen)
    for part in _PARTS.keys() & recipe.model_fields.keys():
        record = _PARTS[part]
        moved = {name: chosen.pop(name) for name in list(chosen) if name in record.model_fields}
        if moved:
            chosen[part] = {**stored.get(part, {}), **moved}
    try:
        named_as_stored = {_alias(recipe, name): value for name, value in chosen.items()}
        return recipe.model_validate({**stored, **named_as_stored, "method": recipe.model_fields["method"].default})
    except ValidationError as error:
        raise wrong_options(error) from error


def wrong_options(error: ValidationError) -> UsageError:
    """What is wrong with settings that were given as options, in their words."""
    named = ((key.rpartition(".")[2].replace("_", "-"), why) for key, why in faults(error))
    wrong = "; ".join(f"--{option}: {why}" if option else why for option, why in named)
    return UsageError(f"{wrong[0].upper()}{wrong[1:]}.")


def _read(path: Path) -> dict[str, Any]:
    """The file's settings, valid on their own."""
    data = read_toml(path)
    METHODS[choose(str(data.get("method", "rrr")), METHODS, "method")].parse(data, str(path))
    return data


def _require_known(recipe: type[Record], options: dict[str, Any]) -> None:
    """Refuse options that the method does not have, and near misses of those that have a few words to choose from."""
    fields = dict(_fields(recipe))
    method = recipe.model_fields["method"].default
    for name, value in options.items():
        if name not in fields:
            raise UsageError(f"The method {method} has no --{option_of(name)}.", advice="Leave it out.")
        if choices := Setting(name, fields[name], (method,)).choices:
            takers = [one for s in settings() if s.name == name and value in s.choices for one in s.methods]
            if takers and method not in takers:
                raise UsageError(
                    f"The method {method} has no {name.replace('_', ' ')} {value}.",
                    advice=f"Give one of {', '.join(choices)}; {value} is for --method {' or '.join(takers)}.",
                )
            choose(value, choices, name.replace("_", " "))


def _fields(recipe: type[Record]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that are one value each; `schedule` is a record that only files give."""
    for name, field in recipe.model_fields.items():
        if name in _PARTS:
            own = field.annotation
            yield from _fields(own if isinstance(own, type) and issubclass(own, Record) else _PARTS[name])
        elif name not in ("method", "schedule"):
            yield name, field


def _alias(recipe: type[Record], name: str) -> str:
    field = recipe.model_fields.get(name)
    return field.alias if field and field.alias else name


def _alike(one: FieldInfo, other: FieldInfo) -> bool:
    said = (one.description, one.default, one.annotation)
    return said == (other.description, other.default, other.annotation)
