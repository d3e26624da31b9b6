"""Between capture and analysis: frames that wait, and what becomes of those that can't."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from bot.vision.frames import Frame
from bot.vision.reports import PipelineCounts


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A frame on its way to the models."""

    frame: Frame
    content: int
    """Rises by one whenever the picture changes: equal numbers, equal pictures."""
    at: float
    """Monotonic time of the capture."""
    milliseconds: dict[str, float]


class Inbox:
    """A bounded queue. Live: the newest wins, the oldest is dropped. Else: the giver waits."""

    def __init__(self, capacity: int, *, live: bool) -> None:
        self.live = live
        self._capacity = capacity
        self._waiting: deque[Captured] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._captured = 0
        self._dropped = 0

    def put(self, captured: Captured) -> bool:
        """``False`` once the inbox is closed."""
        with self._change:
            if not self.live:
                self._change.wait_for(lambda: self._closed or len(self) < self._capacity)
            if self._closed:
                return False
            while len(self._waiting) >= self._capacity:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(captured)
            self._captured += 1
            self._change.notify_all()
            return True

    def take(self, most: int, timeout: float) -> list[Captured]:
        """Whatever waits, at most ``most``, oldest first; empty when nothing came in time."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._waiting, timeout=timeout)
            batch = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._change.notify_all()
            return batch

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """No more frames come in; those that wait can still be taken."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def discard(self) -> None:
        """Forget what waits."""
        with self._change:
            self._dropped += len(self._waiting)
            self._waiting.clear()

    def __len__(self) -> int:
        return len(self._waiting)

    def counted(self, counts: PipelineCounts) -> PipelineCounts:
        """The same counts with what was captured and dropped here added."""
        return replace(
            counts,
            captured=counts.captured + self._captured,
            dropped=counts.dropped + self._dropped,
        )
