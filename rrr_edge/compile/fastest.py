"""The times of engines beside each other on this machine, and the fastest of several lowerings."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rrr_edge.backends import Session, backend_of
from rrr_edge.bundle.measurements import Measurement, Ratio, Subject, quiet_ratio, ratio
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.machine import threads_to_use
from rrr_edge.timing.progress import OnProgress

TIMING = TimingSettings(runs=100)
_Name = TypeVar("_Name", bound=str)


def fastest(
    engines: Mapping[Lowering, Path],
    target: Target,
    images: Images,
    *,
    on_progress: OnProgress,
    timing: TimingSettings | None = None,
) -> tuple[Lowering, tuple[Ratio, ...], tuple[str, ...]]:
    """The lowering whose engine takes surely less time than the first one, else the first; all ratios to that; notes.

    `engines` are the folders that `target`'s backend compiled; they answer `images` in the target's batches.
    """
    first, *others = engines
    if not others:
        return first, (), ()
    built = {name: (folder, target) for name, folder in engines.items()}
    times = measure_beside(built, images, on_progress=on_progress, timing=timing)
    ratios = (quiet_ratio(times[name], times[first]) for name in others)
    chosen, notes = surely_faster(times, first, others)
    return chosen, tuple(filter(None, ratios)), notes


def surely_faster(
    times: Mapping[_Name, Measurement], first: _Name, others: Iterable[_Name]
) -> tuple[_Name, tuple[str, ...]]:
    """The fastest of the `others` that take surely less time than the `first`, else that.

    Where too few rounds were quiet all of them decide, and a note says so.
    """
    surely = [name for name in others if ratio(times[name], times[first]).interval[1] < 1]
    chosen = min(surely, key=lambda name: times[name].summary.median_ms, default=first)
    if times[first].is_quiet:
        return chosen, ()
    busy = f"{chosen} was chosen by times that cannot be trusted, as {times[first].disturbed}"
    return chosen, (f"{busy}: compile again when nothing else runs.",)


def measure_beside(
    engines: Mapping[_Name, tuple[Path, Target]],
    images: Images,
    *,
    on_progress: OnProgress,
    timing: TimingSettings | None = None,
) -> dict[_Name, Measurement]:
    """The times of engines, each a folder and the target that it is opened with, in interleaved rounds."""
    with ExitStack() as stack:
        runs: dict[str, Callable[[int], Any]] = {}
        for name, (folder, target) in engines.items():
            session = backend_of(target).open(folder, target)
            stack.callback(session.close)
            runs[name] = _runner(session, images, target.batch)
        found = interleave(runs, timing=timing or TIMING, on_progress=on_progress)
    return {
        name: Measurement(
            name=name,
            subject=Subject(backend=target.backend, precision=target.precision, threads=threads_to_use(target.threads)),
            samples_ms=found.samples_ms[name],
            loads=found.loads,
            background_load=found.background_load,
        )
        for name, (_, target) in engines.items()
    }


def _runner(session: Session, images: Images, batch: int) -> Callable[[int], Any]:
    return lambda run: session.run(images[np.arange(run * batch, (run + 1) * batch) % len(images)])
