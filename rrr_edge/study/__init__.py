"""Studies: which method is best for which photos on this machine, found out by data sets x methods x seeds.

Each cell of a study is compressed and compiled by one worker, and recorded; when all are, their engines are timed
alone. What is recorded is never made again, whatever was killed meanwhile.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rrr_edge.bundle.files import writing_to
from rrr_edge.errors import UsageError
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Cell, Plan
from rrr_edge.study.records import Failure, Job, TimingGroup
from rrr_edge.study.runners import Event, Processes, Runner
from rrr_edge.study.timings import groups_to_time
from rrr_edge.timing.progress import OnProgress, Step, silent

LOG = "workers.log"


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended: cells that are finished now, those that the budget left, and what failed."""

    finished: int
    left: int
    failures: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """That of the data's faults, if there are any, before the others'; 0 where nothing failed."""
        codes = {failure.exit_code for failure in self.failures}
        return next((code for code in (1, 5, 6, 4, 3, 2) if code in codes), 0)


@dataclass(frozen=True)
class Run:
    """How a study is carried out; none of it decides the results.

    Within `budget_hours` no cell is begun that would not end in time, as far as finished ones tell. `force` makes cells
    anew whose photos or recipes have changed.
    """

    runner: Runner = field(default_factory=Processes)
    budget_hours: float | None = None
    force: bool = False
    on_progress: OnProgress = silent


def run_study(plan: Plan, out: str | Path, run: Run = Run()) -> Outcome:
    """Carry out what is missing of `plan` in the folder `out`.

    What fails is recorded and the rest goes on. Raises UsageError (another process is at work there; cells of other
    settings), CorruptArtifact, CannotRunHere (the folder cannot be written) and what ends the process.
    """
    study = StudyFolder(Path(out))
    with study.claimed() as lock, writing_to(study.path):
        todo = to_do(plan, study, force=run.force)
        for cell in todo:
            if (there := study.occupant(cell)) and not there.makes_same_network(cell):
                study.clear(cell)
        study.write_plan(plan)
        study.forget_failures()
        runner = run.runner
        if isinstance(runner, Processes):
            runner = replace(runner, inherited=lock, log=study.path / LOG)
        progress = _Progress(study, run, [_disturbing_nothing(cell) for cell in todo])
        runner.run(progress.jobs(), progress.tell)
        alone = replace(runner, workers=1) if isinstance(runner, Processes) else runner
        uncompiled = [cell for cell in todo if cell.needs_quiet and study.record(cell)]
        for works in (lambda: uncompiled, lambda: groups_to_time(plan, study)):
            times = _Progress(study, replace(run, budget_hours=None), works())
            alone.run(times.jobs(), times.tell)
        records = [record for cell in plan.cells if (record := study.record(cell)) and record.finishes(cell)]
        failures = tuple(study.failures())
        failed = {failure.work.words for failure in failures if isinstance(failure.work, Cell)}
        return Outcome(len(records), len(plan.cells) - len(records) - len(failed), failures)


def to_do(plan: Plan, study: StudyFolder, *, force: bool = False) -> list[Cell]:
    """The cells that are not finished. Raises UsageError where others are in their places, unless `force` is given."""
    todo = []
    for cell in plan.cells:
        record = study.record(cell)
        if record is not None and record.finishes(cell):
            continue
        todo.append(cell)
        there = study.occupant(cell)
        if there and not force and (what := there.differs(cell)):
            raise UsageError(
                f"{study.place(cell)} was made from other {what}.",
                advice="Give the same again, choose another STUDY, or make such cells anew with --force.",
            )
    return todo


def _disturbing_nothing(cell: Cell) -> Cell:
    """The cell as it is made beside others: where compiling times engines, only its network is made."""
    return cell.model_copy(update={"target": None}) if cell.needs_quiet else cell


class _Progress:
    """Hands out jobs while the budget lasts, records failures, and tells how far all is."""

    def __init__(self, study: StudyFolder, run: Run, works: Sequence[Cell | TimingGroup]) -> None:
        self._study, self._run, self._works = study, run, works
        self._began: dict[str, float] = {}
        self._spent: dict[str, list[float]] = {}
        self._since = time.monotonic()
        self._done = 0

    def jobs(self) -> Iterator[Job]:
        for place, work in enumerate(self._works):
            if not self._fits(self._works[place:]):
                return
            yield Job(study=str(self._study.path.absolute()), work=work)

    def tell(self, event: Event) -> None:
        work, now = event.job.work, time.monotonic()
        if event.kind == "begun":
            self._began[work.words] = now
        if event.kind == "ended":
            self._done += 1
            if event.failure:
                self._study.write_failure(event.failure)
            else:
                self._spent.setdefault(_sort(work), []).append(now - self._began[work.words])
        stage = "cells" if isinstance(work, Cell) else "times"
        step = event.step
        doing = f": {step.stage} {step.done}/{step.total}" if step else f" {event.kind}"
        failed = f", failed: {event.failure.error}" if event.failure else ""
        self._run.on_progress(Step(stage, self._done, len(self._works), f"{work.words}{doing}{failed}"))

    def _fits(self, left: Sequence[Cell | TimingGroup]) -> bool:
        """Whether the next of what is left would end within the budget, as far as those that ended tell."""
        if self._run.budget_hours is None:
            return True
        known = [s for spent in self._spent.values() for s in spent]
        likely = self._spent.get(_sort(left[0])) or known or [0.0]
        spent_s = time.monotonic() - self._since
        return spent_s + sum(likely) / len(likely) <= 3600 * self._run.budget_hours


def _sort(work: Cell | TimingGroup) -> str:
    """Works of one sort take about as long."""
    return work.method if isinstance(work, Cell) else work.data


__all__ = ["Outcome", "Plan", "Run", "run_study", "to_do"]
