"""The frame source ``scene``: rendered screens of a game."""

from __future__ import annotations

import time
from typing import Any

import cv2

from bot.vision.frames import Frame

SCENE_SIZE = (1280, 720)
SCENE_SEED = 7
SCENE_START_SECONDS = 20.0
"""The film begins with a menu and a loading screen; who just started wants to see play."""


class SceneSource:
    """Rendered game screens: the demo's screen where there is none."""

    name = "scene"
    live = False

    def __init__(self, fps: float, size: tuple[int, int] = SCENE_SIZE) -> None:
        self.description = f"rendered scene ({size[0]} x {size[1]})"
        self._fps = fps
        self._size = size
        self._film: Any = None
        self._sequence = 0

    def open(self) -> None:
        from bot.vision.scene import Film

        self._film = Film(SCENE_SEED, self._size)

    def grab(self, not_before: float | None = None) -> Frame | None:
        seconds = self._sequence / self._fps if not_before is None else not_before
        image = cv2.cvtColor(self._film.at(SCENE_START_SECONDS + seconds).image, cv2.COLOR_RGB2BGR)
        frame = Frame(image, time.time(), seconds, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        self._film = None
