"""Texts that a user wants at a place: what is not ours is not replaced, what is no regular file is written into."""

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from rrr_edge.bundle.files import write_file, writing_to
from rrr_edge.errors import UsageError

# As many links in a row as Linux follows.
_LINKS = 40
# Lines of ours are shorter.
_LINE_BYTES = 65_536


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
    if _is_stream(path, mode):
        return
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


@contextmanager
def appended_lines(path: Path) -> Iterator[FileIO]:
    """A file of lines of JSON, unbuffered, to write at its end: see `write_line`. A stream is written into.

    A line that was cut off by a crash stays alone. Raises UsageError where the file holds anything else.
    """
    with writing_to(path):
        own = _descriptor(path)
        if own is not None:
            file = FileIO(os.dup(own), "w")
        elif path.exists() and _is_stream(path, path.stat().st_mode):
            file = FileIO(_stream(path), "w")
        else:
            file = FileIO(path, "a+")
    with file:
        if own is None and file.seekable() and file.seek(0, os.SEEK_END):
            _require_lines(path, file)
        yield file


def write_line(file: FileIO, text: str) -> None:
    """The whole line, whatever the system takes at once."""
    left = memoryview(text.encode() + b"\n")
    while left:
        left = left[file.write(left) or 0 :]


def _require_lines(path: Path, file: FileIO) -> None:
    """Raise UsageError unless the first line is an object, or the beginning of one; end the last where it does not."""
    file.seek(0)
    first, end, _ = file.read(_LINE_BYTES).partition(b"\n")
    if not first.startswith(b'{"') or (end and not _is_json(first)):
        raise UsageError(f"{path} exists and is no file of lines of JSON.", advice="Choose another name.")
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        write_line(file, "")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _is_stream(path: Path, mode: int) -> bool:
    """Whether `path` is a terminal, a pipe or the like, or else a file. Raises UsageError where it is neither."""
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        raise UsageError(f"{path} is no file.", advice="Choose another name.")
    return not stat.S_ISREG(mode)


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that /dev/stdout, /dev/fd/3 or a link to one of these names.

    Raises UsageError where it is not open, or not for writing.
    """
    own = Path(f"/proc/{os.getpid()}/fd")
    named = path
    for _ in range(_LINKS):
        if named.parent.resolve() == own and named.name.isdigit():
            _require_open(path, int(named.name))
            return int(named.name)
        if not named.is_symlink():
            break
        named = named.parent / os.readlink(named)
    return None


def _require_open(path: Path, descriptor: int) -> None:
    try:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except (OSError, OverflowError):
        mode = os.O_RDONLY
    if mode == os.O_RDONLY:
        raise UsageError(f"{path} is not open for writing.", advice="Choose another name.")


def _stream(path: Path) -> int:
    """A descriptor of the device or pipe; opening a pipe that nobody reads fails instead of waiting for ever."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
