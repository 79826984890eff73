"""Runners of a study's jobs: the protocol, and processes of this machine that share out its cores."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

from rrr_edge.errors import UsageError, counted
from rrr_edge.study.records import Failure, Job
from rrr_edge.timing.machine import memory_bytes, usable_cores
from rrr_edge.timing.progress import Step

WORKER = "rrr_edge.study.worker"
# A job whose process died is begun so often.
TRIES = 3
# What a process with PyTorch takes beside its photos.
WORKER_BYTES = 1_500_000_000
# After a signal a training finishes its step and keeps its state.
_GRACE_S = 30
_LACKS_MEMORY = "It may lack memory: use fewer --workers."


class Event(NamedTuple):
    """What became of a job: it was begun, went a step on, or ended, with a failure or without."""

    job: Job
    kind: Literal["begun", "step", "ended"]
    step: Step | None = None
    failure: Failure | None = None


Tell = Callable[[Event], None]


class Runner(Protocol):
    """Carries out jobs, several at a time; a job is asked for when there is somebody to do it."""

    def run(self, jobs: Iterator[Job], tell: Tell) -> None:
        """Do all jobs and tell what becomes of each. A job whose worker is lost is done again by another."""


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, each with cores of its own. `workers` 0: as many as cores and memory allow.

    `inherited` is a descriptor that they hold open. `log` gets what libraries print.
    """

    workers: int = 0
    inherited: int | None = None
    log: Path | None = None
    module: str = WORKER

    def run(self, jobs: Iterator[Job], tell: Tell) -> None:
        with selectors.DefaultSelector() as selector:
            idle = [_Worker(cores, self) for cores in core_shares(self.workers)]
            busy: list[_Worker] = []
            try:
                while True:
                    while idle and (job := next(jobs, None)) is not None:
                        worker = idle.pop()
                        tell(Event(job, "begun"))
                        worker.begin(job, selector)
                        busy.append(worker)
                    if not busy:
                        return
                    for key, _ in selector.select():
                        worker = key.data
                        for event in worker.events(selector):
                            tell(event)
                            if event.kind == "ended":
                                busy.remove(worker)
                                idle.append(worker)
            finally:
                _stop((*idle, *busy))


def core_shares(workers: int) -> list[list[int]]:
    """The cores that this process may use, shared out among `workers` (0: one for each core, as memory allows)."""
    cpus, cores = sorted(os.sched_getaffinity(0)), usable_cores()
    if workers > cores:
        raise UsageError(
            f"{counted(workers, 'worker')} cannot share {counted(cores, 'core')}.", advice="Give fewer --workers."
        )
    count = workers or max(1, min(cores, memory_bytes() // WORKER_BYTES))
    starts = (len(cpus) * i // count for i in range(count))
    return [cpus[start : start + cores // count] for start in starts]


@dataclass
class _Worker:
    """A process that is started for its first job, and anew where it died."""

    cores: list[int]
    settings: Processes
    process: subprocess.Popen[bytes] | None = None
    job: Job | None = None
    tries: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def begin(self, job: Job, selector: selectors.BaseSelector) -> None:
        self.job, self.tries = job, self.tries + 1
        if self.process is None:
            self.process = self._started()
            selector.register(self._stdout, selectors.EVENT_READ, self)
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it has died; its stdout says so
            self.process.stdin.write(job.model_dump_json(by_alias=True).encode() + b"\n")
            self.process.stdin.flush()

    def events(self, selector: selectors.BaseSelector) -> Iterator[Event]:
        """What the process has said, or, where it has died, the same job begun again, or given up."""
        assert self.job
        said = os.read(self._stdout.fileno(), 65_536)
        if not said:
            yield from self._lost(selector)
            return
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            answer: dict[str, Any] = json.loads(line)
            if "step" in answer:
                yield Event(self.job, "step", step=Step(*answer["step"]))
            else:
                failure = answer["done"]
                self.tries = 0
                yield Event(self.job, "ended", failure=Failure.parse(failure, "a worker's answer") if failure else None)

    def _lost(self, selector: selectors.BaseSelector) -> Iterator[Event]:
        assert self.process
        assert self.job
        selector.unregister(self._stdout)
        code = self.process.wait()
        _close(self.process)
        self.process, self._rest = None, b""
        if self.tries < TRIES:
            self.begin(self.job, selector)
            return
        self.tries = 0
        how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        yield Event(self.job, "ended", failure=Failure.died(self.job.work, how, _LACKS_MEMORY))

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process
        assert self.process.stdout
        return self.process.stdout

    def _started(self) -> subprocess.Popen[bytes]:
        """In a session of its own, so that Ctrl-C reaches the study alone, which then stops its workers."""
        log = self.settings.log.open("ab") if self.settings.log else subprocess.DEVNULL
        threads = {name: str(len(self.cores)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        inherited = self.settings.inherited
        try:
            return subprocess.Popen(
                [sys.executable, "-m", self.settings.module, str(os.getpid()), ",".join(map(str, self.cores))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **threads},
                pass_fds=() if inherited is None else (inherited,),
                start_new_session=True,
            )
        finally:
            if not isinstance(log, int):
                log.close()


def _stop(workers: tuple[_Worker, ...]) -> None:
    """End all workers: those at work finish a step and keep what they have."""
    running = [worker.process for worker in workers if worker.process]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(BrokenPipeError):
                stream.close()
