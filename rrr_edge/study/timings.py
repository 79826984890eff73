"""Timing of a study's engines: those of a data set and a seed in turns, in one process, alone on the machine."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rrr_edge.backends import backend_of
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Subject
from rrr_edge.profile import require_machine
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Plan
from rrr_edge.study.records import CellRecord, TimedEngine, Timing, TimingGroup
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.machine import threads_to_use
from rrr_edge.timing.progress import OnProgress, silent


def groups_to_time(plan: Plan, study: StudyFolder) -> list[TimingGroup]:
    """The groups whose engines are not those that were timed together, or were timed for fewer rounds."""
    wanted: dict[tuple[str, int], list[CellRecord]] = {}
    for cell in plan.cells:
        record = study.record(cell) if cell.target else None
        if record and record.engine and record.finishes(cell):
            wanted.setdefault((cell.data.name, cell.seed), []).append(record)
    groups = []
    for (data, seed), records in wanted.items():
        timing = study.timing(data, seed)
        timed = {engine.card_sha256 for engine in timing.engines} if timing and timing.runs >= plan.runs else set()
        if not timed.issuperset(record.engine.card_sha256 for record in records if record.engine):
            cells = tuple(record.cell for record in records)
            groups.append(TimingGroup(data=data, seed=seed, cells=cells, runs=plan.runs))
    return groups


def time_group(group: TimingGroup, study: StudyFolder, on_progress: OnProgress = silent) -> Timing:
    """Time the engines of `group` in turns and record them.

    Raises CannotRunHere (another machine than the target's), CorruptArtifact and MissingLibrary.
    """
    target = group.cells[0].target
    assert target is not None, "a group is made of cells with a target"
    threads = threads_to_use(target.threads)
    here = Environment.here(threads=threads, versions=backend_of(target).versions())
    require_machine(target, here)
    candidates: dict[str, Callable[[int], Any]] = {}
    subjects: dict[str, tuple[str, Subject]] = {}
    with ExitStack() as stack:
        for cell in group.cells:
            record = study.record(cell)
            assert record is not None
            assert record.engine is not None, "a group is made of finished cells with engines"
            bundle = Bundle.open(study.bundle(cell))
            opened = Classifier.open(bundle.path, target, precision=target.precision, threads=threads)
            classifier = stack.enter_context(opened)
            candidates[cell.method] = running(classifier.session, shuffled_images(bundle))
            subject = Subject(
                backend=target.backend,
                precision=target.precision,
                threads=threads,
                params=record.cost.params,
                macs=record.cost.macs,
                size_mb=record.engine.bytes / 1e6,
            )
            subjects[cell.method] = record.engine.card_sha256, subject
        found = interleave(candidates, timing=TimingSettings(runs=group.runs), on_progress=on_progress)
    timing = Timing(
        data=group.data,
        seed=group.seed,
        target=target,
        engines=tuple(
            TimedEngine(
                method=method,
                card_sha256=subjects[method][0],
                subject=subjects[method][1],
                samples_ms=tuple(round(ms, 5) for ms in samples),
            )
            for method, samples in found.samples_ms.items()
        ),
        runs=group.runs,
        loads=tuple(None if load is None else round(load, 4) for load in found.loads),
        background_load=found.background_load,
        unsettled=found.unsettled,
        environment=here,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    study.write_timing(timing)
    return timing
