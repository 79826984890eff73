"""The jobs of a study as tasks of a Ray cluster, whose results lie on shared storage or are sent back.

Ray's usage statistics are switched off before it is imported. A cluster that `ray start` has begun without
RAY_USAGE_STATS_ENABLED=0 in its own environment reports by itself, at least once that they are off.
"""

import io
import json
import os
import secrets
import socket
import tarfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from rrr_edge.bundle.files import scratch_folder, staged_folder, write_file
from rrr_edge.errors import BadInput, CannotRunHere, MissingLibrary
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Cell
from rrr_edge.study.records import Failure, Job, Timing, TimingGroup
from rrr_edge.study.runners import TRIES, WORKER, WORKER_BYTES, Event, Tell
from rrr_edge.timing.machine import usable_cores
from rrr_edge.timing.progress import silent

LOCAL = "local"
_MARK = ".shared"
_POLL_S = 1.0
_LISTENER_S = 10.0


def label(target: str) -> str:
    """The custom resource of the nodes on which engines of `target` are timed; each is to have one of it."""
    return f"target:{target}"


@dataclass(frozen=True)
class Ray:
    """A cluster at `address`, or one of this machine alone, "local".

    A cell takes a core, and a GPU where it is for CUDA. Engines are timed one at a time, on a node that carries the
    target's label; a local cluster does.
    """

    address: str = LOCAL
    module: str = WORKER

    def run(self, jobs: Iterator[Job], tell: Tell) -> None:
        first = next(jobs, None)
        if first is None:
            return
        ray = import_ray(local=self.address == LOCAL)
        with ExitStack() as until_end:
            self._connect(ray, first)
            until_end.callback(ray.shutdown)
            study = StudyFolder(Path(first.study))
            token = secrets.token_hex(8)
            write_file(study.path / _MARK, token)
            _Tasks(ray, self, study, token, tell).run(first, jobs)

    def _connect(self, ray: Any, first: Job) -> None:
        """Raises CannotRunHere where there is no such cluster."""
        own: dict[str, Any] = {"address": self.address}
        if self.address == LOCAL:
            target = first.work.target if isinstance(first.work, Cell) else first.work.cells[0].target
            resources = {label(target.name): 1} if target else {}
            own = {"address": LOCAL, "num_cpus": usable_cores(), "resources": resources, "include_dashboard": False}
        else:
            _require_listener(self.address)
        try:
            ray.init(**own, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CannotRunHere(
                f"There is no Ray cluster at {self.address!r}: {str(error).splitlines()[0]}",
                advice="Start one with `ray start --head`, or give --ray local.",
            ) from error


def import_ray(*, local: bool) -> Any:
    """Ray without its statistics. Raises MissingLibrary."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # otherwise it writes a token into the home
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        import ray
    except ImportError as error:
        raise MissingLibrary("ray", extra="study", purpose="--ray") from error
    return ray


def _require_listener(address: str) -> None:
    """Raise CannotRunHere where nothing answers at "HOST:PORT"; Ray itself would wait for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (host and port.isdecimal()):  # "auto", which Ray looks up
        return
    try:
        socket.create_connection((host, int(port)), _LISTENER_S).close()
    except (OSError, OverflowError) as error:
        raise CannotRunHere(
            f"There is no Ray cluster at {address!r}: {error}.",
            advice="Start one with `ray start --head`, or give --ray local.",
        ) from error


class _Tasks:
    """The tasks that are under way, as many as the cluster's cores can take."""

    def __init__(self, ray: Any, settings: Ray, study: StudyFolder, token: str, tell: Tell) -> None:
        self._ray, self._settings, self._study, self._token, self._tell = ray, settings, study, token, tell
        self._running: dict[Any, Job] = {}

    def run(self, first: Job, others: Iterator[Job]) -> None:
        waiting = chain([first], others)
        while True:
            # A job is fetched only when there is room for it: what it will take is then known best.
            while len(self._running) < self._places(first) and (job := next(waiting, None)):
                self._begin(job)
            if not self._running:
                return
            done, _ = self._ray.wait([*self._running], timeout=_POLL_S)
            for reference in done:
                ended = self._running.pop(reference)
                self._tell(Event(ended, "ended", failure=self._outcome(ended, reference)))

    def _places(self, job: Job) -> int:
        """How many jobs of this kind may be under way: at least one, which waits until there is a node for it."""
        if isinstance(job.work, TimingGroup) or job.work.needs_quiet:
            return 1
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def _begin(self, job: Job) -> None:
        self._tell(Event(job, "begun"))
        needs, refused = self._needs(job)
        if refused:
            self._tell(Event(job, "ended", failure=Failure.of(job.work, refused)))
            return
        task = self._ray.remote(_do).options(
            name=job.work.words, max_retries=TRIES - 1, retry_exceptions=False, **needs
        )
        folders = self._study.needed(job.work)
        packed = self._ray.put(_packed(self._study.path, folders)) if folders else b""
        reference = task.remote(job.model_dump_json(by_alias=True), self._token, self._settings.module, packed)
        self._running[reference] = job

    def _needs(self, job: Job) -> tuple[dict[str, Any], CannotRunHere | None]:
        """The resources that Ray keeps for the job, or why it can never have them."""
        work = job.work
        if isinstance(work, Cell) and not work.needs_quiet:
            gpus = {"num_gpus": 1} if work.device == "cuda" else {}
            return {"num_cpus": 1, "memory": WORKER_BYTES, **gpus}, None
        target = work.target if isinstance(work, Cell) else work.cells[0].target
        assert target
        name = label(target.name)
        if not self._ray.cluster_resources().get(name):
            return {}, CannotRunHere(
                f"No node of the Ray cluster carries the label {name!r}, so nothing is timed.",
                advice=f"Start a node of that kind with: ray start --resources '{{\"{name}\": 1}}'",
            )
        return {"num_cpus": 0, "resources": {name: 1}}, None

    def _outcome(self, job: Job, reference: Any) -> Failure | None:
        """What the task gave: files that are put in their place, nothing, or a failure."""
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if "No module named 'rrr_edge" in str(error):
                return Failure.of(job.work, MissingLibrary("rrr-edge", extra="study", purpose="A node of the cluster"))
            how = f"was lost ({type(error).__name__})"
            return Failure.died(job.work, how, "Its node may lack memory, or have gone.")
        kind, content = said
        if kind == "failed":
            return Failure.parse(json.loads(content), "a node's answer")
        if kind == "timed":
            self._study.write_timing(Timing.parse(json.loads(content), "a node's answer"))
        if kind == "made":
            assert isinstance(job.work, Cell)
            with staged_folder(self._study.place(job.work)) as stage:
                _unpack(content, stage)
        return None


def _do(text: str, token: str, module: str, packed: bytes) -> tuple[str, bytes]:
    """Run on a node: what came of the job (shared, made, timed, failed), and what is to be sent back of it."""
    job = Job.parse(json.loads(text), "a job")
    work, perform = job.work, import_module(module).perform
    node = socket.gethostname()
    try:
        if isinstance(work, Cell) and not Path(work.data.path).is_dir():
            raise BadInput(
                f"The node {node} has no folder {work.data.path}.",
                advice="Photos must lie at the same place on all nodes: put them on shared storage.",
            )
        mark = Path(job.study) / _MARK
        if mark.is_file() and mark.read_text() == token:
            perform(job, silent)
            return "shared", b""
        with scratch_folder() as scratch:
            study = StudyFolder(scratch)
            _unpack(packed, scratch)
            perform(job.model_copy(update={"study": str(scratch)}), silent)
            if isinstance(work, Cell):
                return "made", _packed(study.place(work), (study.place(work),))
            timing = study.timing(work.data, work.seed)
            assert timing
            return "timed", timing.to_json().encode()
    except MissingLibrary as error:
        error.message = f"On the node {node}: {error}"
        return "failed", Failure.of(work, error).to_json().encode()
    except Exception as error:
        return "failed", Failure.of(work, error, traceback.format_exc()).to_json().encode()


def _packed(root: Path, folders: Sequence[Path]) -> bytes:
    """The `folders` in `root` as an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for folder in folders:
            archive.add(folder, str(folder.relative_to(root)))
    return file.getvalue()


def _unpack(packed: bytes, to: Path) -> None:
    if packed:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(to, filter="data")
