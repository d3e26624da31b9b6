"""SIGTERM and Ctrl-C end the program in an orderly way, on Windows, too."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bot.exits import Exit

log = logging.getLogger(__name__)

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Within the block the first signal sets ``stop``; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def arrived(number: int) -> None:
        if stop.is_set():
            os._exit(Exit.INTERRUPTED)
        log.info("%s: ending", signal.Signals(number).name)
        stop.set()

    def handler(number: int, _frame: FrameType | None) -> None:
        # signal.signal rather than loop.add_signal_handler, which Windows lacks. The loop wakes
        # up because asyncio has set the wake-up descriptor on every platform.
        loop.call_soon_threadsafe(arrived, number)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
