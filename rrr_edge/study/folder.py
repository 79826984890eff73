"""The folder of a study, which one process at a time may write.

STUDY/  study.json   report.html
        cells/DATA/METHOD/SEED/              begun.json  cell.json  bundle.rrr/   (step-1.rrr/ of a chain)
        cells/DATA/METHOD/SEED-validation/   begun.json  cell.json
        timings/DATA/SEED.json
        failures/                            what went wrong in the last run
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rrr_edge.bundle.files import sha256, try_lock, write_file, writing_to
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.record import Sealed
from rrr_edge.errors import BadInput, CorruptArtifact, UsageError
from rrr_edge.study.plan import PLAN, Cell, Plan
from rrr_edge.study.records import Begun, CellRecord, Failure, Timing, TimingGroup

R = TypeVar("R", bound=Sealed)
CELL = "cell.json"
BEGUN = "begun.json"
# The processes of a run that was killed end at once, but not in the same instant.
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class StudyFolder:
    path: Path

    def place(self, cell: Cell) -> Path:
        suffix = "-validation" if cell.purpose == "validation" else ""
        return self.path / "cells" / cell.data.name / cell.method / f"{cell.seed}{suffix}"

    def bundle(self, cell: Cell, step: int | None = None) -> Path:
        """The cell's bundle, or what a step of its chain before the last leaves."""
        return self.place(cell) / ("bundle.rrr" if step is None else f"step-{step}.rrr")

    def plan(self) -> Plan:
        """Raises BadInput and CorruptArtifact."""
        if not (self.path / PLAN).is_file():
            raise BadInput(f"{self.path} is not a study: it has no {PLAN}.")
        return Plan.from_json_file(self.path / PLAN)

    def write_plan(self, plan: Plan) -> None:
        write_file(self.path / PLAN, plan.to_json())

    def record(self, cell: Cell) -> CellRecord | None:
        """What is known of `cell`, or of another one in its place; None where nothing is finished."""
        return _read(self.place(cell) / CELL, CellRecord)

    def write_record(self, record: CellRecord) -> None:
        write_file(self.place(record.cell) / CELL, record.to_json())
        self._failure_file(record.cell).unlink(missing_ok=True)

    def records(self) -> list[CellRecord]:
        """All finished cells, whichever run has made them, in the order of their names."""
        return [record for file in sorted(self.path.glob(f"cells/*/*/*/{CELL}")) if (record := _read(file, CellRecord))]

    def timing(self, data: str, seed: int) -> Timing | None:
        return _read(self._timing_file(data, seed), Timing)

    def write_timing(self, timing: Timing) -> None:
        write_file(self._timing_file(timing.data, timing.seed), timing.to_json())

    def timings(self) -> list[Timing]:
        return [timing for file in sorted(self.path.glob("timings/*/*.json")) if (timing := _read(file, Timing))]

    def failures(self) -> list[Failure]:
        return [failure for file in sorted(self.path.glob("failures/*.json")) if (failure := _read(file, Failure))]

    def write_failure(self, failure: Failure) -> None:
        write_file(self._failure_file(failure.work), failure.to_json())

    def forget_failures(self) -> None:
        shutil.rmtree(self.path / "failures", ignore_errors=True)

    def clear(self, cell: Cell) -> None:
        """Remove what is in the place of `cell`, its record first."""
        (self.place(cell) / CELL).unlink(missing_ok=True)
        shutil.rmtree(self.place(cell), ignore_errors=True)

    def occupant(self, cell: Cell) -> Cell | None:
        """The cell that is finished in the place of `cell`, or was begun there and has left something to go on with."""
        if record := self.record(cell):
            return record.cell
        begun = _read(self.place(cell) / BEGUN, Begun)
        return begun.cell if begun and any(file.name != BEGUN for file in self.place(cell).iterdir()) else None

    def begin(self, cell: Cell) -> tuple[Path | None, int]:
        """Note that `cell` is begun: the bundle to begin with, and how many steps that saves.

        An interrupted cell begins with what it began with before, whatever has been finished meanwhile; where that has
        changed, what the cell has learned from it goes.
        """
        note = self.place(cell) / BEGUN
        begun = _read(note, Begun)
        if begun is None or not begun.cell.makes_same_network(cell) or not self._has_start(begun):
            self.clear(cell)
            start, steps = self._finished_start(cell) or (None, 0)
            begun = Begun(
                cell=cell,
                start=str(start.relative_to(self.path)) if start else "",
                start_sha256=sha256(Bundle.open(start).weights) if start else "",
                steps=steps,
            )
            write_file(note, begun.to_json())
        return self.path / begun.start if begun.start else None, begun.steps

    def needed(self, work: Cell | TimingGroup) -> list[Path]:
        """The folders that the work goes on from, for where this one is not at hand."""
        if isinstance(work, TimingGroup):
            return [self.place(cell) for cell in work.cells]
        begun, start = _read(self.place(work) / BEGUN, Begun), self._finished_start(work)
        starts = [*([self.path / begun.start] if begun and begun.start else []), *(start[:1] if start else ())]
        folders = (self.place(work), *(bundle.parent for bundle in starts))
        return [folder for folder in dict.fromkeys(folders) if folder.exists()]

    def _has_start(self, begun: Begun) -> bool:
        start = self.path / begun.start
        return not begun.start or (start.is_dir() and sha256(Bundle.open(start).weights) == begun.start_sha256)

    def _finished_start(self, cell: Cell) -> tuple[Path, int] | None:
        """The bundle of another finished cell that begins as `cell` does, and how many of its steps that saves."""
        for steps in range(len(cell.recipes) - 1, 0, -1):
            beginning = cell.model_copy(update={"recipes": cell.recipes[:steps]})
            for file in sorted((self.path / "cells" / cell.data.name).glob(f"*/{self.place(cell).name}/{CELL}")):
                record = _read(file, CellRecord)
                bundle = file.with_name("bundle.rrr")
                if record and record.cell.makes_same_network(beginning) and bundle.is_dir():
                    return bundle, steps
        return None

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """The folder as this process's own, and those that inherit the descriptor that is yielded.

        Raises UsageError where another process is at work in it, CannotRunHere where it cannot be written.
        """
        if self.path.exists() and not (self.path / PLAN).is_file() and any(self._others()):
            raise UsageError(f"{self.path} exists and is no study.", advice="Choose another name: -o STUDY")
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            end = time.monotonic() + _PATIENCE_S
            while try_lock(lock.fileno()) is False:
                if time.monotonic() > end:
                    raise UsageError(
                        f"Another process is at work in {self.path}.", advice="Wait until it has ended, or stop it."
                    )
                time.sleep(0.05)
            yield lock.fileno()

    def _others(self) -> Sequence[Path]:
        return [file for file in self.path.iterdir() if file.name != ".lock" and not file.name.endswith(".partial")]

    def _timing_file(self, data: str, seed: int) -> Path:
        return self.path / "timings" / data / f"{seed}.json"

    def _failure_file(self, work: Cell | TimingGroup) -> Path:
        return self.path / "failures" / f"{hashlib.sha256(work.words.encode()).hexdigest()[:16]}.json"


def _read(path: Path, record: type[R]) -> R | None:
    if not path.is_file():
        return None
    try:
        return record.from_json_file(path)
    except BadInput as error:
        raise CorruptArtifact(
            str(error), advice=error.advice or f"Remove {path}: a run of the study makes it again."
        ) from error
