"""How often something may fail before nobody tries it again by itself."""

from __future__ import annotations

from collections import deque

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
MOST_FAILURES = 5
WINDOW_SECONDS = 600.0
TOO_MANY = f"{MOST_FAILURES} failures in {WINDOW_SECONDS / 60:g} minutes"


class Setbacks:
    """The failures of the last minutes."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._at)

    def clear(self) -> None:
        self._at.clear()

    def one_more(self, now: float) -> float | None:
        """After how many seconds to try again; ``None``: it failed too often."""
        self._at.append(now)
        while now - self._at[0] > WINDOW_SECONDS:
            self._at.popleft()
        if len(self._at) >= MOST_FAILURES:
            return None
        return BACKOFF_SECONDS[min(len(self._at), len(BACKOFF_SECONDS)) - 1]
