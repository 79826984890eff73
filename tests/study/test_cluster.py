"""Two simulated Ray nodes: cells are made on both, one node is killed at work, and every cell is finished."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_study import make_plan, write_data

from rrr_edge.errors import CannotRunHere
from rrr_edge.study import Run, run_study
from rrr_edge.study.cluster import Ray, _Tasks, import_ray
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.records import Job
from rrr_edge.study.runners import Event

HERE = Path(__file__).parent
pytest.importorskip("ray", reason="ray is not installed (extra study)")


@pytest.mark.slow
def test_a_nodes_death_costs_no_cell_and_results_are_sent_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "begun.txt"
    log.touch()
    monkeypatch.setenv("STUDY_WORKER_LOG", str(log))
    monkeypatch.setenv("STUDY_WORKER_S", "1.0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1]))))
    ray = import_ray(local=True)
    from ray.cluster_utils import Cluster

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = cluster.add_node(num_cpus=1)
        plan = make_plan(write_data(tmp_path / "data", "mugs"), seeds=(0, 1, 2))

        def kill() -> None:
            while doomed.node_id not in log.read_text():
                time.sleep(0.05)
            cluster.remove_node(doomed, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        # No node has the mark of the shared folder, as if its disk were another.
        monkeypatch.setattr("rrr_edge.study.cluster.write_file", lambda path, data: None)
        done = run_study(plan, tmp_path / "study", Run(Ray(cluster.address, module="study_worker")))
        killer.join(1)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (done.finished, done.left, done.failures) == (6, 0, ())
    begun = log.read_text().splitlines()
    lost = [line for line in begun if doomed.node_id in line]
    assert len(begun) == 6 + len(lost) == 7, "the killed node's cell was begun again on the other"


def test_an_address_without_a_cluster_is_a_sentence(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"))
    with pytest.raises(CannotRunHere, match="no Ray cluster at"):
        run_study(plan, tmp_path / "study", Run(Ray("127.0.0.1:1")))


class OneCore:
    """A cluster that does one task at a time, at once."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1}

    def remote(self, _: object) -> object:
        def options(**asked: object) -> object:
            self.asked.append(asked)
            return SimpleNamespace(remote=lambda *_: object())

        return SimpleNamespace(options=options)

    def wait(self, references: list[object], **_: float) -> tuple[list[object], list[object]]:
        return references[:1], references[1:]

    def get(self, _: object) -> tuple[str, bytes]:
        return "shared", b""


def test_a_job_is_fetched_when_there_is_room_for_it(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr", seeds=(0, 1, 2))
    jobs = [Job(study=str(tmp_path), work=cell) for cell in plan.cells]
    noted: list[str] = []

    def fetched() -> Iterator[Job]:
        for job in jobs[1:]:
            noted.append("fetched")
            yield job

    cluster = OneCore()
    tasks = _Tasks(cluster, Ray(), StudyFolder(tmp_path), "", lambda event: noted.append(event.kind))
    tasks.run(jobs[0], fetched())
    assert noted == ["begun", "ended", *("fetched", "begun", "ended") * 2]
    assert [(asked["num_cpus"], asked.get("num_gpus")) for asked in cluster.asked] == [(1, None)] * 3


def test_a_task_that_is_lost_says_what_may_help_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: OneCore, _: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(OneCore, "get", lost)
    (cell, _) = make_plan(write_data(tmp_path / "data", "mugs")).cells
    events: list[Event] = []
    tasks = _Tasks(OneCore(), Ray(), StudyFolder(tmp_path), "", events.append)
    tasks.run(Job(study=str(tmp_path), work=cell), iter(()))
    failure = events[-1].failure
    assert failure
    assert "was lost (ConnectionError)" in failure.error
    assert "memory" in failure.advice
    assert "--workers" not in failure.advice
