"""The protocol of the readers of sources: frames as they come, time-outs, and the loss of a source."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from rrr_edge.images.decode import Pixels
from rrr_edge.runtime.streams.source import Source


class RawFrame(NamedTuple):
    """One picture as it came at `arrival_s` (`time.monotonic`), with the source's own time stamp where it has one.

    `picture` is the bytes of a file, or what makes RGB pixels when they are asked for, or None where it is damaged.
    """

    picture: bytes | Callable[[], Pixels] | None
    arrival_s: float
    stamp_s: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Timeouts:
    """The longest that opening a live source and waiting for its next picture may take, in seconds.

    One that cannot be decoded for `undecoded_s`, which is more than one key frame to the next takes, is lost too.
    """

    open_s: float
    read_s: float
    undecoded_s: float = 30.0


class SourceLost(Exception):
    """Why a source gives nothing more, or cannot be opened, as a clause that follows a colon."""


Reader = Callable[[Source, Timeouts], AbstractContextManager[Iterator[RawFrame]]]
