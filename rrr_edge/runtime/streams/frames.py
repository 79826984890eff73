"""Frames from a source, read in a thread: the newest alone or all, and the source opened again when it is lost."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import NamedTuple, get_args

from rrr_edge.errors import BadInput, CannotRunHere, UsageError, choose
from rrr_edge.images.decode import Pixels
from rrr_edge.images.picture import load
from rrr_edge.runtime.streams.clock import CameraClock
from rrr_edge.runtime.streams.frame_queue import FrameQueue, Policy
from rrr_edge.runtime.streams.pictures import open_pictures
from rrr_edge.runtime.streams.reader import RawFrame, Reader, SourceLost, Timeouts
from rrr_edge.runtime.streams.source import Kind, Source
from rrr_edge.runtime.streams.video import open_video, require_av

_READERS: dict[Kind, Reader] = {
    "camera": open_video,
    "file": open_video,
    "stream": open_video,
    "pictures": open_pictures,
}
# Between attempts to open a lost source again: each is twice the one before it, up to the last.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.25, 2.0
# A reader that hangs is left to its time-out after so long.
_STOP_S = 1.5
_OPEN_S = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture uint8 [H, W, 3] RGB with its number, counted over all that came, and its capture time.

    `time_s` is its place in a video, or else seconds since the source was opened. `captured_s` is of
    `time.monotonic()`. `dropped` frames came since the one before. `encoded` is the file that it was decoded from, of
    pictures and MJPEG.
    """

    number: int
    time_s: float
    captured_s: float
    pixels: Pixels
    dropped: int = 0
    encoded: bytes | None = None

    @property
    def age_ms(self) -> float:
        """How long ago it was captured."""
        return (time.monotonic() - self.captured_s) * 1e3


class _Waiting(NamedTuple):
    number: int
    time_s: float
    captured_s: float
    picture: bytes | Callable[[], Pixels]
    name: str


def open_frames(
    source: int | str | Path | Source,
    policy: Policy | None = None,
    *,
    every: int = 1,
    timeout_s: float = 3.0,
    on_change: Callable[[str], None] = lambda sentence: None,
) -> "Frames":
    """Open a camera (its number, or /dev/video0), a video file, a picture, a folder of pictures, rtsp:// or http://.

    With `policy` "latest" the newest frame waits, and those that it replaces are counted as dropped; with "all" a few
    wait, and then the reader does. Live sources are read as "latest" unless asked otherwise; files and folders as "all"
    only. `every` n-th frame is handed out.

    A live source that ends, or sends no picture for `timeout_s`, is lost: it is opened again, with growing pauses, for
    as long as it takes. `on_change` gets a sentence for each loss and return, in the reader's thread, and for each
    picture of a folder that cannot be read, in the reader's or yours.

    Raises UsageError (no such source or policy, a file on a server), CannotRunHere (a live source that cannot be
    opened now), BadInput (no video, no picture), MissingLibrary.
    """
    found = Source.of(source)
    policy = policy or ("latest" if found.is_live else "all")
    choose(policy, get_args(Policy), "policy")
    if policy == "latest" and not found.is_live:
        raise UsageError(f"{found.shown} has no latest frame.", advice='Files and folders are read with policy "all".')
    if every < 1 or not 0 < timeout_s < math.inf:
        raise UsageError(f"every={every} and timeout_s={timeout_s} must be more than 0, and finite.")
    if found.kind != "pictures":
        require_av()
    frames = Frames(found, policy, every, Timeouts(max(_OPEN_S, timeout_s), timeout_s), on_change)
    try:
        frames.wait_until_open()
    except BaseException:
        frames.stop()
        raise
    return frames


class Frames:
    """An iterator of `Frame`, for one thread; `stop` may come from any. A context manager that stops.

    `lost` says why a live source is away at the moment, or "". `losses`, `dropped` and `damaged` count.
    """

    def __init__(
        self, source: Source, policy: Policy, every: int, timeouts: Timeouts, on_change: Callable[[str], None]
    ) -> None:
        self.source = source
        self.lost = ""
        self.losses = 0
        self._every, self._timeouts, self._on_change = every, timeouts, on_change
        self._queue: FrameQueue[_Waiting] = FrameQueue(policy)
        self._came = self._damaged = self._undecodable = self._told = 0
        self._begun_s = time.monotonic()
        self._first_stamp_s: float | None = None
        self._stopping, self._opened = Event(), Event()
        self._refused: Exception | None = None
        # Of encoded pictures that could not be decoded, in a row: when the first and the last was tried.
        self._failing: tuple[float, float] | None = None
        self._thread = Thread(target=self._run, name=f"frames of {source.shown}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    @property
    def damaged(self) -> int:
        return self._damaged + self._undecodable

    def wait_until_open(self) -> None:
        """Raises what kept the source from being opened."""
        # FFmpeg has that time twice: for the connection, and to find out what comes. Slow disks have any time.
        if not self._opened.wait(2 * self._timeouts.open_s + _STOP_S if self.source.is_live else None):
            raise CannotRunHere(f"{self.source.shown} cannot be opened: there was no answer.")
        if self._refused is not None:
            raise self._refused

    def __iter__(self) -> Iterator[Frame]:
        return self.decoded(load)

    def decoded(self, load: Callable[[bytes], Pixels]) -> Iterator[Frame]:
        """The frames; those that come as files (pictures, MJPEG) are decoded by `load`, and counted where it cannot.

        Raises BadInput where a file turns out to be damaged.
        """
        while (taken := self._queue.take()) is not None:
            waiting, dropped = taken
            encoded = waiting.picture if isinstance(waiting.picture, bytes) else None
            try:
                pixels = load(encoded) if encoded is not None else waiting.picture()  # type: ignore[operator]
            except BadInput as error:
                self._undecodable += 1
                self._note(is_decoded=False)
                if waiting.name:
                    self._on_change(f"{waiting.name}: {error}")
                continue
            self._note(is_decoded=True)
            yield Frame(waiting.number, waiting.time_s, waiting.captured_s, pixels, dropped - self._told, encoded)
            self._told = dropped

    def stop(self) -> None:
        """End the iteration and the reader, in less than 2 s: one that hangs ends by itself at its time-out."""
        self._stopping.set()
        self._queue.discard()
        if current_thread() is not self._thread:
            self._thread.join(_STOP_S)

    def __enter__(self) -> "Frames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        end: Exception | None = None
        try:
            self._read()
        except SourceLost as error:
            what = "read further" if self._came else "opened"
            end = (CannotRunHere if self.source.is_live else BadInput)(
                f"{self.source.shown} cannot be {what}: {error}."
            )
        except Exception as error:
            end = error
        if not self._opened.is_set():
            self._refused = end
            self._opened.set()
        self._queue.close(end)

    def _read(self) -> None:
        """Until the end of a file, or the stop of a live source. Raises SourceLost for what never opened, and files."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            before = self._came
            try:
                self._read_once()
                reason = "it ended"
            except SourceLost as error:
                if not (self.source.is_live and self._opened.is_set()):
                    raise
                reason = str(error)
            if not self.source.is_live or self._stopping.is_set():
                return
            if not self.lost:
                self.losses += 1
                self._on_change(f"{self.source.shown} is lost: {reason}. It is opened again as soon as it is there")
            self.lost = reason
            pause_s = _FIRST_PAUSE_S if self._came > before else min(2 * pause_s, _LAST_PAUSE_S)
            self._stopping.wait(pause_s)

    def _read_once(self) -> None:
        clock = CameraClock()
        with _READERS[self.source.kind](self.source, self._timeouts) as raw_frames:
            self._opened.set()
            for raw in raw_frames:
                if self._stopping.is_set():
                    return
                if self.lost and isinstance(raw.picture, bytes) and not self._can_decode(raw.picture):
                    raw = raw._replace(picture=None)
                if self.lost and raw.picture is not None:
                    self.lost = ""
                    self._on_change(f"{self.source.shown} is back")
                self._pass_on(raw, clock)
                self._require_decodable()

    def _can_decode(self, encoded: bytes) -> bool:
        try:
            load(encoded)
        except BadInput:
            self._note(is_decoded=False)
            return False
        return True

    def _note(self, *, is_decoded: bool) -> None:
        now, failing = time.monotonic(), self._failing
        self._failing = None if is_decoded else (failing[0] if failing else now, now)

    def _require_decodable(self) -> None:
        """Raise SourceLost where a live source's JPEGs were not decodable for too long; `open_video` sees to others."""
        failing, limit_s = self._failing, self._timeouts.undecoded_s
        if self.source.is_live and failing is not None and failing[1] - failing[0] > limit_s:
            self._failing = None
            raise SourceLost(f"no picture could be decoded for {limit_s:g} s")

    def _pass_on(self, raw: RawFrame, clock: CameraClock) -> None:
        number = self._came
        self._came += 1
        captured_s = clock.captured(raw.stamp_s if self.source.is_live else None, raw.arrival_s)
        if raw.picture is None:
            self._damaged += 1
            if raw.name:
                self._on_change(f"{raw.name} cannot be read")
        elif number % self._every == 0:
            self._queue.put(_Waiting(number, self._time(raw, captured_s), captured_s, raw.picture, raw.name))

    def _time(self, raw: RawFrame, captured_s: float) -> float:
        if self.source.kind != "file" or raw.stamp_s is None:
            return captured_s - self._begun_s
        if self._first_stamp_s is None:
            self._first_stamp_s = raw.stamp_s
        return raw.stamp_s - self._first_stamp_s
