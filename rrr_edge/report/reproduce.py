"""The commands that lead to a report, and the recipe that they read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from shlex import quote
from typing import Any

from rrr_edge.anatomy import LoadKind
from rrr_edge.measured import Profile
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
            lines.append(f"rrr-edge compile {asked}")
            lines.append(" ".join((f"rrr-edge profile {asked}", *_options(profile))))
    return "\n".join((*lines, f"rrr-edge report {' '.join(bundles)} -o report.html"))


def _options(profile: Profile) -> Iterator[str]:
    subjects = [alternative.measurement.subject for alternative in profile.alternatives]
    pruned = [subject for subject in subjects if subject.granularity not in (None, "baseline")]
    against = dict.fromkeys((*(["baseline"] if profile.baselines else []), *(str(s.granularity) for s in pruned)))
    yield f"--against {','.join(against) or 'none'}"
    if pruned:
        yield f"--sparsity {_list({subject.sparsity_asked or 0 for subject in pruned})}"
    yield f"--runs {profile.engine.summary.runs}"
    if not profile.layers:
        yield "--no-anatomy"
    settings: dict[str, set[float]] = {}
    for load in profile.loads:
        settings.setdefault(load.kind, set()).add(load.setting)
    for kind, option in _LOADS.items():
        if kind in settings:
            yield f"{option} {_list(settings[kind])}" if kind != "cold start" else option


_LOADS: dict[LoadKind, str] = {
    "paced": "--pace",
    "cold start": "--cold-start",
    "batch": "--batches",
    "streams": "--streams",
}


def _list(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in sorted(numbers))


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
