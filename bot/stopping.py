"""What signals do: SIGTERM and Ctrl-C end the program in an orderly way, on Windows, too;
SIGHUP lets it read its configuration again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bot.cli.exits import Exit
from bot.closed_console import stop_on_closed_console

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
        with stop_on_closed_console(stop):
            yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def reload_on_hangup(stop: asyncio.Event, reload: Callable[[], object]) -> Iterator[None]:
    """Within the block SIGHUP calls ``reload`` on the event loop; Windows has no such signal.

    A terminal that is closed sends SIGHUP, too: then the program is over, unless it was started
    with ``nohup``.
    """
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    loop = asyncio.get_running_loop()
    survives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    had_terminal = has_terminal()

    def arrived() -> None:
        if had_terminal and not survives and not has_terminal():
            log.info("the terminal was closed: ending")
            stop.set()
        else:
            log.info("SIGHUP: the configuration is read again")
            reload()

    def handler(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(arrived)

    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def has_terminal() -> bool:
    """Whether this process has a terminal that still exists."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
