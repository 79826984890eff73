"""A worker as `Processes` starts it, whose cells take no training: the data set's name says how they end.

`python -m study_worker` in the place of `rrr_edge.study.worker`. Each begun cell leaves a line in $STUDY_WORKER_LOG.
"""

import os
import signal
import sys
import time
from pathlib import Path

from made_up_study import make_record

from rrr_edge.errors import BadInput
from rrr_edge.study import worker
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Cell
from rrr_edge.study.records import Job
from rrr_edge.study.worker import serve
from rrr_edge.timing.progress import OnProgress, Step


def _node() -> str:
    """The node of a Ray cluster, where this is one."""
    ray = sys.modules.get("ray")
    return f" on {ray.get_runtime_context().get_node_id()}" if ray and ray.is_initialized() else ""


def perform(job: Job, on_progress: OnProgress) -> None:
    work = job.work
    if not isinstance(work, Cell):  # there are no engines to time
        return
    with open(os.environ["STUDY_WORKER_LOG"], "a") as log:
        log.write(f"{work.words}{_node()}\n")
    study = StudyFolder(Path(job.study))
    marker = study.path / f"begun {work.words}"
    begun_before, _ = marker.exists(), marker.touch()
    if work.data.name == "bare":  # as where the extra `compress` is not installed
        sys.modules.update(dict.fromkeys(("torch", "torchvision")))  # type: ignore[arg-type]
        worker.perform(job, on_progress)
    if work.data.name == "broken":
        raise BadInput("There is no picture in broken.", advice="Put some there.")
    if work.data.name == "deadly" or (work.data.name == "frail" and not begun_before):
        os.kill(os.getpid(), signal.SIGKILL)
    print("a library speaks")
    on_progress(Step("train", 1, 2))
    time.sleep(float(os.environ.get("STUDY_WORKER_S", "0")))
    study.write_record(make_record(work, 0.25 + 0.5 * (work.method == "rrr")))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], perform)
