"""Measurements of the engine, and of the path from a photo to its answer."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rrr_edge.backends import DeviceTimed, Session
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import UNSTABLE_SPREAD, Measurement
from rrr_edge.bundle.profile import ENGINE, ON_DEVICE, PARTS, PHOTO, PREDICT, part_name
from rrr_edge.profile.frames import FRAME_SIZE, JPEG_QUALITY, frames_of
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.profile.run import ProfileRun
from rrr_edge.profile.timed import TimedSession
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import interleave
from rrr_edge.timing.machine import cpu_quota, governor
from rrr_edge.timing.quiet import is_quiet

_PHOTOS = 16


def measure_engine(
    run: ProfileRun, classifier: Classifier, baselines: tuple[Baseline, ...]
) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """Time the engine, `classifier` on frames and on photos, and the `baselines`, interleaved; with notes of doubt."""
    own, timing, images = run.subject, run.timing, shuffled_images(run.bundle)
    photo = _PhotoToAnswer(classifier, run.bundle, _photos(images[:_PHOTOS]), timing.clock)

    subjects = {ENGINE: own, PREDICT: own, PHOTO: own.model_copy(update={"note": _PHOTO_NOTE})}
    engine = _Engine(classifier.session, running(classifier.session, images))
    candidates: dict[str, Callable[[int], Any]] = {
        ENGINE: engine,
        PREDICT: lambda round_: classifier.predict(images[round_ % len(images)]),
        PHOTO: photo,
    }
    for baseline in baselines:
        subjects[baseline.name] = baseline.subject
        candidates[baseline.name] = running(baseline.session, images)
    found = interleave(candidates, timing=timing, on_progress=run.on_progress)

    samples, rounds = dict(found.samples_ms), len(found.loads)
    samples = {
        ENGINE: samples.pop(ENGINE),
        **engine.on_device_ms(rounds),
        PREDICT: samples.pop(PREDICT),
        PHOTO: samples.pop(PHOTO),
        **photo.parts_ms(rounds),
        **samples,
    }
    measurements = tuple(
        Measurement(
            name=name,
            subject=subjects.get(name, own),
            samples_ms=values,
            cpu_ms=found.cpu_ms.get(name, ()),
            loads=found.loads,
            background_load=found.background_load,
        )
        for name, values in samples.items()
    )
    return measurements, _doubts(measurements, found.unsettled, asked=timing.runs)


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
        self._session = TimedSession(classifier.session, clock)
        self._classifier = Classifier(self._session, bundle.manifest, batch=classifier.batch)
        self._photos = photos
        self._clock = clock
        self._stamps: dict[int, tuple[int, ...]] = {}

    def __call__(self, round_: int) -> None:
        start = self._clock()
        frame = self._classifier.preprocess.load(self._photos[round_ % len(self._photos)])
        decoded = self._clock()
        self._classifier.predict(frame)
        # The timed run is the last of its round.
        self._stamps[round_] = (start, decoded, self._session.started, self._session.ended, self._clock())

    def parts_ms(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """The parts of the timed runs, by the names of their measurements."""
        timed = np.array([self._stamps[round_] for round_ in range(rounds)])
        parts = np.diff(timed, axis=1).T / 1e6
        return {part_name(part): tuple(values.tolist()) for part, values in zip(PARTS, parts, strict=True)}


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


def _doubts(measurements: tuple[Measurement, ...], unsettled: tuple[str, ...], *, asked: int) -> tuple[str, ...]:
    """Which rounds count, what makes these times less than trustworthy, and what to do about it."""
    engine = measurements[0]
    unstable = [f"{m.name} ({m.summary.spread:.0%})" for m in measurements if m.summary.spread > UNSTABLE_SPREAD]
    rounds, quiet = len(engine.loads), sum(map(is_quiet, engine.loads))
    counted = f"{quiet} of {rounds} rounds were quiet (others took at most a tenth of a core)"
    doubts = []
    if any(load is None for load in engine.loads):
        doubts.append(
            "What other programs took meanwhile is not known, as always for less than a second of rounds: all count as "
            "quiet."
        )
    if rounds < asked:
        doubts.append(f"Stopped after {rounds} rounds instead of {asked}, because none was quiet.")
    if engine.disturbed:
        doubts.append(f"Too busy a machine for ratios: {engine.disturbed}, and {counted}. Times are of all rounds.")
    elif quiet < rounds:
        doubts.append(f"{counted}; all that is said is of these.")
    if unstable:
        doubts.append(f"Unstable, by the spread of the middle half over the median: {', '.join(unstable)}.")
    if unsettled:
        doubts.append(f"Still drifting when their warm-up ended: {', '.join(unsettled)}.")
    if engine.disturbed or unstable or unsettled:
        advice = ["stop other programs", "wait until they end (--patience 10)", "let the machine cool"]
        if governor() not in ("performance", "unknown"):
            advice.insert(1, f"set the CPU's governor, now {governor()!r}, to 'performance'")
        if cpu_quota():
            advice.insert(1, "give the container whole cores instead of a quota")
        doubts.append(f"What helps: {', '.join(advice)}.")
    return tuple(doubts)
