"""A camera's time stamps on this machine's clock."""

from collections import deque

# How fast the clocks of two machines drift apart at most.
_DRIFT = 1e-4
_WINDOW_S = 30.0


class CameraClock:
    """Tells when a frame was captured: its time stamp, plus the smallest delay from a stamp to its arrival of late.

    A frame that waited in a buffer on its way arrives later than its stamp says, and is older than its arrival. The
    smallest delay is that of the last 30 s, for stamps may run at another pace than the camera's frames; it may grow by
    the drift of clocks in them. Stamps that go backwards, as when a camera's clock is set, begin anew. What every frame
    of the last 30 s took on its way cannot be seen.
    """

    def __init__(self) -> None:
        self._stamp_s: float | None = None
        # Times of arrival, and delays less the drift until then: the later, the larger, and the first is the smallest.
        self._delays: deque[tuple[float, float]] = deque()

    def captured(self, stamp_s: float | None, arrival_s: float) -> float:
        """The capture time of a frame, at most `arrival_s`; both are of `time.monotonic`. None is no stamp."""
        if stamp_s is None:
            return arrival_s
        if self._stamp_s is not None and stamp_s < self._stamp_s:
            self._delays.clear()
        self._stamp_s = stamp_s
        drift = _DRIFT * arrival_s
        delay = arrival_s - stamp_s - drift
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        self._delays.append((arrival_s, delay))
        while self._delays[0][0] < arrival_s - _WINDOW_S:
            self._delays.popleft()
        return min(arrival_s, stamp_s + self._delays[0][1] + drift)
