"""Work beside everything else: held so that it is not lost, logged where it fails, ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """The tasks of one owner. Runs on the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run ``work`` in a context of its own; a failure is logged as "``what`` failed"."""

        async def logged() -> None:
            try:
                await work
            except Exception:
                log.exception("%s failed", what)

        task = contextvars.Context().run(asyncio.ensure_future, logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled before its first step it would never be awaited.
        task.add_done_callback(lambda _: work.close())
        return task

    async def finish(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
