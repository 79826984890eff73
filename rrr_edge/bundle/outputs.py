"""Texts that a user wants at a place: what is not ours is not replaced, what is no regular file is written into."""

import os
import stat
from pathlib import Path

from rrr_edge.bundle.files import write_file, writing_to
from rrr_edge.errors import UsageError

# As many links in a row as Linux follows.
_LINKS = 40


def require_output(path: Path, mark: str) -> None:
    """Raise UsageError unless `path`, where a user wants a text of ours, may be written.

    It may if there is nothing, an empty file, an earlier text of ours, which has `mark` in its beginning, or a stream,
    such as a terminal or a pipe; also what stdout or another descriptor of ours leads to, whatever that is.
    """
    if _descriptor(path) is not None:
        return
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
    own = _descriptor(path)
    if own is None and (not path.exists() or path.is_file()):
        write_file(path.resolve(), text)
        return
    with writing_to(path), open(_stream(path) if own is None else os.dup(own), "w", encoding="utf-8") as stream:
        stream.write(text)


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that /dev/stdout, /dev/fd/3 or a link to one of these names."""
    own = Path(f"/proc/{os.getpid()}/fd")
    for _ in range(_LINKS):
        if path.parent.resolve() == own and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return None


def _stream(path: Path) -> int:
    """A descriptor of the device or pipe; opening a pipe that nobody reads fails instead of waiting for ever."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
