"""Cold starts: the time from a process's start to its first answer."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.measurements import Load
from rrr_edge.errors import CannotRunHere
from rrr_edge.profile.frames import JPEG_QUALITY, frames_of
from rrr_edge.profile.run import ProfileRun
from rrr_edge.timing.machine import BackgroundLoad
from rrr_edge.timing.progress import Step

_PROGRAM = ("-m", "rrr_edge.runtime.first_answer")
_PATIENCE_S = 300


def cold_starts(run: ProfileRun, count: int) -> Iterator[Load]:
    """Fresh processes in turns; files stay in memory.

    Where the backend keeps compiled models, they start with an empty and with a filled cache of these.
    """
    notes = {"": "process start to first answer"}
    if run.backend.caches:
        notes = {
            ", empty cache": "process start to first answer, no compiled model in the backend's cache",
            ", filled cache": "process start to first answer, the backend's cache has the compiled model",
        }
    samples: dict[str, list[float]] = {name: [] for name in notes}
    with scratch_folder() as work:
        photo = work / "photo.jpg"
        next(frames_of(run.bundle.reference.images)).save(photo, quality=JPEG_QUALITY)
        filled = work / "filled"
        _first_answer_ms(run, photo, filled)
        others = BackgroundLoad()
        for round_ in range(count):
            for name in sorted(notes, reverse=bool(round_ % 2)):
                cache = work / f"empty-{round_}" if "empty" in name else filled
                samples[name].append(_first_answer_ms(run, photo, cache))
            run.on_progress(Step("cold start", round_ + 1, count))
        share = others.share
    for name, note in notes.items():
        measurement = run.measurement(f"cold start{name}", samples[name], note, share)
        rate = measurement.images_per_second
        yield Load(kind="cold start", setting=0, measurement=measurement, images_per_second=rate)


def _first_answer_ms(run: ProfileRun, photo: Path, cache: Path) -> float:
    """Raises CannotRunHere where none comes."""
    command = [sys.executable, *_PROGRAM, str(run.bundle.path), run.target.model_dump_json(), str(photo)]
    # Its complaints go to a file: a pipe that nobody reads would stop it when full.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        start = run.timing.clock()
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
                ms = (run.timing.clock() - start) / 1e6
                child.communicate()
            finally:
                patience.cancel()
        complaints.seek(0)
        said = complaints.read().strip().splitlines()[-1:] or ["nothing"]
    if not answer.strip():
        raise CannotRunHere(f"A fresh process gave no answer (it has {_PATIENCE_S} s); it said: {said[0]}")
    return ms
