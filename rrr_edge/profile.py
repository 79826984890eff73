"""VERB 3: engines -> how long they take here, beside what else could have been run, in one process and in turns."""

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from rrr_edge import __version__
from rrr_edge.anatomy import Alternative, Ceiling, LayerTime, Load
from rrr_edge.backends import Backend, Images, Outputs, Session, backend_of
from rrr_edge.baseline import LATENCY_ONLY, Against, Baseline, Rival
from rrr_edge.bundle import MANIFEST, PROFILE, SCHEMA, Accuracy, Bundle, FileEntry, Verification, describe_file
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact
from rrr_edge.files import sha256, staged_folder
from rrr_edge.images import load
from rrr_edge.machine import cpu_quota, governor, usable_cores
from rrr_edge.measurement import Environment, Measurement, Pace, Ratio, Subject, interleave, ratio
from rrr_edge.plots import draw_latency
from rrr_edge.progress import Report, Step, silent
from rrr_edge.record import Record
from rrr_edge.runtime import Classifier
from rrr_edge.target import Precision, Target
from rrr_edge.verification import demand_precision

SAMPLES = "samples.csv"
PLOT = "latency.svg"

ENGINE = "engine"
PREDICT = "Classifier.predict"
PHOTO = "photo to answer"
PARTS = ("decode", "resize", "inference", "post")

_PHOTO_SIZE = (1280, 720)
_PHOTO_QUALITY = 90
_PHOTOS = 16
_CALIBRATION_IMAGES = 32


class Profile(Record):
    """How long an engine takes on one machine, and beside what; `ratios` are of each baseline to the engine.

    The measurement "engine" is `Session.run` of one image; "Classifier.predict" the same with a ready frame; "photo
    to answer" starts from a JPEG of 1280x720, and its parts are those of the very same runs.
    """

    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge profile"] = "rrr-edge profile"
    bundle: str
    manifest_sha256: str
    target: Target
    environment: Environment
    precision_found: dict[str, float]
    accuracy: Accuracy | None
    verification: Verification
    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    alternatives: tuple[Alternative, ...] = ()
    loads: tuple[Load, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    ceiling: Ceiling | None = None
    notes: tuple[str, ...]
    created: str

    @property
    def engine(self) -> Measurement:
        return self.measurement(ENGINE)

    @property
    def baselines(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.name not in (ENGINE, PREDICT, PHOTO, *map(part_name, PARTS)))

    @property
    def everything(self) -> tuple[Measurement, ...]:
        """All that was timed, each under a name of its own."""
        alternatives, loads = (
            (part.measurement for part in self.alternatives),
            (part.measurement for part in self.loads),
        )
        return (*self.measurements, *alternatives, *loads)

    def measurement(self, name: str) -> Measurement:
        return next(m for m in self.measurements if m.name == name)

    def table(self) -> tuple[tuple[str, ...], ...]:
        """A header and a row for each measurement, as words to be printed."""
        ratios = {r.of: f"{r.value:.1f}  {r.interval[0]:.1f} to {r.interval[1]:.1f}" for r in self.ratios}
        accuracy = f"{self.verification.accuracy:.1%}" if self.accuracy else ""
        return (
            _HEADER,
            *(_row(m, ratios.get(m.name, ""), accuracy if m.name == ENGINE else "") for m in self.measurements),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Load what `profile_bundle` wrote, samples included. Raises BadInput or CorruptArtifact."""
        samples = _read_samples(folder / SAMPLES)
        try:
            data = json.loads((folder / PROFILE).read_text("utf-8"))
            nested = [m["measurement"] for part in ("alternatives", "loads") for m in data.get(part, ())]
            stored = [*data["measurements"], *nested]
            summaries = {m["name"]: m.pop("summary") for m in stored}
            for measurement in stored:
                measurement["samples_ms"] = samples.get(measurement["name"], ())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{folder / PROFILE} cannot be read: {error}.") from error
        profile = cls.parse(data, str(folder / PROFILE))
        for measurement in profile.everything:
            # Not the bootstrap: another NumPy may draw differently.
            found, said = measurement.summary, summaries[measurement.name]
            if (found.runs, found.median_ms, found.min_ms) != (said["runs"], said["median_ms"], said["min_ms"]):
                raise CorruptArtifact(
                    f"The samples of {measurement.name!r} in {folder / SAMPLES} are not those that {PROFILE} sums up.",
                    advice="Run rrr-edge profile again.",
                )
        return profile


def profile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    against: Against | None = None,
    pace: Pace | None = None,
    report: Report = silent,
) -> Profile:
    """Time the compiled engine of `bundle` and what it is `against`; store and return what was found.

    All run interleaved in this process, on the bundle's reference images in shuffled order, with the target's number
    of threads (0: all usable cores). `against` names ONNX files with their cards, which are compiled by the same
    backend at fp32 and at the engine's precision and kept beside them, and open sessions.

    Raises UsageError (not compiled), CannotRunHere (another machine than the target's; a baseline is missing),
    CorruptArtifact, MissingLibrary.
    """
    against, pace = against or Against(), pace or Pace()
    target = Target.load(target) if isinstance(target, str) else target
    engine = bundle.engine(target.model_copy(update={"precision": precision or target.precision}))
    target = engine.target.model_copy(update={"threads": target.threads or engine.target.threads or usable_cores()})
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
        rivals = [
            stack.enter_context(_compiled(backend, model, bundle, rival_target, report))
            for model in against.models
            for rival_target in _targets(target)
        ]
        precision_found = classifier.session.precision_found()
        measurements, notes = _measure(bundle, classifier, own, (*rivals, *against.rivals), pace, report)
    found = {m.name: m for m in measurements}
    profile = Profile(
        bundle=bundle.manifest.name,
        manifest_sha256=sha256(bundle.path / MANIFEST),
        target=target,
        environment=here,
        precision_found=precision_found,
        accuracy=bundle.manifest.accuracy,
        verification=engine.verification,
        measurements=measurements,
        ratios=tuple(ratio(found[rival.name], found[ENGINE]) for rival in (*rivals, *against.rivals)),
        notes=notes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    _write(profile, bundle.profile_folder(engine.name))
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


def part_name(part: str) -> str:
    return f"{PHOTO}: {part}"


def _targets(target: Target) -> list[Target]:
    precisions: dict[Precision, None] = {"fp32": None, target.precision: None}
    return [target.model_copy(update={"precision": precision}) for precision in precisions]


_COMPILED = "compiled.json"


class _Compiled(Record):
    """Beside a compiled baseline: what it was made from, and what was made; made again when either changes."""

    model_sha256: str
    target: Target
    versions: dict[str, str]
    files: tuple[FileEntry, ...] = ()

    def made(self, folder: Path) -> Self:
        """With the files that lie in `folder`."""
        found = sorted(file for file in folder.iterdir() if file.name != _COMPILED)
        return self.model_copy(update={"files": tuple(map(describe_file, found))})


@contextmanager
def _compiled(backend: Backend, model: Path, bundle: Bundle, target: Target, report: Report) -> Iterator[Rival]:
    """The baseline `model` for `target`, compiled unless that has been done before; INT8 ranges come from 32 images."""
    card = Baseline.read(model)
    made_from = _Compiled(
        model_sha256=card.model.sha256,
        target=target.model_copy(update={"threads": 0}),
        versions=backend.versions(),
    )
    folder = model.parent / f"{model.stem}-{target.engine_name}"
    stamp = folder / _COMPILED
    if not (stamp.is_file() and stamp.read_text("utf-8") == made_from.made(folder).to_json()):
        report(Step("build", 0, 1, f"{card.name} {target.precision}"))
        backend.check(target)
        with staged_folder(folder) as stage:
            backend.compile(model, target, bundle.calibration[:_CALIBRATION_IMAGES], stage, report)
            (stage / stamp.name).write_text(made_from.made(stage).to_json(), "utf-8")
    session = backend.open(folder, target)
    try:
        found = session.precision_found()
        demand_precision(target.precision, found, what=f"the baseline {card.name}", so="it is not measured")
        subject = Subject(
            backend=target.backend,
            precision=target.precision,
            threads=target.threads,
            params=card.params,
            macs=card.macs,
            size_mb=sum(file.stat().st_size for file in folder.iterdir() if file != stamp) / 1e6,
            note=LATENCY_ONLY,
        )
        yield Rival(f"{card.name}, {target.backend} {target.precision}", session, subject)
    finally:
        session.close()


def _measure(
    bundle: Bundle, classifier: Classifier, own: Subject, rivals: tuple[Rival, ...], pace: Pace, report: Report
) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    images = bundle.reference.images
    images = images[np.random.default_rng(0).permutation(len(images))]
    photo = _PhotoToAnswer(classifier, bundle, _photos(images[:_PHOTOS]), pace.clock)

    def running(session: Session) -> Callable[[int], Any]:
        return lambda round_: session.run(images[(i := round_ % len(images)) : i + 1])

    subjects = {ENGINE: own, PREDICT: own, PHOTO: own.model_copy(update={"note": _PHOTO_NOTE})}
    candidates: dict[str, Callable[[int], Any]] = {
        ENGINE: running(classifier.session),
        PREDICT: lambda round_: classifier.predict(images[round_ % len(images)]),
        PHOTO: photo,
    }
    for rival in rivals:
        subjects[rival.name] = rival.subject
        candidates[rival.name] = running(rival.session)
    found = interleave(candidates, pace=pace, report=report)

    samples = found.samples_ms
    samples = {
        ENGINE: samples.pop(ENGINE),
        PREDICT: samples.pop(PREDICT),
        PHOTO: samples.pop(PHOTO),
        **photo.parts_ms(pace.runs),
        **samples,
    }
    measurements = tuple(
        Measurement(name=name, subject=subjects.get(name, own), samples_ms=values) for name, values in samples.items()
    )
    return measurements, _doubts(measurements, found.restless)


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


_PHOTO_NOTE = (
    f"from a {_PHOTO_SIZE[0]}x{_PHOTO_SIZE[1]} JPEG of quality {_PHOTO_QUALITY}, made by scaling a reference image up"
)


def _photos(images: NDArray[np.uint8]) -> list[bytes]:
    photos = []
    for image in images:
        file = io.BytesIO()
        picture = Image.fromarray(image).resize(_PHOTO_SIZE, Image.Resampling.BICUBIC)
        picture.save(file, "JPEG", quality=_PHOTO_QUALITY)
        photos.append(file.getvalue())
    return photos


def _doubts(measurements: tuple[Measurement, ...], restless: tuple[str, ...]) -> tuple[str, ...]:
    """What makes these times less than trustworthy, and what to do about it."""
    unstable = [f"{m.name} ({m.summary.spread:.0%})" for m in measurements if m.summary.unstable]
    doubts = []
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
        doubts.append(f"What helps: {', '.join(advice)}. Ratios suffer less than times, as all ran in turns.")
    return tuple(doubts)


_HEADER = ("", "median ms", "95 % interval", "times the engine's", "photos/s", "MB", "params", "MACs", "accuracy")


def _row(measurement: Measurement, times: str, accuracy: str) -> tuple[str, ...]:
    """Parts are indented and have times alone; a tilde marks what was unstable."""
    subject, summary = measurement.subject, measurement.summary
    low, high = summary.median_interval_ms
    median = f"{'~' if summary.unstable else ''}{summary.median_ms:.3f}"
    interval = f"{low:.3f} to {high:.3f}"
    if measurement.name in map(part_name, PARTS):
        return (f"  {measurement.name.removeprefix(PHOTO + ': ')}", median, interval, *("",) * 6)
    return (
        f"{ENGINE}, {subject.backend} {subject.precision}" if measurement.name == ENGINE else measurement.name,
        median,
        interval,
        times,
        f"{measurement.images_per_second:,.0f}",
        f"{subject.size_mb:.1f}" if subject.size_mb is not None else "",
        f"{subject.params / 1e6:.2f} M" if subject.params is not None else "",
        f"{subject.macs / 1e6:,.0f} M" if subject.macs is not None else "",
        accuracy,
    )


def _write(profile: Profile, folder: Path) -> None:
    with staged_folder(folder) as stage:
        with (stage / SAMPLES).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("candidate", "round", "ms"))
            for m in profile.everything:
                rows.writerows((m.name, round_, repr(ms)) for round_, ms in enumerate(m.samples_ms))
        (stage / PLOT).write_text(_plot(profile), "utf-8")
        (stage / PROFILE).write_text(profile.to_json(), "utf-8")


def _plot(profile: Profile) -> str:
    shown = [profile.engine, profile.measurement(PREDICT), profile.measurement(PHOTO), *profile.baselines]
    target, here = profile.target, profile.environment
    return draw_latency(
        shown,
        title=f"{profile.bundle}, {target.name} {target.precision}, {target.threads} threads, {here.cpu}",
        engine=ENGINE,
        remarks={r.of: f"({r.value:.1f} x)" for r in profile.ratios},
    )


def _read_samples(path: Path) -> dict[str, tuple[float, ...]]:
    samples: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                samples.setdefault(row["candidate"], []).append(float(row["ms"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    return {name: tuple(values) for name, values in samples.items()}


def _versions() -> dict[str, str]:
    """Of what runs beside the engine; of PyTorch only where it has been imported, for it is never imported here."""
    torch = {"torch": metadata.version("torch")} if "torch" in sys.modules else {}
    return {"rrr-edge": __version__, "pillow": metadata.version("pillow"), **torch}
