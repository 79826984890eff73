"""Long tests of streams against a camera on the loopback interface, whose frames carry their number and time.

    python tests/benchmarks/streams.py age [--minutes 10]     ages at an app that takes 10 of 25 frames a second
    python tests/benchmarks/streams.py losses [--count 20]    the camera is killed, and frozen, so many times
    python tests/benchmarks/streams.py soak [--minutes 30]    25 frames a second, each answered; memory and threads

Each prints a JSON document, and ends with 1 where a limit is missed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import cameras  # noqa: E402

from rrr_edge.runtime import Classifier, Frame, open_frames  # noqa: E402

FPS = 25
ARCHIVE = TESTS / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
BACK_S, AGE_MS, GROWTH = 5.0, 100.0, 0.01


class CameraProcess:
    def __init__(self) -> None:
        self.port = "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(TESTS / "cameras.py"), "rtsp", "--port", self.port, "--fps", str(FPS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.address = self._process.stdout.readline().strip()
        self.port = self.address.rpartition(":")[2].partition("/")[0]

    def send(self, number: int) -> None:
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()


class Checked:
    """Takes what the pixels say; counts frames that came twice or out of order, or that no camera drew."""

    def __init__(self) -> None:
        self.count = self.repeated = self.invented = 0
        self._last = 0.0

    def __call__(self, frame: Frame) -> float:
        """The time of its capture."""
        number, captured_s = cameras.read(frame.pixels)
        self.count += 1
        self.repeated += captured_s <= self._last
        # The camera draws a frame at its number's time, or later where this machine is busy.
        self.invented += captured_s > time.monotonic() or not -0.01 < captured_s - number / FPS < 1
        self._last = captured_s
        return captured_s

    def document(self) -> dict[str, int]:
        return {"frames": self.count, "repeated": self.repeated, "invented": self.invented}


@contextmanager
def camera() -> Iterator[CameraProcess]:
    process = CameraProcess()
    try:
        yield process
    finally:
        process.send(signal.SIGKILL)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def age(minutes: float) -> tuple[dict[str, Any], bool]:
    checked, ages = Checked(), []
    begin = time.monotonic()
    with camera() as process, open_frames(process.address) as frames:
        for frame in frames:
            now = time.monotonic()
            ages.append((now - begin, (now - checked(frame)) * 1e3, frame.age_ms))
            if now - begin > 60 * minutes:
                break
            time.sleep(max(0.0, begin + len(ages) / 10 - time.monotonic()))
        dropped = frames.dropped
    at, true, told = np.array(ages).T
    by_minute = [float(np.median(true[(at >= 60 * m) & (at < 60 * (m + 1))])) for m in range(int(minutes))]
    growth = float(np.polyfit(at / 60, true, 1)[0])
    document = {
        **checked.document(),
        "dropped": dropped,
        "age_ms": {"median": float(np.median(true)), "p99": float(np.percentile(true, 99)), "max": float(true.max())},
        "told_ms_median": float(np.median(told)),
        "median_by_minute_ms": by_minute,
        "growth_ms_per_minute": growth,
    }
    good = np.median(true) <= AGE_MS and abs(growth) * minutes < AGE_MS / 2
    return document, bool(good and not checked.repeated and not checked.invented)


def losses(count: int) -> tuple[dict[str, Any], bool]:
    checked, dice = Checked(), random.Random(0)
    back: dict[str, list[float]] = {"killed": [], "frozen": []}
    memory, running = [], []
    with camera() as process, open_frames(process.address) as frames:
        stream = iter(frames)

        def go_on(frame_s: float) -> float:
            """Until a frame comes that was drawn after `frame_s`; the time that it came."""
            while checked(next(stream)) < frame_s:
                pass
            return time.monotonic()

        for _ in range(count):
            for how, end, begin in (
                ("killed", signal.SIGKILL, process.start),
                ("frozen", signal.SIGSTOP, lambda: process.send(signal.SIGCONT)),
            ):
                go_on(time.monotonic() + 1)
                process.send(end)
                while not frames.lost:
                    time.sleep(0.01)
                time.sleep(dice.uniform(0, 4))
                begin()
                returned = time.monotonic()
                back[how].append(go_on(returned) - returned)
            memory.append(resident_mb())
            running.append(threads())
        lost = frames.losses
    document = {
        **checked.document(),
        "losses": lost,
        "back_s": {how: {"median": float(np.median(s)), "max": max(s)} for how, s in back.items()},
        "rss_mb": [round(mb, 1) for mb in memory],
        "threads": running,
    }
    in_time = max(map(max, back.values())) <= BACK_S
    steady = running[-1] <= running[0] and memory[-1] < memory[0] * 1.02
    return document, in_time and steady and lost == 2 * count and not checked.repeated and not checked.invented


def soak(minutes: float) -> tuple[dict[str, Any], bool]:
    checked, memory, running = Checked(), [], []
    ages = np.full(int(60 * minutes * FPS * 1.1), -1.0)  # all of its memory is taken now
    with tempfile.TemporaryDirectory() as work:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(work, filter="data")
        bundle = Path(work) / "shapes-0.1.0.rrr"
        with (
            camera() as process,
            Classifier.open(bundle, precision="fp32", threads=1) as classifier,
            open_frames(process.address) as frames,
        ):
            begin = time.monotonic()
            for answer in classifier.stream(frames):
                now = time.monotonic()
                ages[checked.count] = (now - checked(answer.frame)) * 1e3
                if (now - begin) // 60 >= len(memory):
                    memory.append(resident_mb())
                    running.append(threads())
                    print(f"{len(memory) - 1} min: {memory[-1]:.1f} MB", file=sys.stderr, flush=True)
                if now - begin > 60 * minutes:
                    break
            dropped, lost = frames.dropped, frames.losses
    ages = ages[ages >= 0]
    growth = memory[-1] / memory[1] - 1
    document = {
        **checked.document(),
        "dropped": dropped,
        "losses": lost,
        "frames_per_s": checked.count / (60 * minutes),
        "age_ms": {"median": float(np.median(ages)), "p99": float(np.percentile(ages, 99))},
        "rss_mb_by_minute": [round(mb, 1) for mb in memory],
        "growth_after_the_first_minute": growth,
        "threads": [running[1], running[-1]],
    }
    good = growth < GROWTH and running[-1] <= running[1] and not checked.repeated and not checked.invented
    return document, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("age", "losses", "soak"), nargs="?", default="losses")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--count", type=int, default=20)
    asked = parser.parse_args()
    runs: dict[str, Callable[[], tuple[dict[str, Any], bool]]] = {
        "age": lambda: age(asked.minutes or 10),
        "losses": lambda: losses(asked.count),
        "soak": lambda: soak(asked.minutes or 30),
    }
    document, good = runs[asked.what]()
    print(json.dumps({"what": asked.what, **document, "within_limits": good}, indent=2))
    sys.exit(not good)


if __name__ == "__main__":
    main()
