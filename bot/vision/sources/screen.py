"""The frame sources ``screen`` and ``region``: what is on the desktop."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bot.vision.frames import Frame, SourceError
from bot.vision.worker.buffers import Buffers

if TYPE_CHECKING:
    from mss import MSS


class ScreenSource:
    """A monitor, or a part of the desktop, through one ``mss`` instance that is kept."""

    live = True

    def __init__(self, monitor: int, region: tuple[int, int, int, int] | None = None) -> None:
        self.name = "screen" if region is None else "region"
        self.description = self.name
        self._monitor = monitor
        self._region = region
        self._mss: MSS | None = None
        self._buffers = Buffers()
        self._area: dict[str, Any] = {}
        self._sequence = 0

    def open(self) -> None:
        if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
            wayland = bool(os.environ.get("WAYLAND_DISPLAY"))
            raise SourceError(
                "only Wayland is running, which lets no program read the screen"
                if wayland
                else "DISPLAY is not set",
                "log in with an X11 session, or set capture.source to video, stream, images "
                "or scene",
            )
        import mss

        try:
            self._mss = mss.MSS()
            self._area = self._choose(self._mss.monitors)
            self._mss.grab(self._area)
        except SourceError:
            self.close()
            raise
        except Exception as error:  # each backend of mss has its own errors
            self.close()
            display = os.environ.get("DISPLAY", "")
            raise SourceError(
                f"the screen{f' {display}' if display else ''} can't be read: {error}",
                "check that a desktop session runs and that this user may read it",
            ) from error
        size = f"{self._area['width']} x {self._area['height']}"
        if self._region is None:
            self.description = f"screen {self._monitor} ({size})"
            if sys.platform.startswith("linux") and os.environ.get("WAYLAND_DISPLAY"):
                self.description += ", through XWayland: Wayland's own windows stay black"
        else:
            at = f"{self._area['left']}, {self._area['top']}"
            self.description = f"region at {at} ({size})"

    def _choose(self, monitors: list[dict[str, Any]]) -> dict[str, Any]:
        desktop = monitors[0]
        if self._region is None:
            if self._monitor >= len(monitors):
                raise SourceError(
                    f"there is no monitor {self._monitor}",
                    f"set capture.monitor to a number from 0 to {len(monitors) - 1}",
                )
            return monitors[self._monitor]
        left, top, width, height = self._region
        inside = (
            left >= desktop["left"]
            and top >= desktop["top"]
            and left + width <= desktop["left"] + desktop["width"]
            and top + height <= desktop["top"] + desktop["height"]
        )
        if not inside:
            raise SourceError(
                f"the region {left}, {top}, {width} x {height} is not on the desktop "
                f"({desktop['width']} x {desktop['height']})",
                "change capture.region",
            )
        return {"left": left, "top": top, "width": width, "height": height}

    def grab(self, not_before: float | None = None) -> Frame | None:
        if self._mss is None:
            raise SourceError("the screen is closed", "open it first")
        try:
            shot = self._mss.grab(self._area)
        except Exception as error:  # each backend of mss has its own errors
            raise SourceError(
                f"the screen can't be read any more: {error}",
                "it is opened again by itself when the desktop is back",
            ) from error
        bgra = np.frombuffer(shot.raw, np.uint8).reshape(shot.height, shot.width, 4)
        image = self._buffers.take((shot.height, shot.width, 3))
        cv2.cvtColor(bgra, cv2.COLOR_BGRA2BGR, dst=image)
        frame = Frame(image, time.time(), None, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        if self._mss is not None:
            self._mss.close()
            self._mss = None
