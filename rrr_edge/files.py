"""Writing that leaves the old or the new artifact, never half of one: written beside, then renamed into place."""

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrr_edge.errors import CannotRunHere

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
    with writing_to(path):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(partial, path)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing what was there, only when the block ends well."""
    stage = path.with_name(f".{path.name}.partial")
    with writing_to(path):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        try:
            yield stage
            replace_folder(stage, path)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def replace_folder(stage: Path, path: Path) -> None:
    """Make folder `stage` become `path`; where `path` exists the two change places atomically and the old one goes."""
    if not path.exists():
        os.rename(stage, path)
        return
    if not _exchange(stage, path):
        # No atomic exchange on this system: for an instant there is only the hidden old folder.
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
        os.rename(stage, path)
        stage = old
    shutil.rmtree(stage, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return (
        renameat2 is not None
        and renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )
