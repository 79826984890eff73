"""Loads other than one image after the other: a camera's timing, fresh processes, batches, several streams at once."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rrr_edge.backends import Session, backend_of
from rrr_edge.backends.build import build_unproven
from rrr_edge.backends.graph.lowering import lowered
from rrr_edge.bundle.baseline import BASELINE_CALIBRATION_IMAGES
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Load
from rrr_edge.bundle.verification import require_precision
from rrr_edge.errors import UsageError, counted
from rrr_edge.profile.cold_start import cold_starts
from rrr_edge.profile.frames import frames_of
from rrr_edge.profile.run import ProfileRun
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import interleave
from rrr_edge.timing.machine import BackgroundLoad
from rrr_edge.timing.progress import Step

_FRAMES = 16
_WINDOWS = 6
_WINDOW_S = 0.5


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


def measure_loads(run: ProfileRun, loads: Loads) -> tuple[Load, ...]:
    """Raises CannotRunHere where a fresh process gives no answer, and what compiling and opening engines raise."""
    return (
        *(_paced(run, loads.fps) if loads.fps else ()),
        *(cold_starts(run, loads.cold_starts) if loads.cold_starts else ()),
        *(_batches(run, loads.batches) if loads.batches else ()),
        *(_streams(run, loads.streams) if loads.streams else ()),
    )


def _paced(run: ProfileRun, fps: float) -> Iterator[Load]:
    """Frames come by the clock; the app sleeps until the next, and after a delay takes the newest."""
    frames = [np.asarray(frame) for frame in frames_of(run.bundle.reference.images[:_FRAMES])]
    target = run.target
    with Classifier.open(run.bundle.path, target, precision=target.precision, threads=target.threads) as classifier:
        for frame in frames:
            classifier.predict(frame)
        others = BackgroundLoad()
        answers, dropped = keep_pace(lambda index: classifier.predict(frames[index % len(frames)]), fps, run)
        share = others.share
    late = sum(ms > 1000 / fps for ms in answers)
    note = "a ready 1280x720 frame to the answer, with the wait while an older frame is answered"
    yield Load(
        kind="paced",
        setting=fps,
        measurement=run.measurement(f"paced, {fps:g} frames/s", answers, note, share),
        images_per_second=fps * len(answers) / (len(answers) + dropped),
        late=late,
        dropped=dropped,
    )


def keep_pace(
    answer: Callable[[int], object], fps: float, run: ProfileRun, sleep: Callable[[float], None] = time.sleep
) -> tuple[list[float], int]:
    """The ms from each answered frame's arrival to its answer, and how many frames of `run.timing.runs` were dropped.

    Frame i arrives i/fps seconds after the first.
    """
    clock, period = run.timing.clock, 1e9 / fps
    answers: list[float] = []
    dropped, frame = 0, 0
    start = clock() + period
    while frame < run.timing.runs:
        while (early := start + frame * period - clock()) > 0:
            sleep(early / 1e9)
        newest = min(int((clock() - start) / period), run.timing.runs - 1)
        dropped += newest - frame
        answer(newest)
        answers.append((clock() - start - newest * period) / 1e6)
        frame = newest + 1
        run.on_progress(Step("paced", frame, run.timing.runs))
    return answers, dropped


def _batches(run: ProfileRun, sizes: Sequence[int]) -> Iterator[Load]:
    """Interleaved; an engine of another size than the target's is compiled from model.onnx for its time only."""
    with ExitStack() as stack:
        sessions = {size: stack.enter_context(_engine_of(run, size)) for size in sizes}
        images = {size: np.resize(run.bundle.reference.images, (size, *_shape(run.bundle))) for size in sizes}

        def answer(size: int) -> Callable[[int], object]:
            return lambda round_: sessions[size].run(images[size])

        candidates = {str(size): answer(size) for size in sizes}
        found = interleave(candidates, timing=run.timing, on_progress=run.on_progress)
    for size in sizes:
        own = size == run.target.batch
        note = "the bundle's engine" if own else "compiled for this batch from model.onnx, for its time only"
        measurement = run.measurement(f"batch of {size}", found.samples_ms[str(size)], note, found)
        rate = 1000 * size * len(measurement.judged) / sum(measurement.judged_ms)
        yield Load(kind="batch", setting=size, measurement=measurement, images_per_second=rate)


@contextmanager
def _engine_of(run: ProfileRun, size: int) -> Iterator[Session]:
    target = run.target.model_copy(update={"batch": size})
    with scratch_folder() as work:
        folder = run.folder
        if size != run.target.batch:
            folder = work / "engine"
            folder.mkdir()
            run.on_progress(Step("build", 0, 1, f"batch of {size}"))
            calibration = run.bundle.calibration[:BASELINE_CALIBRATION_IMAGES]
            own_engine = run.bundle.engine(run.target)
            with lowered(run.bundle.model, own_engine.lowering, own_engine.products) as model:
                build_unproven(model, target, calibration, folder, on_progress=run.on_progress)
        session = backend_of(target).open(folder, target)
        try:
            if folder != run.folder:  # the bundle's own engine has been proven
                found = session.precision_found()
                require_precision(
                    target.precision,
                    found,
                    what=f"the batch of {size}",
                    so="it is not measured",
                    quantisation=target.quantisation,
                )
            yield session
        finally:
            session.close()


def _streams(run: ProfileRun, counts: Sequence[int]) -> Iterator[Load]:
    """So many sessions answer at once, each in a thread of its own; the engine's threads are shared out among them."""
    samples: dict[int, list[float]] = {count: [] for count in counts}
    spent_s = dict.fromkeys(counts, 0.0)
    threads = {count: max(1, run.target.threads // count) for count in counts}
    with ExitStack() as stack:
        sessions = {}
        for count in counts:
            target = run.target.model_copy(update={"threads": threads[count]})
            opened = [backend_of(target).open(run.folder, target) for _ in range(count)]
            sessions[count] = opened
            for session in opened:
                stack.callback(session.close)
            _all_at_once(opened, run, _WINDOW_S / 2)
        others = BackgroundLoad()
        for window in range(_WINDOWS):
            for count in sorted(counts, reverse=bool(window % 2)):
                ms, took_s = _all_at_once(sessions[count], run, _WINDOW_S)
                samples[count] += ms
                spent_s[count] += took_s
            run.on_progress(Step("streams", window + 1, _WINDOWS))
        share = others.share
    for count in counts:
        note = f"{count} x a session of {counted(threads[count], 'thread')}, at once"
        yield Load(
            kind="streams",
            setting=count,
            measurement=run.measurement(f"streams: {count}", samples[count], note, share),
            images_per_second=len(samples[count]) / spent_s[count],
        )


def _all_at_once(sessions: Sequence[Session], run: ProfileRun, seconds: float) -> tuple[list[float], float]:
    """The ms of every answer that the sessions give within so many seconds, and the seconds that it took."""
    clock, images = run.timing.clock, run.bundle.reference.images
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


def _shape(bundle: Bundle) -> tuple[int, ...]:
    return bundle.reference.images.shape[1:]
