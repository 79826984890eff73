"""Writing that leaves the old or the new artifact, never half of one: written beside, then renamed into place."""

import ctypes
import errno
import glob
import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrr_edge.bundle.record import Record
from rrr_edge.errors import CannotRunHere, CorruptArtifact

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the failures of a file system (full, read-only, forbidden) into one sentence that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotRunHere(
                f"The disk that holds {path} is full.", advice="Free some space and run again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise CannotRunHere(
                f"{path} cannot be written: {error.strerror}.", advice="Choose another folder."
            ) from error
        raise


def write_file(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step."""
    with staged_file(path) as stage:
        stage.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file that becomes `path`, replacing what was there, only when the block ends well.

    The folders that it lies in are made where they are missing.
    """
    stage = _beside(path)
    with writing_to(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        _remove_litter(path)
        try:
            yield stage
            os.replace(stage, path)
        finally:
            stage.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing what was there, only when the block ends well."""
    stage = _beside(path)
    with writing_to(path):
        _remove_litter(path)
        stage.mkdir(parents=True)
        try:
            yield stage
            replace_folder(stage, path)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def replace_folder(stage: Path, path: Path) -> None:
    """Make folder `stage` become `path`; where `path` exists the two change places atomically and the old one goes."""
    if not path.exists():
        try:
            os.rename(stage, path)
            return
        except OSError:
            if not path.exists():  # else another process was first
                raise
    if not _exchange(stage, path):
        # No atomic exchange on this system: for an instant there is only the hidden old folder.
        old = stage.with_name(f"{stage.name}.old")
        os.rename(path, old)
        os.rename(stage, path)
        stage = old
    shutil.rmtree(stage, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread uses, and that tells whose it is."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _remove_litter(path: Path) -> None:
    """Remove what processes of this machine left beside `path` when they were killed."""
    prefix = f".{path.name}.{platform.node()}."
    for stage in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        pid = stage.name.removeprefix(prefix).partition(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            if stage.is_dir():
                shutil.rmtree(stage, ignore_errors=True)
            else:
                stage.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's
        return True
    return True


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return (
        renameat2 is not None
        and renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )


class FileEntry(Record):
    name: str
    bytes: int
    sha256: str


def describe_file(path: Path) -> FileEntry:
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))


def require_file(path: Path, entry: FileEntry, repair: str) -> None:
    """Raise CorruptArtifact unless `path` is, byte for byte, what `entry` says."""
    advice = f"Run: {repair}"
    if not path.is_file():
        raise CorruptArtifact(f"{path} is missing.", advice=advice)
    if path.stat().st_size != entry.bytes:
        raise CorruptArtifact(f"{path} has {path.stat().st_size:,} bytes instead of {entry.bytes:,}.", advice=advice)
    if sha256(path) != entry.sha256:
        raise CorruptArtifact(f"{path} has changed since it was written (its SHA-256 differs).", advice=advice)
