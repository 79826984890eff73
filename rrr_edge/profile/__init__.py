"""VERB 3, profile: engines timed on this machine beside their baselines, interleaved in one process."""

import sys
import time
from contextlib import ExitStack
from importlib import metadata
from itertools import product
from typing import NamedTuple

from rrr_edge import __version__
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import sha256_of
from rrr_edge.bundle.files import sha256, staged_folder, write_file
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.measurements import Ceiling, LayerTime, Measurement, Ratio, Subject, quiet_ratio
from rrr_edge.bundle.profile import ENGINE, Profile
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, MissingLibrary
from rrr_edge.profile.engine import measure_engine
from rrr_edge.profile.layer_times import CEILING, LAYERS, LayerTimes, profiling_layers
from rrr_edge.profile.loads import measure_loads
from rrr_edge.profile.onnx_baselines import compiled, targets_beside
from rrr_edge.profile.pruned import Swept, forget_rounds, measure_sweep
from rrr_edge.profile.reference import compared_with_reference
from rrr_edge.profile.request import Baselines, Extras
from rrr_edge.profile.run import ProfileRun
from rrr_edge.report import files_of
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import shares_cores, threads_to_use
from rrr_edge.timing.progress import OnProgress, silent


def profile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    baselines: Baselines | None = None,
    timing: TimingSettings | None = None,
    extras: Extras | None = None,
    on_progress: OnProgress = silent,
) -> Profile:
    """Time the compiled engine of `bundle` beside its `baselines`; store and return what was found.

    All run interleaved in this process, on the bundle's reference images in shuffled order, with the target's number
    of threads (0: all usable cores). `baselines` names ONNX files with their cards, which are compiled by the same
    backend at fp32 and at the engine's precision and kept beside them, open sessions, and a sweep of sparsities, which
    is measured first: where that is interrupted, the same call goes on with it. What was timed is stored before the
    loads are measured, and again before anything is drawn, so nothing that fails later takes it away. A baseline for
    which a library is missing is left out with a note.

    Raises UsageError (not compiled), CannotRunHere (another machine than the target's; a baseline is missing),
    CorruptArtifact, MissingLibrary.
    """
    baselines, timing, extras = baselines or Baselines(), timing or TimingSettings(), extras or Extras()
    asked = Target.resolve(target)
    engine = bundle.engine(asked)
    threads = threads_to_use(asked.threads, engine.target.threads)
    target = engine.target.model_copy(update={"threads": threads, "portability": asked.portability})
    run = ProfileRun(bundle, target, _subject(bundle, engine, target), timing, on_progress)
    bundle.profile_folder(engine.name)  # refused now, not after the measurement
    here = Environment.here(threads=threads, versions={**_versions(), **run.backend.versions()})
    require_machine(target, here)
    with Classifier.open(bundle.path, target, precision=target.precision, threads=threads) as classifier:
        sweep = baselines.sweep
        swept = measure_sweep(sweep, run, classifier.session, here) if sweep else Swept((), ())
        found = _measure(run, classifier, baselines, anatomy=extras.anatomy)
        reference = compared_with_reference(bundle, classifier.session, on_progress)
    profile = _profile(run, engine, here, found, swept).model_copy(update={"reference": reference})
    profile = _store(profile, bundle)
    forget_rounds(bundle, engine.name)
    if loads := measure_loads(run, extras.loads):
        profile = _store(profile.model_copy(update={"loads": loads}), bundle)
    for name, text in files_of(bundle, profile).items():
        write_file(bundle.profile_folder(engine.name) / name, text)
    return profile


def require_machine(target: Target, here: Environment) -> None:
    """Raise CannotRunHere unless this machine has the CPU and the GPU that the target names."""
    target.require_device()
    gpus = ", ".join(gpu.name for gpu in here.gpus) or "no NVIDIA GPU"
    if target.gpu.lower() not in gpus.lower():
        raise CannotRunHere(
            f"The target {target.name!r} is a {target.gpu!r} GPU; this machine has {gpus}.",
            advice=f"Profile it on such a machine, or choose a target for this one: {command_line('targets')}",
        )


class _Found(NamedTuple):
    """What was timed in turns with the engine."""

    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    bounds: tuple[Bound, ...]
    precision_found: dict[str, float]
    layers: tuple[LayerTime, ...]
    images_computed: int
    profiling_overhead: Ratio | None
    ceiling: Ceiling | None
    notes: tuple[str, ...]


def _measure(run: ProfileRun, classifier: Classifier, baselines: Baselines, *, anatomy: bool) -> _Found:
    """Time the engine beside the `baselines` and, for its `anatomy`, beside itself with its layers clocked."""
    with ExitStack() as stack:
        models, lacking = _compiled_models(run, baselines, stack)
        beside = (*models, *baselines.ready)
        layer_times: LayerTimes | None = None
        if anatomy:
            layer_times = stack.enter_context(profiling_layers(run.backend, run.folder, run.target, run.on_progress))
        aside = layer_times.baselines if layer_times else ()
        measurements, notes = measure_engine(run, classifier, (*beside, *aside))
        found = {m.name: m for m in measurements}
        engine, rivals = found[ENGINE], [found[baseline.name] for baseline in beside]
        return _Found(
            measurements=tuple(m for m in measurements if m.name not in (LAYERS, CEILING)),
            ratios=tuple(filter(None, (quiet_ratio(rival, engine) for rival in rivals))),
            bounds=tuple(
                Bound.between(rival, engine, shared_cores=shares_cores()) for rival in rivals if not engine.is_quiet
            ),
            precision_found=classifier.session.precision_found(),
            layers=layer_times.layers(engine.summary.median_ms) if layer_times else (),
            images_computed=layer_times.images_computed if layer_times else 1,
            profiling_overhead=quiet_ratio(found[LAYERS], engine) if layer_times else None,
            ceiling=layer_times.ceiling(found.get(CEILING)) if layer_times else None,
            notes=(*notes, *lacking, *(layer_times.notes if layer_times else ())),
        )


def _compiled_models(run: ProfileRun, baselines: Baselines, stack: ExitStack) -> tuple[list[Baseline], list[str]]:
    """The ONNX files among the baselines as open engines, until the stack is left, and why some are left out."""
    opened, lacking = [], []
    for model, beside in product(baselines.models, targets_beside(run.target)):
        try:
            opened.append(stack.enter_context(compiled(run.backend, model, run.bundle, beside, run.on_progress)))
        except MissingLibrary as missing:
            lacking.append(f"The baseline in {beside.precision} was not measured: {missing} {missing.advice}")
    return opened, lacking


def _profile(run: ProfileRun, engine: Engine, here: Environment, found: _Found, swept: Swept) -> Profile:
    manifest = run.bundle.manifest
    profile = Profile(
        bundle=manifest.name,
        manifest_sha256=sha256(run.bundle.path / MANIFEST),
        engine_sha256=sha256_of(run.bundle, engine.name),
        target=run.target,
        environment=here,
        precision_found=found.precision_found,
        accuracy=manifest.accuracy,
        verification=engine.verification,
        measurements=found.measurements,
        ratios=found.ratios,
        bounds=found.bounds,
        alternatives=swept.alternatives,
        layers=found.layers,
        pairs=engine.pair_times,
        images_computed=found.images_computed,
        profiling_overhead=found.profiling_overhead,
        ceiling=found.ceiling,
        notes=(*engine.notes, *found.notes, *swept.notes),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if profile.beyond_ceiling:
        profile = profile.model_copy(update={"notes": (*profile.notes, _BEYOND.format(profile.beyond_ceiling))})
    return profile


_BEYOND = (
    "Above 100% of the best that this machine was seen to reach: {}. That was found too low, or these parts are too "
    "short for the backend's clock."
)


def _subject(bundle: Bundle, engine: Engine, target: Target) -> Subject:
    cost = bundle.manifest.cost
    return Subject(
        backend=target.backend,
        precision=target.precision,
        threads=target.threads,
        params=cost.params,
        macs=cost.macs,
        size_mb=engine.bytes / 1e6,
    )


def _store(profile: Profile, bundle: Bundle) -> Profile:
    with staged_folder(bundle.profile_folder(profile.target.engine_name)) as stage:
        return profile.write(stage)


def _versions() -> dict[str, str]:
    """Of what runs beside the engine; of PyTorch only where it has been imported, for it is never imported here."""
    torch = {"torch": metadata.version("torch")} if "torch" in sys.modules else {}
    return {"rrr-edge": __version__, "pillow": metadata.version("pillow"), **torch}
