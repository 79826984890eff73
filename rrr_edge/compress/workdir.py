"""The working folder of a compression: hidden beside the bundle, locked, kept for resuming."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from pydantic import field_validator

from rrr_edge.bundle.files import try_lock, work_folder, write_file, writing_to
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.reused import Chained
from rrr_edge.errors import UsageError, require_text

_ANOTHER = "Choose another name, or replace it with --force."
_LOCK = "lock"


class Task(Record):
    """What an interrupted run was about: only the same is resumed.

    `start_sha256` is of the weights of the bundle begun with, wherever that lies.
    """

    recipe: Recipe
    data_sha256: str
    start_sha256: str = ""

    @field_validator("recipe")
    @classmethod
    def _without_paths(cls, recipe: Recipe) -> Recipe:
        """A path may be relative, or be written in another way."""
        known: dict[str, str | None] = {"start": None} if isinstance(recipe, Chained) else {}
        for name in ("weights", "teacher"):
            path = getattr(recipe, name, None)
            if path and Path(path).exists():
                known[name] = str(Path(path).resolve())
        return recipe.model_copy(update=known)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """That of a finished bundle."""
        start = manifest.chain[-1].weights_sha256 if manifest.chain else ""
        return cls(recipe=manifest.recipe, data_sha256=manifest.provenance.data_sha256, start_sha256=start)

    def differs(self, other: Self) -> str:
        """In what, in a word."""
        if self.recipe != other.recipe:
            return "settings"
        return "photos" if self.data_sha256 != other.data_sha256 else "weights to begin with"


@dataclass(frozen=True)
class Workdir:
    """The bundle to be `out`, and whether what is there may be gone on with, or replaced."""

    out: Path
    resume: bool = False
    force: bool = False

    @property
    def work(self) -> Path:
        """What is not yet a bundle: the task, the trainings' checkpoints, the bundle that is being written."""
        return work_folder(self.out)

    @property
    def training(self) -> Path:
        return self.work / "training"

    @property
    def stage(self) -> Path:
        return self.work / "bundle"

    def begun(self) -> Recipe | None:
        """The recipe of the bundle that is there, or of the interrupted run. Raises what reading it raises."""
        if self.out.exists():
            return Bundle.open(self.out).manifest.recipe
        return Task.from_json_file(self._note).recipe if self._note.is_file() else None

    def check(self) -> None:
        """Refuse to overwrite a bundle, anything else, or an interrupted run, and to disturb one that goes on."""
        if self.out.name in ("", ".."):
            raise UsageError(f"{self.out} is no name for a bundle.", advice=f"Give it one: -o {self.out / 'mine.rrr'}")
        require_text(self.out)
        if _is_held(self.work):
            raise _held(self.work)
        self._check_what_is_there()

    def require_task(self, task: Task) -> None:
        """Refuse to go on with another task than the one that was begun, or finished, here."""
        if not self.resume:
            return
        if self.out.exists() and not self.force:
            if Task.of(Bundle.open(self.out).manifest) != task:
                raise UsageError(f"{self.out} exists.", advice=_ANOTHER)
        elif self._note.is_file():
            interrupted = Task.from_json_file(self._note)
            if interrupted != task:
                what = interrupted.differs(task)
                raise UsageError(
                    f"The interrupted run in {self.work} had other {what}.",
                    advice=f"Give the same {what} again, or start anew with --force.",
                )

    def claim(self, task: Task, until_end: ExitStack) -> bool:
        """Hold the work folder of `task`, the interrupted one or an empty one; False where its bundle is there already.

        Raises what the checks raise, for another process may have been here since.
        """
        until_end.enter_context(self._held())
        self._check_what_is_there()
        self.require_task(task)
        if self.out.exists() and not self.force:
            shutil.rmtree(self.work, ignore_errors=True)
            return False
        if not (self.resume and self._note.is_file()):
            shutil.rmtree(self.training, ignore_errors=True)
            write_file(self._note, task.to_json())
        return True

    @property
    def _note(self) -> Path:
        return self.work / "task.json"

    def _check_what_is_there(self) -> None:
        if self.out.exists():
            if not (self.force or self.resume):
                raise UsageError(f"{self.out} exists.", advice=_ANOTHER)
            if not (self.out / MANIFEST).is_file():
                raise UsageError(
                    f"{self.out} exists and is no bundle: it is not replaced.", advice="Choose another name."
                )
        elif self._note.is_file() and not (self.force or self.resume):
            raise UsageError(
                f"An interrupted run for {self.out} is kept in {self.work}.",
                advice="Go on with --resume, or start anew with --force.",
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The work folder as this process's own; it is kept only where something was learned in it."""
        with writing_to(self.out):
            lock = _hold(self.work)
        with lock:
            try:
                yield
            finally:
                if not self.training.exists():
                    shutil.rmtree(self.work, ignore_errors=True)


def _hold(work: Path) -> IO[str]:
    """The open lock file of `work`, a folder made where missing; the system lets go of it however the process ends."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has ended, and took its folder away
            lock = (work / _LOCK).open("w")
            if try_lock(lock.fileno()) is False:
                raise _held(work)
            if os.path.samestat(os.fstat(lock.fileno()), (work / _LOCK).stat()):
                return lock


def _is_held(work: Path) -> bool:
    try:
        with (work / _LOCK).open() as lock:
            return try_lock(lock.fileno(), fcntl.LOCK_SH) is False
    except OSError:
        return False


def _held(work: Path) -> UsageError:
    return UsageError(
        f"Another process is at work in {work}.", advice="Wait until it has ended, or choose another name."
    )
