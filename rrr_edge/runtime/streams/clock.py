"""A camera's time stamps on this machine's clock."""

# How fast two quartz clocks drift apart at most.
_DRIFT = 1e-4


class CameraClock:
    """Tells when a frame was captured: its time stamp, plus the smallest delay between a stamp and its arrival so far.

    A frame that waited in a buffer on its way arrives later than its stamp says, and is older than its arrival. The
    smallest delay may grow by the drift of clocks; stamps that go backwards, as when a camera's clock is set, begin
    anew. What every frame takes on its way cannot be seen.
    """

    def __init__(self) -> None:
        self._stamp = self._arrival = self._delay = 0.0
        self._begun = False

    def captured(self, stamp_s: float | None, arrival_s: float) -> float:
        """The capture time of a frame, at most `arrival_s`; both are of `time.monotonic`. None is no stamp."""
        if stamp_s is None:
            return arrival_s
        delay = arrival_s - stamp_s
        if self._begun and stamp_s > self._stamp:
            delay = min(delay, self._delay + _DRIFT * (arrival_s - self._arrival))
        self._stamp, self._arrival, self._delay, self._begun = stamp_s, arrival_s, delay, True
        return stamp_s + delay
