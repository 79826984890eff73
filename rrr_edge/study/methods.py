"""The methods of a study by their names, chains of names, or recipe files."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from rrr_edge.bundle.recipe import METHODS, RANDOM, RRR, BasisScaling, Channel, Element, Recipe
from rrr_edge.bundle.reused import Chained
from rrr_edge.bundle.settings import read_recipe, settings_of
from rrr_edge.bundle.sources import CLASSIFIERS, SOURCES
from rrr_edge.errors import UsageError, choose

MethodRecipes: TypeAlias = tuple[Recipe, ...]
CHAIN = "+"
NAME = r"^\w[\w.+-]*$"


class Named(NamedTuple):
    """A method's name in the study, and its recipes."""

    name: str
    recipes: MethodRecipes


def read_methods(words: Sequence[str], options: Mapping[str, Any]) -> list[Named]:
    """The methods that `words` name: "rrr", "resnet18" (that network, fine-tuned), "rrr+basis" or "mine.toml".

    `options` hold for every method that has such a setting; those that are None are left out. Raises UsageError (an
    unknown word, a setting that no method has or that does not fit one) and BadInput (a file).
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    found = [_read(word, chosen) for word in words]
    known = {name for _, recipes in found for recipe in recipes for name in settings_of(recipe.method)}
    if unknown := sorted(chosen.keys() - known):
        raise UsageError(f"None of these methods has --{unknown[0].replace('_', '-')}.", advice="Leave it out.")
    return found


def _read(word: str, options: Mapping[str, Any]) -> Named:
    parts = [_one(part, options) for part in ([word] if Path(word).is_file() else word.split(CHAIN))]
    for before, after in pairwise(parts):
        _require_going_on(before, after)
    return Named(CHAIN.join(part.name for part in parts), tuple(recipe for part in parts for recipe in part.recipes))


def _require_going_on(before: Named, after: Named) -> None:
    """Raise UsageError where the second part of a chain can never go on from the first one's bundle."""
    (theirs,), (ours,) = before.recipes, after.recipes
    if not isinstance(ours, Chained):
        able = ", ".join(name for name, recipe in METHODS.items() if issubclass(recipe, Chained))
        raise UsageError(f"{after.name} cannot go on from another method's bundle.", advice=f"These can: {able}.")
    if isinstance(theirs, Element):
        raise UsageError(
            f"{after.name} cannot follow {before.name}, whose weights at zero would not stay zero.",
            advice="Prune elements last.",
        )
    if isinstance(theirs, BasisScaling) and isinstance(ours, BasisScaling | Channel):
        raise UsageError(f"{after.name} cannot go on from the pairs of convolutions that {before.name} leaves.")
    try:
        type(ours).model_validate(ours.model_dump() | {"backbone": theirs.backbone})
    except ValidationError as error:
        raise UsageError(f"{after.name} cannot go on from the network {theirs.backbone} of {before.name}.") from error


def _one(word: str, options: Mapping[str, Any]) -> Named:
    path = Path(word)
    if path.suffix != ".toml":
        return _named(word, options)
    if not path.is_file():
        raise UsageError(f"There is no recipe file {word}.")
    if not re.fullmatch(NAME, path.stem):
        raise UsageError(
            f"The name of {word} cannot name a method, which has letters, digits, dots and hyphens only.",
            advice="Rename the file.",
        )
    return Named(path.stem, (_with_options(path, options),))


def _named(word: str, options: Mapping[str, Any]) -> Named:
    choose(word, {*METHODS, *SOURCES, *CLASSIFIERS}, "method")
    own = {"method": word} if word in METHODS else {"method": "finetune", "backbone": word}
    return Named(word, (_with_options(None, options, **own),))


def _with_options(path: Path | None, options: Mapping[str, Any], **own: str) -> Recipe:
    method = own.get("method") or read_recipe(path).method
    fitting = {name: value for name, value in options.items() if name in settings_of(method)}
    return settled(read_recipe(path, **fitting, **own))


def settled(recipe: Recipe) -> Recipe:
    """With what `compress` would fill in where it was left open, for a stored recipe does not tell what was.

    Branches of random weights share their batches, as they train one stump.
    """
    is_open = "shared_batches" not in recipe.training.model_fields_set
    if isinstance(recipe, RRR) and recipe.weights == RANDOM and recipe.branches > 1 and is_open:
        return recipe.model_copy(update={"training": recipe.training.model_copy(update={"shared_batches": True})})
    return recipe
