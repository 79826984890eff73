"""VERB 3: engines -> how long they take here, beside what else could have been run, in one process and in turns."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rrr_edge import __version__
from rrr_edge.backends import DeviceTimed, Images, Outputs, Session, backend_of
from rrr_edge.baseline import Against, Rival
from rrr_edge.bundle import MANIFEST, Bundle
from rrr_edge.dissection import CEILING, LAYERS, dissecting
from rrr_edge.errors import CannotRunHere, MissingLibrary
from rrr_edge.files import sha256, staged_folder, write_file
from rrr_edge.images import load
from rrr_edge.loads import FRAME_SIZE, JPEG_QUALITY, Bench, Loads, frames_of, measure_loads
from rrr_edge.machine import cpu_quota, governor, usable_cores
from rrr_edge.measured import ENGINE, ON_DEVICE, PARTS, PHOTO, PREDICT, Profile, part_name
from rrr_edge.measurement import (
    UNSTABLE_SPREAD,
    Environment,
    Measurement,
    Pace,
    Subject,
    interleave,
    ratio,
)
from rrr_edge.progress import Report, silent
from rrr_edge.report import files_of
from rrr_edge.rivals import compiled, running, shuffled_images, targets_beside
from rrr_edge.runtime import Classifier
from rrr_edge.sweep import Place, Swept, forget_rounds, measure_sweep
from rrr_edge.target import Target

_PHOTOS = 16


@dataclass(frozen=True)
class Extras:
    """What else is found out.

    For the `anatomy` the engine's layers are clocked, and large convolutions tell what this machine could do at best,
    in the same rounds as everything else. The `loads` come afterwards, one after the other.
    """

    anatomy: bool = False
    loads: Loads = field(default_factory=Loads)


def profile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    against: Against | None = None,
    pace: Pace | None = None,
    extras: Extras | None = None,
    report: Report = silent,
) -> Profile:
    """Time the compiled engine of `bundle` and what it is `against`; store and return what was found.

    All run interleaved in this process, on the bundle's reference images in shuffled order, with the target's number
    of threads (0: all usable cores). `against` names ONNX files with their cards, which are compiled by the same
    backend at fp32 and at the engine's precision and kept beside them, open sessions, and a sweep of sparsities, which
    is measured first: where that is interrupted, the same call goes on with it. What was timed is stored before the
    loads are measured, and again before anything is drawn, so nothing that fails later takes it away. A baseline for
    which a library is missing is left out with a note.

    Raises UsageError (not compiled), CannotRunHere (another machine than the target's; a baseline is missing),
    CorruptArtifact, MissingLibrary.
    """
    against, pace, extras = against or Against(), pace or Pace(), extras or Extras()
    target = Target.load(target) if isinstance(target, str) else target
    engine = bundle.engine(target)
    threads = target.threads or engine.target.threads or usable_cores()
    target = engine.target.model_copy(update={"threads": threads, "portability": target.portability})
    backend = backend_of(target)
    here = Environment.here(threads=target.threads, versions={**_versions(), **backend.versions()})
    demand_machine(target, here)
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
        if against.sweep:
            place = Place(bundle, target, backend, classifier.session, own, here)
            swept = measure_sweep(against.sweep, place, pace=pace, report=report)
        rivals, lacking = [], []
        for model, beside in product(against.models, targets_beside(target)):
            try:
                rivals.append(stack.enter_context(compiled(backend, model, bundle, beside, report)))
            except MissingLibrary as missing:
                lacking.append(f"The baseline in {beside.precision} was not measured: {missing} {missing.advice}")
        precision_found = classifier.session.precision_found()
        folder = bundle.engine_folder(engine.name)
        dissection = stack.enter_context(dissecting(backend, folder, target, report)) if extras.anatomy else None
        aside = dissection.rivals if dissection else ()
        measurements, notes = _measure(bundle, classifier, own, (*rivals, *against.rivals, *aside), pace, report)
        found = {m.name: m for m in measurements}
        layers = dissection.layers(found[ENGINE].summary.median_ms) if dissection else ()
        ceiling = dissection.ceiling(found.get(CEILING)) if dissection else None
    profile = Profile(
        bundle=bundle.manifest.name,
        manifest_sha256=sha256(bundle.path / MANIFEST),
        target=target,
        environment=here,
        precision_found=precision_found,
        accuracy=bundle.manifest.accuracy,
        verification=engine.verification,
        measurements=tuple(m for m in measurements if m.name not in (LAYERS, CEILING)),
        ratios=tuple(ratio(found[rival.name], found[ENGINE]) for rival in (*rivals, *against.rivals)),
        alternatives=swept.alternatives,
        layers=layers,
        images_computed=dissection.images_computed if dissection else 1,
        clocking=ratio(found[LAYERS], found[ENGINE]) if dissection else None,
        ceiling=ceiling,
        notes=(*notes, *lacking, *swept.notes, *(dissection.notes if dissection else ())),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if profile.beyond_ceiling:
        profile = profile.model_copy(update={"notes": (*profile.notes, _BEYOND.format(profile.beyond_ceiling))})
    _store(profile, bundle)
    forget_rounds(bundle, engine.name)
    if loads := measure_loads(Bench(bundle, target, own, pace, report), extras.loads):
        profile = profile.model_copy(update={"loads": loads})
        _store(profile, bundle)
    for name, text in files_of(bundle, profile).items():
        write_file(bundle.profile_folder(engine.name) / name, text)
    return profile


def demand_machine(target: Target, here: Environment) -> None:
    """Raise CannotRunHere unless this machine has the CPU and the GPU that the target names."""
    target.check_device()
    gpus = ", ".join(gpu.name for gpu in here.gpus) or "no NVIDIA GPU"
    if target.gpu.lower() not in gpus.lower():
        raise CannotRunHere(
            f"The target {target.name!r} is a {target.gpu!r} GPU; this machine has {gpus}.",
            advice="Profile it on such a machine, or choose a target for this one: rrr-edge targets",
        )


def _measure(
    bundle: Bundle, classifier: Classifier, own: Subject, rivals: tuple[Rival, ...], pace: Pace, report: Report
) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    images = shuffled_images(bundle)
    photo = _PhotoToAnswer(classifier, bundle, _photos(images[:_PHOTOS]), pace.clock)

    subjects = {ENGINE: own, PREDICT: own, PHOTO: own.model_copy(update={"note": _PHOTO_NOTE})}
    engine = _Engine(classifier.session, running(classifier.session, images))
    candidates: dict[str, Callable[[int], Any]] = {
        ENGINE: engine,
        PREDICT: lambda round_: classifier.predict(images[round_ % len(images)]),
        PHOTO: photo,
    }
    for rival in rivals:
        subjects[rival.name] = rival.subject
        candidates[rival.name] = running(rival.session, images)
    found = interleave(candidates, pace=pace, report=report)

    samples = found.samples_ms
    samples = {
        ENGINE: samples.pop(ENGINE),
        **engine.on_device_ms(pace.runs),
        PREDICT: samples.pop(PREDICT),
        PHOTO: samples.pop(PHOTO),
        **photo.parts_ms(pace.runs),
        **samples,
    }
    measurements = tuple(
        Measurement(name=name, subject=subjects.get(name, own), samples_ms=values, elsewhere=found.elsewhere)
        for name, values in samples.items()
    )
    return measurements, _doubts(measurements, found.restless)


class _Engine:
    """The engine, and what its runs took by its device's own clock, if it has one."""

    def __init__(self, session: Session, run: Callable[[int], Any]) -> None:
        self._device = session if isinstance(session, DeviceTimed) else None
        self._run = run
        self._device_ms: dict[int, float] = {}

    def __call__(self, round_: int) -> None:
        self._run(round_)
        if self._device is not None:
            # The timed run is the last of its round.
            self._device_ms[round_] = self._device.device_ms

    def on_device_ms(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """The timed runs, by the name of their measurement."""
        return {ON_DEVICE: tuple(self._device_ms[round_] for round_ in range(rounds))} if self._device_ms else {}


class _PhotoToAnswer:
    """What `Classifier.predict(jpeg)` does, with the clock read between its parts."""

    def __init__(self, classifier: Classifier, bundle: Bundle, photos: list[bytes], clock: Callable[[], int]) -> None:
        self._session = _Stopwatch(classifier.session, clock)
        self._classifier = Classifier(self._session, bundle.manifest, batch=classifier.batch)
        self._photos = photos
        self._clock = clock
        self._stamps: dict[int, tuple[int, ...]] = {}

    def __call__(self, round_: int) -> None:
        start = self._clock()
        frame = load(self._photos[round_ % len(self._photos)])
        decoded = self._clock()
        self._classifier.predict(frame)
        # The timed run is the last of its round.
        self._stamps[round_] = (start, decoded, self._session.started, self._session.ended, self._clock())

    def parts_ms(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """The parts of the timed runs, by the names of their measurements."""
        timed = np.array([self._stamps[round_] for round_ in range(rounds)])
        parts = np.diff(timed, axis=1).T / 1e6
        return {part_name(part): tuple(values.tolist()) for part, values in zip(PARTS, parts, strict=True)}


class _Stopwatch:
    """A session that notes when its last run began and ended."""

    def __init__(self, session: Session, clock: Callable[[], int]) -> None:
        self._session = session
        self._clock = clock
        self.started = self.ended = 0

    def run(self, images: Images) -> Outputs:
        self.started = self._clock()
        outputs = self._session.run(images)
        self.ended = self._clock()
        return outputs

    def precision_found(self) -> dict[str, float]:
        return self._session.precision_found()

    def close(self) -> None:
        self._session.close()


_BEYOND = (
    "Above 100% of the best that this machine was seen to reach: {}. That was found too low, or these parts are too "
    "short for the backend's clock."
)
_PHOTO_NOTE = (
    f"from a {FRAME_SIZE[0]}x{FRAME_SIZE[1]} JPEG of quality {JPEG_QUALITY}, made by scaling a reference image up"
)


def _photos(images: NDArray[np.uint8]) -> list[bytes]:
    photos = []
    for frame in frames_of(images):
        file = io.BytesIO()
        frame.save(file, "JPEG", quality=JPEG_QUALITY)
        photos.append(file.getvalue())
    return photos


def _doubts(measurements: tuple[Measurement, ...], restless: tuple[str, ...]) -> tuple[str, ...]:
    """What makes these times less than trustworthy, and what to do about it."""
    unstable = [f"{m.name} ({m.summary.spread:.0%})" for m in measurements if m.summary.spread > UNSTABLE_SPREAD]
    doubts = []
    if crowded := measurements[0].crowded:
        doubts.append(f"Unstable: {crowded}.")
    if unstable:
        doubts.append(f"Unstable, by the spread of the middle half over the median: {', '.join(unstable)}.")
    if restless:
        doubts.append(f"Still drifting when their warm-up ended: {', '.join(restless)}.")
    if doubts:
        advice = ["stop other programs", "let the machine cool", "measure more runs"]
        if governor() not in ("performance", "unknown"):
            advice.insert(1, f"set the CPU's governor, now {governor()!r}, to 'performance'")
        if cpu_quota():
            advice.insert(1, "give the container whole cores instead of a quota")
        doubts.append(
            f"What helps: {', '.join(advice)}. Ratios suffer less than times, as all ran in turns, but "
            "their intervals are this run's: another run may lie outside."
        )
    return tuple(doubts)


def _store(profile: Profile, bundle: Bundle) -> None:
    with staged_folder(bundle.profile_folder(profile.target.engine_name)) as stage:
        profile.write(stage)


def _versions() -> dict[str, str]:
    """Of what runs beside the engine; of PyTorch only where it has been imported, for it is never imported here."""
    torch = {"torch": metadata.version("torch")} if "torch" in sys.modules else {}
    return {"rrr-edge": __version__, "pillow": metadata.version("pillow"), **torch}
