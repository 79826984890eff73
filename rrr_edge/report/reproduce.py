"""The commands that lead to a report, and the recipe that they read."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import PurePath
from shlex import quote
from typing import Any

from rrr_edge.bundle.measurements import LoadKind
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.verification import MAX_DROP
from rrr_edge.errors import RRREdgeError
from rrr_edge.report.candidate import Candidate

RECIPE = "recipe.toml"


def commands(candidates: Sequence[Candidate]) -> str:
    """Of all bundles and engines; folders are named, not located."""
    lines = []
    bundles = list(dict.fromkeys(quote(c.bundle.path.name) for c in candidates))
    for bundle in bundles:
        lines.append(f"rrr-edge compress DATA -o {bundle} --recipe {RECIPE}")
        for candidate in (c for c in candidates if quote(c.bundle.path.name) == bundle):
            asked = f"{bundle} {candidate.profile.target.words}"
            lines.append(" ".join((f"rrr-edge compile {asked}", *_making(candidate))))
            lines.append(" ".join((f"rrr-edge profile {asked}", *_options(candidate.profile))))
    return "\n".join((*lines, f"rrr-edge report {' '.join(bundles)} -o report.html"))


def _making(candidate: Candidate) -> Iterator[str]:
    """What the engine was made with besides its target, as far as its card and the bundle tell.

    A loss beyond the default limit was allowed by --max-drop; of other calibration images only the digest is known.
    """
    bundle, target = candidate.bundle, candidate.profile.target
    try:
        engine = bundle.engine(target)
        own = hashlib.sha256(bundle.calibration.tobytes()).hexdigest()
    except RRREdgeError:
        return
    if {engine.lowering, target.lowering} != {"grouped"}:
        yield f"--lowering {engine.lowering}"
    if engine.calibration and engine.calibration != own:
        yield "--calib-data DIR"
    lost = engine.verification.accuracy_reference - engine.verification.accuracy
    if lost > MAX_DROP:
        yield f"--max-drop {ceil(lost * 1000) / 1000:g}"


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
    """The recipe as `compress --recipe` reads it; a file of weights is named, not located."""
    settings = recipe.model_dump(mode="json", exclude_none=True)
    return "\n".join(_toml(settings | {"weights": PurePath(settings["weights"]).name}))


def _toml(settings: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Strings, numbers, truths and lists of them look as in JSON; tables follow."""
    if place:
        yield f"\n[{place}]"
    for key, value in settings.items():
        if not isinstance(value, Mapping):
            # TOML knows no pairs of surrogates, and wants DEL escaped.
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _toml(value, f"{place}.{key}" if place else key)
