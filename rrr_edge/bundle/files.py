"""Atomic writes, hashes of files, and temporary folders."""

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import Field, field_validator

from rrr_edge.bundle.record import Record
from rrr_edge.errors import CannotRunHere, CorruptArtifact, reading

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TOKEN_BYTES = 8
# What earlier versions left has names of another form, and no locks: it goes when it is so old.
_ABANDONED_S = 86_400
# What a file system says of a place that it does not take files in.
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.ENXIO,
)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the failures of a file system (full, read-only, forbidden, ...) into one sentence that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotRunHere(
                f"The disk that holds {path} is full.", advice="Free some space and run again."
            ) from error
        if error.errno == errno.EFBIG:
            raise CannotRunHere(
                f"{path} would be larger than files may be here.", advice="Raise the limit: ulimit -f unlimited"
            ) from error
        if error.errno not in _REFUSED:
            raise
        another = "name" if error.errno == errno.ENAMETOOLONG else "folder"
        raise CannotRunHere(
            f"{path} cannot be written: {error.strerror}.", advice=f"Choose another {another}."
        ) from error


def write_file(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step."""
    with staged_file(path) as stage:
        stage.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield the name of an empty file that becomes `path`, replacing what was there, only when the block ends well.

    The folders that it lies in are made where they are missing.
    """
    with writing_to(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        with _stage(path, Path.touch) as stage:
            yield stage
            _flush(stage)
            os.replace(stage, path)
            _flush(path.parent)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing what was there, only when the block ends well.

    Raises CannotRunHere where it was removed before that.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _stage(path, Path.mkdir) as stage:
            try:
                yield stage
                replace_folder(stage, path)
            except Exception as error:
                if stage.is_dir():
                    raise
                raise CannotRunHere(
                    f"{path.parent} was removed while {path.name} was written into it.",
                    advice="Leave it alone, and run again.",
                ) from error


def replace_folder(stage: Path, path: Path) -> None:
    """Make folder `stage` become `path`; where `path` exists the two change places atomically and the old one goes.

    What `stage` holds is on the disk before it gets the name.
    """
    for inner in (*stage.rglob("*"), stage):
        if not inner.is_symlink():
            _flush(inner)
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


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder among the temporary files that goes when the block ends; a killed process's go here too."""
    path = Path(tempfile.gettempdir()) / "rrr-edge"
    with ExitStack() as until_end:
        with writing_to(path.parent):
            stage = until_end.enter_context(_stage(path, lambda stage: stage.mkdir(mode=0o700)))
        yield stage


def require_no_links(root: Path, path: Path) -> Path:
    """`path`, which lies in the folder `root`. Raises CorruptArtifact where a part of it below `root` is a link.

    What is read, written or deleted in a folder stays in it.
    """
    inner = root
    for part in path.relative_to(root).parts:
        inner = inner / part
        if inner.is_symlink():
            raise CorruptArtifact(
                f"{inner} is a link; in a bundle links are not followed.", advice="Put what it points to in its place."
            )
    return path


def _flush(path: Path) -> None:
    """Wait until the file or folder is on the disk; some file systems cannot, and keep what they have."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _stage(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new hidden file or folder beside `path`, locked until the block ends and it goes, if it is still there.

    Those that nobody holds any more, for their processes were killed, go now. No number of a process would tell that:
    containers and machines that share a folder may all have the same.
    """
    _remove_litter(path)
    descriptor = None
    while descriptor is None:
        stage = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.partial")
        make(stage)
        descriptor = _hold(stage)
    try:
        yield stage
    finally:
        try:
            _remove(stage)
        finally:
            os.close(descriptor)


def _remove_litter(path: Path) -> None:
    name, digit = glob.escape(path.name), "[0-9a-f]"
    for stage in path.parent.glob(f".{name}.{digit * 2 * _TOKEN_BYTES}.partial"):
        with suppress(OSError):  # another user's, or gone by now
            _remove_unheld(stage)
    for stage in path.parent.glob(f".{name}.*.[0-9]*.{digit * 8}.partial"):
        with suppress(OSError):
            if time.time() - stage.lstat().st_mtime > _ABANDONED_S:
                _remove_unheld(stage)


def _remove_unheld(stage: Path) -> None:
    """Remove a file or folder that nobody has locked; what is neither, such as a pipe, is none of ours."""
    descriptor = os.open(stage, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and try_lock(descriptor):
            _remove(stage)
    finally:
        os.close(descriptor)


def _hold(stage: Path) -> int | None:
    """An open descriptor of `stage`, locked where the file system has locks; None if another took it for litter."""
    with suppress(FileNotFoundError):
        descriptor = os.open(stage, os.O_RDONLY)
        held = try_lock(descriptor) is not False
        with suppress(FileNotFoundError):
            if held and os.path.samestat(os.fstat(descriptor), stage.stat()):
                return descriptor
        os.close(descriptor)
    return None


def work_folder(out: Path) -> Path:
    """Where the bundle `out` is made: hidden beside it, kept only where something was learned."""
    return out.parent / f".{out.name}.work"


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock an open file or folder, until its descriptor is closed or its process ends, unless another holds it.

    None where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return (
        renameat2 is not None
        and renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )


class FileEntry(Record):
    """A file of a folder, by its plain name."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _lies_in_the_folder(cls, name: str) -> str:
        if name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
            raise ValueError(f"{name!r} is no plain file name")
        return name


def describe_file(path: Path) -> FileEntry:
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))


def require_file(path: Path, entry: FileEntry, repair: str) -> None:
    """Raise CorruptArtifact unless `path` is, byte for byte, what `entry` says, and no link."""
    advice = f"Run: {repair}"
    with reading(path):
        size = path.stat().st_size if path.is_file() else None
        digest = sha256(path) if size == entry.bytes else ""
    if size is None:
        raise CorruptArtifact(f"{path} is missing.", advice=advice)
    if path.is_symlink():
        raise CorruptArtifact(f"{path} is a link; in a bundle links are not followed.", advice=advice)
    if size != entry.bytes:
        raise CorruptArtifact(f"{path} has {size:,} bytes instead of {entry.bytes:,}.", advice=advice)
    if digest != entry.sha256:
        raise CorruptArtifact(f"{path} has changed since it was written (its SHA-256 differs).", advice=advice)
