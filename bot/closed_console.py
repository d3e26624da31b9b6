"""Windows: a console window that is closed, or a user who logs off, ends the program in an
orderly way, as SIGHUP and SIGTERM do elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_SECONDS = 10.0
"""More than the five that Windows gives: then it ends the program, whatever that does."""

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    ENDINGS = (2, 5, 6)
    """CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT."""
    _kept: list[Callable[[int], bool]] = []
    """Handlers that Windows may be in until the very end."""

    @contextmanager
    def stop_on_closed_console(stop: asyncio.Event) -> Iterator[None]:
        """Within the block ``stop`` is set when the console goes."""
        loop = asyncio.get_running_loop()

        @ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
        def handler(event: int) -> bool:
            if event not in ENDINGS:
                return False
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are at our end
                loop.call_soon_threadsafe(stop.set)
            # Called in a thread of its own, after which Windows ends the program at once.
            time.sleep(GRACE_SECONDS)
            return True

        _kept.append(handler)
        register = ctypes.windll.kernel32.SetConsoleCtrlHandler
        register(handler, True)
        try:
            yield
        finally:
            register(handler, False)

else:

    @contextmanager
    def stop_on_closed_console(stop: asyncio.Event) -> Iterator[None]:
        """Elsewhere signals tell of it."""
        yield
