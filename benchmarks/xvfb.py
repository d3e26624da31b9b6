"""A screen of our own: Xvfb on a display that is free."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator


class NoScreen(Exception):
    """Xvfb is missing or did not start; says what to do."""


@contextlib.contextmanager
def screen(width: int = 1920, height: int = 1080) -> Iterator[str]:
    """The display's name, such as ``:99``. Raises ``NoScreen``."""
    if shutil.which("Xvfb") is None:
        raise NoScreen("it needs Xvfb (Debian: apt install xvfb)")
    read, write = os.pipe()
    size = f"{width}x{height}x24"
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", size, "-noreset"]
    server = subprocess.Popen(
        [*command, "-nolisten", "tcp"], pass_fds=(write,), stderr=subprocess.DEVNULL
    )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        if not number:
            raise NoScreen("Xvfb did not start")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(timeout=20)
