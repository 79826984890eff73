"""Compiled files kept for the next start in the user's cache folder: hashed when kept, checked before use."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rrr_edge.bundle.files import sha256, write_file

_KEPT = 16
_HASH = ".sha256"


def cache_folder(backend: str) -> Path | None:
    """Below XDG_CACHE_HOME, or the home's .cache; None where none can be written, or it is another user's."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rrr-edge" / backend
        folder.mkdir(parents=True, exist_ok=True)
        own = folder.stat().st_uid == os.getuid()
    except (OSError, RuntimeError):  # no right to make it, or a user without a home
        return None
    return folder if own and os.access(folder, os.W_OK | os.X_OK) else None


def keep_hashes(folder: Path) -> None:
    """Write beside each file of `folder` that has none yet what SHA-256 it has."""
    for file in _hashed(folder):
        if not _hash_of(file).exists():
            write_file(_hash_of(file), sha256(file))


def forget_changed(folder: Path) -> None:
    """Delete the files of `folder` that are not what `keep_hashes` saw; what is gone is made anew."""
    for file in _hashed(folder):
        with suppress(FileNotFoundError):  # another process was first
            if not (_hash_of(file).is_file() and _hash_of(file).read_bytes() == sha256(file).encode()):
                _forget(file)


def _hashed(folder: Path) -> list[Path]:
    return [file for file in folder.glob("[!.]*") if file.suffix != _HASH]


def _hash_of(file: Path) -> Path:
    return file.with_name(f"{file.name}{_HASH}")


def _forget(file: Path) -> None:
    for gone in (file, _hash_of(file)):
        gone.unlink(missing_ok=True)


def forget_oldest(files: Iterable[Path]) -> None:
    """Keep the newest files, and no folder that is empty then; one in use elsewhere stays mapped there."""
    with suppress(OSError):  # another process may forget the same ones
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)[:-_KEPT]:
            _forget(file)
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
