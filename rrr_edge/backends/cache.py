"""Files that a backend keeps for the next start, in the user's cache folder."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_KEPT = 16


def cache_folder(backend: str) -> Path | None:
    """Below XDG_CACHE_HOME, or the home's .cache; None where none can be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rrr-edge" / backend
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no right to make it, or a user without a home
        return None
    return folder if os.access(folder, os.W_OK) else None


def forget_oldest(files: Iterable[Path]) -> None:
    """Keep the newest files, and no folder that is empty then; one in use elsewhere stays mapped there."""
    with suppress(OSError):  # another process may forget the same ones
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)[:-_KEPT]:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
