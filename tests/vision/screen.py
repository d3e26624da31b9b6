"""A real X display for tests, on which they put pictures."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


class Screen:
    """An Xvfb whose frame buffer is a file: writing there is painting the screen."""

    def __init__(self, display: str, buffer: mmap.mmap, offset: int, size: tuple[int, int]) -> None:
        self.display = display
        self.size = size
        self._pixels = np.frombuffer(buffer, np.uint8, offset=offset).reshape(size[1], size[0], 4)

    def show(self, bgr: np.ndarray, left: int = 0, top: int = 0) -> None:
        """Paint a picture (H x W x 3, BGR) at a place."""
        height, width = bgr.shape[:2]
        self._pixels[top : top + height, left : left + width, :3] = bgr


@contextlib.contextmanager
def x_display(size: tuple[int, int] = (640, 480)) -> Iterator[Screen]:
    """Start Xvfb on a free display; skips the test where it is not installed."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb (Debian: apt install xvfb)")
    with tempfile.TemporaryDirectory() as folder:
        read, write = os.pipe()
        server = subprocess.Popen(
            [
                "Xvfb",
                "-displayfd",
                str(write),
                "-screen",
                "0",
                f"{size[0]}x{size[1]}x24",
                "-noreset",
                "-nolisten",
                "tcp",
                "-fbdir",
                folder,
            ],
            pass_fds=(write,),
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        try:
            with os.fdopen(read) as pipe:
                number = pipe.readline().strip()
            assert number, "Xvfb did not start"
            path = Path(folder) / "Xvfb_screen0"
            deadline = time.monotonic() + 20
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            with path.open("r+b") as file:
                buffer = mmap.mmap(file.fileno(), 0)
            # An X window dump: a big-endian header, a table of colours, the pixels.
            header = np.frombuffer(buffer, ">u4", count=25)
            offset = int(header[0]) + int(header[19]) * 12
            yield Screen(f":{number}", buffer, offset, size)
        finally:
            server.terminate()
            server.wait(timeout=20)
