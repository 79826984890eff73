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
from collections.abc import Iterable


class RRREdgeError(Exception):
    """A mistake or a limit that the user can act on; printed without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return self.message


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
        super().__init__(
            f"{purpose} needs {library}, which is not installed.", advice=f"pip install 'rrr-edge[{extra}]'"
        )


class Interrupted(RRREdgeError):
    exit_code = 130


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
