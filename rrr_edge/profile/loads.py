"""An engine under the loads of real life: a camera's pace, a fresh process, batches, several streams at once."""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Timer

import numpy as np
from PIL import Image

from rrr_edge.backends import Session, backend_of
from rrr_edge.backends.build import build_unproven
from rrr_edge.bundle.baseline import BASELINE_CALIBRATION_IMAGES
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Load, Measurement, Subject
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import require_precision
from rrr_edge.errors import CannotRunHere, UsageError
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.progress import OnProgress, Step, silent

FRAME_SIZE = (1280, 720)
JPEG_QUALITY = 90

_FRAMES = 16
_WINDOWS = 6
_WINDOW_S = 0.5
_PATIENCE_S = 300
# Backends that keep compiled models in the user's cache folder.
_CACHING = ("openvino",)


@dataclass(frozen=True)
class Loads:
    """What is asked: `fps` frames a second (0: not), `cold_starts` processes of each kind, batch sizes, streams."""

    fps: float = 0
    cold_starts: int = 0
    batches: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.fps < math.inf:
            raise UsageError(f"--pace is a number of frames a second such as 25, not {self.fps:g}.")


@dataclass(frozen=True)
class LoadRun:
    """The engine of `bundle` for `target`, whose threads are a number, and how long to measure."""

    bundle: Bundle
    target: Target
    subject: Subject
    timing: TimingSettings
    on_progress: OnProgress = silent

    @property
    def folder(self) -> Path:
        return self.bundle.engine_folder(self.target.engine_name)

    def measurement(
        self, name: str, samples_ms: Sequence[float], note: str, background_load: float | None = None
    ) -> Measurement:
        subject = self.subject.model_copy(update={"note": note})
        return Measurement(name=name, subject=subject, samples_ms=tuple(samples_ms), background_load=background_load)


def measure_loads(load_run: LoadRun, loads: Loads) -> tuple[Load, ...]:
    """Raises CannotRunHere where a fresh process gives no answer, and what compiling and opening engines raise."""
    return (
        *(_paced(load_run, loads.fps) if loads.fps else ()),
        *(_cold_starts(load_run, loads.cold_starts) if loads.cold_starts else ()),
        *(_batches(load_run, loads.batches) if loads.batches else ()),
        *(_streams(load_run, loads.streams) if loads.streams else ()),
    )


def _paced(load_run: LoadRun, fps: float) -> Iterator[Load]:
    """Frames come by the clock; the app sleeps until the next, and after a delay takes the newest."""
    frames = [np.asarray(frame) for frame in frames_of(load_run.bundle.reference.images[:_FRAMES])]
    target = load_run.target
    with Classifier.open(
        load_run.bundle.path, target, precision=target.precision, threads=target.threads
    ) as classifier:
        for frame in frames:
            classifier.predict(frame)
        answers, dropped = keep_pace(lambda index: classifier.predict(frames[index % len(frames)]), fps, load_run)
    late = sum(ms > 1000 / fps for ms in answers)
    note = "a ready 1280x720 frame to the answer, with the wait while an older frame is answered"
    yield Load(
        kind="paced",
        setting=fps,
        measurement=load_run.measurement(f"paced, {fps:g} frames/s", answers, note),
        images_per_second=fps * len(answers) / (len(answers) + dropped),
        late=late,
        dropped=dropped,
    )


def keep_pace(
    answer: Callable[[int], object], fps: float, load_run: LoadRun, sleep: Callable[[float], None] = time.sleep
) -> tuple[list[float], int]:
    """The ms from each answered frame's arrival to its answer, and how many frames of `bench.timing.runs` were dropped.

    Frame i arrives i/fps seconds after the first.
    """
    clock, period = load_run.timing.clock, 1e9 / fps
    answers: list[float] = []
    dropped, frame = 0, 0
    start = clock() + period
    while frame < load_run.timing.runs:
        while (early := start + frame * period - clock()) > 0:
            sleep(early / 1e9)
        newest = min(int((clock() - start) / period), load_run.timing.runs - 1)
        dropped += newest - frame
        answer(newest)
        answers.append((clock() - start - newest * period) / 1e6)
        frame = newest + 1
        load_run.on_progress(Step("paced", frame, load_run.timing.runs))
    return answers, dropped


_CHILD = """
import sys
from rrr_edge import Classifier, Target
bundle, target, photo = sys.argv[1:]
target = Target.model_validate_json(target)
with Classifier.open(bundle, target, precision=target.precision, threads=target.threads) as classifier:
    print(classifier.predict(photo).index, flush=True)
    sys.stdin.read()
"""


def _cold_starts(load_run: LoadRun, count: int) -> Iterator[Load]:
    """Fresh processes in turns; files stay in memory.

    Where the backend keeps compiled models, they start with an empty and with a filled cache of these.
    """
    notes = {"": "process start to first answer"}
    if load_run.target.backend in _CACHING:
        notes = {
            ", empty cache": "process start to first answer, no compiled model in the backend's cache",
            ", filled cache": "process start to first answer, the backend's cache has the compiled model",
        }
    samples: dict[str, list[float]] = {name: [] for name in notes}
    with tempfile.TemporaryDirectory(prefix="rrr-edge-") as work:
        photo = Path(work) / "photo.jpg"
        next(frames_of(load_run.bundle.reference.images)).save(photo, quality=JPEG_QUALITY)
        filled = Path(work) / "filled"
        _first_answer_ms(load_run, photo, filled)
        for round_ in range(count):
            for name in sorted(notes, reverse=bool(round_ % 2)):
                cache = Path(work) / f"empty-{round_}" if "empty" in name else filled
                samples[name].append(_first_answer_ms(load_run, photo, cache))
            load_run.on_progress(Step("cold start", round_ + 1, count))
    for name, note in notes.items():
        measurement = load_run.measurement(f"cold start{name}", samples[name], note)
        rate = measurement.images_per_second
        yield Load(kind="cold start", setting=0, measurement=measurement, images_per_second=rate)


def _first_answer_ms(load_run: LoadRun, photo: Path, cache: Path) -> float:
    """Raises CannotRunHere where none comes."""
    command = [sys.executable, "-c", _CHILD, str(load_run.bundle.path), load_run.target.model_dump_json(), str(photo)]
    # Its complaints go to a file: a pipe that nobody reads would stop it when full.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        start = load_run.timing.clock()
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        ) as child:
            assert child.stdout is not None
            # A process that hangs is killed, which ends the wait for its line.
            patience = Timer(_PATIENCE_S, child.kill)
            patience.start()
            try:
                answer = child.stdout.readline()
                ms = (load_run.timing.clock() - start) / 1e6
                child.communicate()
            finally:
                patience.cancel()
        complaints.seek(0)
        said = complaints.read().strip().splitlines()[-1:] or ["nothing"]
    if not answer.strip():
        raise CannotRunHere(f"A fresh process gave no answer (it has {_PATIENCE_S} s); it said: {said[0]}")
    return ms


def _batches(load_run: LoadRun, sizes: Sequence[int]) -> Iterator[Load]:
    """Interleaved; an engine of another size than the target's is compiled from model.onnx for its time only."""
    with ExitStack() as stack:
        sessions = {size: stack.enter_context(_engine_of(load_run, size)) for size in sizes}
        images = {size: np.resize(load_run.bundle.reference.images, (size, *_shape(load_run.bundle))) for size in sizes}

        def running(size: int) -> Callable[[int], object]:
            return lambda round_: sessions[size].run(images[size])

        found = interleave(
            {str(size): running(size) for size in sizes}, timing=load_run.timing, on_progress=load_run.on_progress
        )
    for size in sizes:
        own = size == load_run.target.batch
        note = "the bundle's engine" if own else "compiled for this batch from model.onnx, for its time only"
        measurement = load_run.measurement(f"batch of {size}", found.samples_ms[str(size)], note, found.background_load)
        rate = size * measurement.images_per_second
        yield Load(kind="batch", setting=size, measurement=measurement, images_per_second=rate)


@contextmanager
def _engine_of(load_run: LoadRun, size: int) -> Iterator[Session]:
    target = load_run.target.model_copy(update={"batch": size})
    with tempfile.TemporaryDirectory(prefix="rrr-edge-") as work:
        folder = load_run.folder
        if size != load_run.target.batch:
            folder = Path(work) / "engine"
            folder.mkdir()
            load_run.on_progress(Step("build", 0, 1, f"batch of {size}"))
            calibration = load_run.bundle.calibration[:BASELINE_CALIBRATION_IMAGES]
            lowering = load_run.bundle.engine(load_run.target).lowering
            build_unproven(
                load_run.bundle.model, target, calibration, folder, lowering=lowering, on_progress=load_run.on_progress
            )
        session = backend_of(target).open(folder, target)
        try:
            if folder != load_run.folder:  # the bundle's own engine has been proven
                found = session.precision_found()
                require_precision(target.precision, found, what=f"the batch of {size}", so="it is not measured")
            yield session
        finally:
            session.close()


def _streams(load_run: LoadRun, counts: Sequence[int]) -> Iterator[Load]:
    """So many sessions answer at once, each in a thread of its own; the engine's threads are shared out among them."""
    samples: dict[int, list[float]] = {count: [] for count in counts}
    spent_s = dict.fromkeys(counts, 0.0)
    threads = {count: max(1, load_run.target.threads // count) for count in counts}
    with ExitStack() as stack:
        sessions = {}
        for count in counts:
            target = load_run.target.model_copy(update={"threads": threads[count]})
            opened = [backend_of(target).open(load_run.folder, target) for _ in range(count)]
            sessions[count] = opened
            for session in opened:
                stack.callback(session.close)
            _all_at_once(opened, load_run, _WINDOW_S / 2)
        for window in range(_WINDOWS):
            for count in sorted(counts, reverse=bool(window % 2)):
                ms, took_s = _all_at_once(sessions[count], load_run, _WINDOW_S)
                samples[count] += ms
                spent_s[count] += took_s
            load_run.on_progress(Step("streams", window + 1, _WINDOWS))
    for count in counts:
        note = f"{count} x a session of {threads[count]} threads, at once"
        yield Load(
            kind="streams",
            setting=count,
            measurement=load_run.measurement(f"streams: {count}", samples[count], note),
            images_per_second=len(samples[count]) / spent_s[count],
        )


def _all_at_once(sessions: Sequence[Session], load_run: LoadRun, seconds: float) -> tuple[list[float], float]:
    """The ms of every answer that the sessions give within so many seconds, and the seconds that it took."""
    clock, images = load_run.timing.clock, load_run.bundle.reference.images
    begin = clock()

    def work(session: Session) -> list[float]:
        stamps = [clock()]
        while stamps[-1] - begin < seconds * 1e9:
            image = len(stamps) % len(images)
            session.run(images[image : image + 1])
            stamps.append(clock())
        return [(after - before) / 1e6 for before, after in pairwise(stamps)]

    with ThreadPoolExecutor(len(sessions)) as pool:
        samples = [ms for own in pool.map(work, sessions) for ms in own]
    return samples, (clock() - begin) / 1e9


def frames_of(images: Images) -> Iterator[Image.Image]:
    """What a camera might have sent: each of the images scaled up."""
    for image in images:
        yield Image.fromarray(image).resize(FRAME_SIZE, Image.Resampling.BICUBIC)


def _shape(bundle: Bundle) -> tuple[int, ...]:
    return bundle.reference.images.shape[1:]
