"""Atomic writes, hashes of files, and temporary folders."""

import ctypes
import errno
import glob
import hashlib
import os
import platform
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field, field_validator

from rrr_edge.bundle.record import Record
from rrr_edge.errors import CannotRunHere, CorruptArtifact, UsageError, reading

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
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


def require_output(path: Path, mark: str) -> None:
    """Raise UsageError unless `path`, where a user wants a text of ours, may be written.

    It may if there is nothing, an empty file, an earlier text of ours, which has `mark` in its beginning, or a stream,
    such as a terminal or a pipe.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        if path.is_symlink():
            raise UsageError(f"{path} is a link to nothing.", advice="Remove it, or choose another name.") from None
        return
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is no file.", advice="Choose another name.")
    with writing_to(path), path.open(encoding="utf-8", errors="replace") as file:
        beginning = file.read(4000)
    if beginning and mark not in beginning:
        raise UsageError(f"{path} exists and is no report of ours.", advice="Remove it, or choose another name.")


def write_output(path: Path, text: str, mark: str) -> None:
    """Write `text`, which has `mark` in its beginning, where a user wants it: see `require_output`.

    A link is followed; a stream is written into.
    """
    require_output(path, mark)
    if not path.exists() or path.is_file():
        write_file(path.resolve(), text)
        return
    with writing_to(path), open(_stream(path), "w", encoding="utf-8") as stream:
        stream.write(text)


def _stream(path: Path) -> int:
    """A descriptor of the device or pipe; opening a pipe that nobody reads fails instead of waiting for ever."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


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
            _flush(stage)
            os.replace(stage, path)
            _flush(path.parent)
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
    with writing_to(path.parent):
        _remove_litter(path)
        stage = _beside(path)
        stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


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


def _beside(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread uses, and that tells whose it is."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _remove_litter(path: Path) -> None:
    """Remove what processes of this machine and user left beside `path` when they were killed."""
    prefix = f".{path.name}.{platform.node()}."
    for stage in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        pid = stage.name.removeprefix(prefix).partition(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            if stage.is_dir() and not stage.is_symlink():
                shutil.rmtree(stage, ignore_errors=True)
            else:
                with suppress(OSError):  # another user's
                    stage.unlink()


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
