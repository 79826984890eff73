"""A worker process: reads jobs from stdin, a line of JSON each, and answers on stdout what it does and how it ends.

`python -m rrr_edge.study.worker PARENT CPUS` is what `Processes` starts. What libraries print goes to stderr.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rrr_edge.errors import Interrupted
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Cell
from rrr_edge.study.records import Failure, Job
from rrr_edge.timing.progress import OnProgress, Step, silent

# Progress is told no more often.
_EVERY_S = 0.5
_PR_SET_PDEATHSIG = 1


Perform = Callable[[Job, OnProgress], None]


def perform(job: Job, on_progress: OnProgress = silent) -> None:
    """Do the job and record what came of it, unless that is recorded already. Raises what the work raises."""
    study = StudyFolder(Path(job.study))
    if isinstance(job.work, Cell):
        record = study.record(job.work)
        if record is None or not record.finishes(job.work):
            from rrr_edge.study.cell import run_cell

            run_cell(job.work, study, on_progress)
    else:
        from rrr_edge.study.timings import time_group

        time_group(job.work, study, on_progress)


def serve(parent: int, cpus: str, perform: Perform = perform) -> None:
    """Do jobs until stdin ends; end with the process `parent`, however that ends."""
    _end_with(parent)
    cores = {int(cpu) for cpu in cpus.split(",")}
    os.sched_setaffinity(0, cores)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        job = Job.parse(json.loads(line), "a worker's job")
        _tell(answers, {"done": _outcome(job, perform, _reporter(answers))})


def _outcome(job: Job, perform: Perform, on_progress: OnProgress) -> object:
    """None where all went well, else the failure as its document."""
    try:
        perform(job, on_progress)
    except Interrupted:
        raise
    except Exception as error:
        return Failure.of(job.work, error, traceback.format_exc()).document()
    return None


def _end_with(parent: int) -> None:
    """Let the system kill this process when its parent ends: what it would finish, nobody would count."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the study has ended")


def _reporter(answers: TextIO) -> OnProgress:
    told = 0.0

    def report(step: Step) -> None:
        nonlocal told
        if time.monotonic() - told >= _EVERY_S:
            told = time.monotonic()
            _tell(answers, {"step": step})

    return report


def _tell(answers: TextIO, what: object) -> None:
    answers.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
