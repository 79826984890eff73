"""VERB 3: engines -> how long they take here, beside what else could have been run, in one process and in turns."""

import sys
import time
from contextlib import ExitStack
from importlib import metadata
from itertools import product

from rrr_edge import __version__
from rrr_edge.backends import backend_of
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.files import sha256, staged_folder, write_file
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.measurements import Subject, ratio
from rrr_edge.bundle.profile import ENGINE, Profile
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere, MissingLibrary
from rrr_edge.profile.baselines import compiled, targets_beside
from rrr_edge.profile.engine import measure_engine
from rrr_edge.profile.layer_times import CEILING, LAYERS, profiling_layers
from rrr_edge.profile.loads import LoadRun, measure_loads
from rrr_edge.profile.pruned import SweepContext, Swept, forget_rounds, measure_sweep
from rrr_edge.profile.request import Baselines, Extras
from rrr_edge.report import files_of
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.machine import usable_cores
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
    target = Target.load(target) if isinstance(target, str) else target
    engine = bundle.engine(target)
    threads = target.threads or engine.target.threads or usable_cores()
    target = engine.target.model_copy(update={"threads": threads, "portability": target.portability})
    backend = backend_of(target)
    here = Environment.here(threads=target.threads, versions={**_versions(), **backend.versions()})
    require_machine(target, here)
    cost = bundle.manifest.cost
    own = Subject(
        backend=target.backend,
        precision=target.precision,
        threads=target.threads,
        params=cost.params,
        macs=cost.macs,
        size_mb=engine.bytes / 1e6,
    )
    with ExitStack() as stack:
        classifier = stack.enter_context(
            Classifier.open(bundle.path, target, precision=target.precision, threads=target.threads)
        )
        swept = Swept((), ())
        if baselines.sweep:
            context = SweepContext(bundle, target, backend, classifier.session, own, here)
            swept = measure_sweep(baselines.sweep, context, timing=timing, on_progress=on_progress)
        compiled_models, lacking = [], []
        for model, beside in product(baselines.models, targets_beside(target)):
            try:
                compiled_models.append(stack.enter_context(compiled(backend, model, bundle, beside, on_progress)))
            except MissingLibrary as missing:
                lacking.append(f"The baseline in {beside.precision} was not measured: {missing} {missing.advice}")
        precision_found = classifier.session.precision_found()
        folder = bundle.engine_folder(engine.name)
        layer_times = (
            stack.enter_context(profiling_layers(backend, folder, target, on_progress)) if extras.anatomy else None
        )
        aside = layer_times.baselines if layer_times else ()
        measurements, notes = measure_engine(
            bundle, classifier, own, (*compiled_models, *baselines.ready, *aside), timing, on_progress
        )
        found = {m.name: m for m in measurements}
        layers = layer_times.layers(found[ENGINE].summary.median_ms) if layer_times else ()
        ceiling = layer_times.ceiling(found.get(CEILING)) if layer_times else None
    profile = Profile(
        bundle=bundle.manifest.name,
        manifest_sha256=sha256(bundle.path / MANIFEST),
        target=target,
        environment=here,
        precision_found=precision_found,
        accuracy=bundle.manifest.accuracy,
        verification=engine.verification,
        measurements=tuple(m for m in measurements if m.name not in (LAYERS, CEILING)),
        ratios=tuple(ratio(found[baseline.name], found[ENGINE]) for baseline in (*compiled_models, *baselines.ready)),
        alternatives=swept.alternatives,
        layers=layers,
        images_computed=layer_times.images_computed if layer_times else 1,
        profiling_overhead=ratio(found[LAYERS], found[ENGINE]) if layer_times else None,
        ceiling=ceiling,
        notes=(*notes, *lacking, *swept.notes, *(layer_times.notes if layer_times else ())),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if profile.beyond_ceiling:
        profile = profile.model_copy(update={"notes": (*profile.notes, _BEYOND.format(profile.beyond_ceiling))})
    _store(profile, bundle)
    forget_rounds(bundle, engine.name)
    if loads := measure_loads(LoadRun(bundle, target, own, timing, on_progress), extras.loads):
        profile = profile.model_copy(update={"loads": loads})
        _store(profile, bundle)
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
            advice="Profile it on such a machine, or choose a target for this one: rrr-edge targets",
        )


_BEYOND = (
    "Above 100% of the best that this machine was seen to reach: {}. That was found too low, or these parts are too "
    "short for the backend's clock."
)


def _store(profile: Profile, bundle: Bundle) -> None:
    with staged_folder(bundle.profile_folder(profile.target.engine_name)) as stage:
        profile.write(stage)


def _versions() -> dict[str, str]:
    """Of what runs beside the engine; of PyTorch only where it has been imported, for it is never imported here."""
    torch = {"torch": metadata.version("torch")} if "torch" in sys.modules else {}
    return {"rrr-edge": __version__, "pillow": metadata.version("pillow"), **torch}
