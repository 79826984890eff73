"""The queue between the thread that reads frames and the app that takes them."""

from collections import deque
from threading import Condition
from typing import Generic, Literal, TypeVar

Policy = Literal["latest", "all"]
T = TypeVar("T")

# How many frames wait for an app that takes them all.
_WAITING = 4


class FrameQueue(Generic[T]):
    """`latest` holds one item, the newest, and counts what it drops; `all` holds a few, and its writer waits."""

    def __init__(self, policy: Policy) -> None:
        self._waits = policy == "all"
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._closed = False
        self._error: Exception | None = None
        self.dropped = 0

    def put(self, item: T) -> None:
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._closed or len(self._items) < _WAITING)
            elif self._items:
                self._items.popleft()
                self.dropped += 1
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()

    def take(self) -> tuple[T, int] | None:
        """The next item and how many were dropped so far, or None after the last. Raises the writer's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if not self._items:
                if self._error is not None:
                    raise self._error
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item, self.dropped

    def close(self, error: Exception | None = None) -> None:
        """No more is put; what waits is taken still, and then `error` is raised."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def discard(self) -> None:
        """Close, and take nothing more."""
        with self._changed:
            self._items.clear()
            self.close()
