"""The error tree. Each error says what was wrong, the value, and (in `advice`) what to do.

RRREdgeError
├── UsageError              2   the command or the arguments make no sense
├── GateFailed              3   numerics, accuracy, latency or precision missed its limit
├── CannotRunHere           4   this machine, library version or engine does not fit
├── BadInput                5   data, weights or settings that cannot be used
│   └── CorruptArtifact     5   a bundle or an engine that is not what its manifest says
├── MissingLibrary          6   an optional library is not installed
└── Interrupted           130   stopped by the user; what was done is kept and can be resumed
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike


class RRREdgeError(Exception):
    """A mistake or a limit that the user can act on; printed without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        self.message = redacted(message)
        super().__init__(self.message)
        self.advice = redacted(advice)

    def __str__(self) -> str:
        return self.message


# Logins in front of a host, in an address or without its scheme, queries, and the values of keys that are secret.
_LOGINS = re.compile(r"(:/{1,2})\S*@(?=\S)|()(?<![^\s=])[^\s/:=]+:(?!/)\S*@(?=\S)")
_QUERIES = re.compile(r"(:/{1,2}[^\s?]*\?|\?(?=[^\s=?]+=))\S+?(?=['\")\],.;:]*(?:\s|$))")
_SECRETS = re.compile(r"(?i)((?:pass\w*|pwd|token|secret|auth\w*|api_?key|user(?:name)?|login)=)[^\s&]+")


def redacted(text: str) -> str:
    """`text` with stars in place of logins, queries and secrets in addresses, such as a camera's."""
    return _SECRETS.sub(r"\1***", _QUERIES.sub(r"\1***", _LOGINS.sub(r"\1***@", text)))


class UsageError(RRREdgeError):
    exit_code = 2


class GateFailed(RRREdgeError):
    exit_code = 3


class CannotRunHere(RRREdgeError):
    exit_code = 4


class BadInput(RRREdgeError):
    exit_code = 5


class CorruptArtifact(BadInput):
    pass


class MissingLibrary(RRREdgeError):
    """Raised instead of ImportError; `advice` is the exact pip line."""

    exit_code = 6

    def __init__(self, library: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed.", advice=pip_install(extra))


class Interrupted(RRREdgeError):
    exit_code = 130


def pip_install(extra: str = "", *, upgrade: bool = False) -> str:
    """The pip line that adds `extra` to this installation, from where it came: an index, a folder or an archive."""
    words = ["pip install", *(["--upgrade"] if upgrade else [])]
    origin, editable = _origin()
    named = f"[{extra}]" if extra else ""
    if origin.startswith(("http:", "https:", "file:")):
        return " ".join((*words, f"'rrr-edge{named} @ {origin}'"))
    what = f"{origin}{named}"
    return " ".join((*words, *(["-e"] if editable else []), f"'{what}'" if named or " " in what else what))


def _origin() -> tuple[str, bool]:
    """What pip was given to install this package: a name, a folder (and whether it is editable) or an archive's URL."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from pathlib import Path
    from urllib.parse import unquote, urlparse

    try:
        direct = json.loads(distribution("rrr-edge").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):  # a checkout that is on the path only
        checkout = Path(__file__).parent.parent
        return (str(checkout) if (checkout / "pyproject.toml").is_file() else "rrr-edge"), False
    url = str(direct.get("url", ""))
    if "dir_info" in direct and url.startswith("file:"):
        return unquote(urlparse(url).path), bool(direct["dir_info"].get("editable"))
    return url or "rrr-edge", False


# What is wrong with the name that was given, not with this machine.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def reading(path: str | PathLike[str]) -> Iterator[None]:
    """Turn what the system says against reading `path` into CannotRunHere: no advice to replace the file helps then.

    OSErrors of a file that is not there, or is a folder, pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT or error.errno is None:
            raise
        raise CannotRunHere(
            f"{path} cannot be read: {error.strerror}.", advice="Check its permissions and the disk that it is on."
        ) from error


def require_text(path: str | PathLike[str]) -> None:
    """Raise UsageError where a name in `path` is not UTF-8: no record can hold it, and no engine's library opens it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path} has a name that is not UTF-8.", advice="Rename it, or choose another name.") from None


def require_local(path: str | PathLike[str]) -> None:
    """Raise UsageError where `path`, of which nothing is there, is an address such as rtsp://camera/1."""
    if address := re.match(r"([a-z][a-z0-9+.-]+):/+", str(path), re.IGNORECASE):
        name = f"{address[1]}://{str(path)[address.end() :]}"
        raise UsageError(
            f"{name} is an address, not a file or folder of this machine.",
            advice="Download it, or save frames of the stream, and give the files.",
        )


def counted(count: int, noun: str) -> str:
    """Such as "1 photo" and "1,797 photos"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch or a vendor's library says by `error` that memory is full."""
    named = type(error).__name__ in ("OutOfMemoryError", "CUDAOutOfMemoryError") or isinstance(error, MemoryError)
    # PyTorch's of a CPU are RuntimeErrors with the allocator's name in the text, C++'s say bad_alloc.
    return named or any(word in str(error) for word in ("DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory"))


def choose(value: str, choices: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `choices`; a near miss is refused with "did you mean", never corrected."""
    known = sorted(choices)
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    raise UsageError(
        f"There is no {what} {value!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
        advice=f"Known: {', '.join(known)}.",
    )
