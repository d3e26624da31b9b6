"""How late the event loop is: what waits for it waits at least so long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

STEP_SECONDS = 0.5
REMEMBERED_SECONDS = 60.0


class LoopDelay:
    """Sleeps again and again and sees how much later it wakes up than it asked for."""

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell = tell
        self._recent: deque[float] = deque(maxlen=int(REMEMBERED_SECONDS / STEP_SECONDS))

    @property
    def worst(self) -> float:
        """The longest delay of the last minute, in seconds."""
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(STEP_SECONDS)
            late = max(0.0, time.perf_counter() - asked - STEP_SECONDS)
            self._recent.append(late)
            self._tell(late)
