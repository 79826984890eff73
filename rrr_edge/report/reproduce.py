"""The commands that lead to a report, and the recipe that they read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import Any

from rrr_edge.recipe import Recipe
from rrr_edge.report.candidate import Candidate

RECIPE = "recipe.toml"


def commands(candidates: Sequence[Candidate]) -> str:
    """Of all bundles and engines; folders are named, not located."""
    lines = []
    bundles = list(dict.fromkeys(quote(c.bundle.path.name) for c in candidates))
    for bundle in bundles:
        lines.append(f"rrr-edge compress DATA -o {bundle} --recipe {RECIPE}")
        for candidate in (c for c in candidates if quote(c.bundle.path.name) == bundle):
            profile = candidate.profile
            asked = f"{bundle} --target {profile.target.name} --precision {profile.target.precision}"
            against = "baseline" if profile.baselines else "none"
            lines.append(f"rrr-edge compile {asked}")
            lines.append(f"rrr-edge profile {asked} --against {against} --runs {profile.engine.summary.runs}")
    return "\n".join((*lines, f"rrr-edge report {' '.join(bundles)} -o report.html"))


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as `compress --recipe` reads it."""
    return "\n".join(_toml(recipe.model_dump(mode="json", exclude_none=True)))


def _toml(settings: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Strings, numbers, truths and lists of them look as in JSON; tables follow."""
    if place:
        yield f"\n[{place}]"
    for key, value in settings.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {json.dumps(value)}"
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _toml(value, f"{place}.{key}" if place else key)
