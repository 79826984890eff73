"""The commands that lead to a report, and the recipe that they read."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import PurePath
from typing import Any

from rrr_edge.bundle.calibration import HELD_OUT, OWN_TEST_PHOTOS, Calibration
from rrr_edge.bundle.commands import asked, command_line
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.limits import MAX_DROP
from rrr_edge.bundle.measurements import LoadKind
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.errors import RRREdgeError
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.evaluation import evaluation_of

RECIPE = "recipe.toml"


def commands(candidates: Sequence[Candidate]) -> str:
    """Of all bundles and engines; folders are named, not located."""
    lines = []
    manifests = {c.bundle.path.name: c.bundle.manifest for c in reversed(candidates)}
    # What another was made from comes first, and once.
    bundles = sorted(dict.fromkeys(c.bundle.path.name for c in candidates), key=lambda name: len(manifests[name].chain))
    made: set[str] = set()
    for bundle in bundles:
        earlier = [a.name for a in manifests[bundle].chain if a.name not in made]
        made |= {*earlier, bundle}
        lines += [command_line("compress", "DATA", out=name, recipe=recipe_file(name)) for name in earlier]
        lines.append(command_line("compress", "DATA", out=bundle, recipe=RECIPE))
        for candidate in (c for c in candidates if c.bundle.path.name == bundle):
            target = asked(candidate.profile.target)
            lines.append(command_line("compile", bundle, **target, **_making(candidate)))
            lines += [*_calibrating(candidate), *_evaluating(candidate)]
            lines.append(command_line("profile", bundle, **target, **_options(candidate.profile)))
    return "\n".join((*lines, command_line("report", *bundles, out="report.html")))


def _making(candidate: Candidate) -> dict[str, str | float | None]:
    """What the engine was made with besides its target, as far as its card and the bundle tell.

    In older records a loss beyond the default limit tells of --max-drop; of other calibration images only the digest is
    known.
    """
    bundle, target = candidate.bundle, candidate.profile.target
    try:
        engine = bundle.engine(target)
        own = hashlib.sha256(bundle.calibration.tobytes()).hexdigest()
    except RRREdgeError:
        return {}
    proof = engine.verification
    lost = proof.accuracy_reference - proof.accuracy
    older = proof.drop_interval is None and lost > MAX_DROP
    return {
        "lowering": _lowering(engine),
        "calib_data": "DIR" if engine.calibration and engine.calibration != own else None,
        "min_agreement": proof.min_agreement,
        "max_drop": ceil(lost * 1000) / 1000 if older else proof.max_drop,
    }


def _calibrating(candidate: Candidate) -> Iterator[str]:
    """What the engine was calibrated with, if it was; photos that are not those of the bundle are not named."""
    bundle, target = candidate.bundle, candidate.profile.target
    try:
        found = Calibration.of(bundle, bundle.engine(target))
    except RRREdgeError:
        return
    if found is None:
        return
    photos = {OWN_TEST_PHOTOS: (), HELD_OUT.format(bundle.manifest.provenance.data): ("DATA",)}
    yield command_line(
        "calibrate",
        bundle.path.name,
        *photos.get(found.photos, ("PHOTOS",)),
        test_photos=found.photos == OWN_TEST_PHOTOS,
        **asked(target),
        max_error=found.promise.max_error if found.promise else None,
        confidence=found.promise.confidence if found.promise else None,
        sets=found.sets.coverage if found.sets else None,
    )


def _evaluating(candidate: Candidate) -> Iterator[str]:
    """Of the evaluation that the page has, if it has one."""
    bundle, target = candidate.bundle, candidate.profile.target
    try:
        found = evaluation_of(bundle, target.engine_name)
    except RRREdgeError:
        return
    if found is None:
        return
    yield command_line(
        "evaluate",
        bundle.path.name,
        *(() if found.photos == OWN_TEST_PHOTOS else ("PHOTOS",)),
        **(asked(target) if found.what == target.engine_name else {"model": found.what}),
        foreign="DIR" if found.doubt and found.doubt.foreign else None,
    )


def _lowering(engine: Engine) -> str | None:
    """As it was asked; which pairs are products was found by measuring."""
    asked_for = "auto" if engine.lowering == "mixed" else engine.lowering
    return asked_for if {asked_for, engine.target.lowering} != {"grouped"} else None


def _options(profile: Profile) -> dict[str, str | int | bool]:
    subjects = [alternative.measurement.subject for alternative in profile.alternatives]
    pruned = [subject for subject in subjects if subject.granularity not in (None, "baseline")]
    against = dict.fromkeys((*(["baseline"] if profile.baselines else []), *(str(s.granularity) for s in pruned)))
    options: dict[str, str | int | bool] = {"against": ",".join(against) or "none"}
    if pruned:
        options["sparsity"] = _list({subject.sparsity_asked or 0 for subject in pruned})
    options |= {"runs": profile.engine.summary.runs, "no_anatomy": not profile.layers}
    settings: dict[str, set[float]] = {}
    for load in profile.loads:
        settings.setdefault(load.kind, set()).add(load.setting)
    for kind, option in _LOADS.items():
        if kind in settings:
            options[option] = kind == "cold start" or _list(settings[kind])
    return options


_LOADS: dict[LoadKind, str] = {
    "paced": "pace",
    "cold start": "cold_start",
    "batch": "batches",
    "streams": "streams",
}


def _list(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in sorted(numbers))


def recipe_file(ancestor: str) -> str:
    """The name of the recipe of a bundle that another was made from."""
    return f"{PurePath(ancestor).stem}.toml"


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as `compress --recipe` reads it; a file of weights and bundles are named, not located."""
    settings = recipe.model_dump(mode="json", exclude_none=True, by_alias=True)
    named = {key: PurePath(settings[key]).name for key in ("weights", "from", "teacher") if key in settings}
    return "\n".join(_toml(settings | named))


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
