"""A live picture that stays black: most often something hides the game from screen capture."""

from __future__ import annotations

import os

from bot.vision.frames import Frame

BLACK_SECONDS = 10.0
"""Loading screens and cuts are black for less."""
BLACK = 8
"""Of 255: what a pixel of a black picture has at most. A stream's codec leaves a little."""
STRIDE = 4

_BLACK_FOR = f"the picture has been black for {BLACK_SECONDS:.0f} seconds; "
WINDOWED = (
    _BLACK_FOR + "if a game is on: in exclusive full screen it may hide from screen capture, so "
    "choose borderless full screen in its settings, or let OBS send its picture as a stream"
)
WAYLAND = (
    _BLACK_FOR + "windows of Wayland itself stay black: use an X11 session, or let OBS send its "
    "picture as a stream"
)
SENT_BLACK = _BLACK_FOR + "look at what sends it"


class Darkness:
    """Told of each frame, it says what a person should know."""

    def __init__(self) -> None:
        self._since: float | None = None

    def look(self, frame: Frame, source: str, at: float, *, changed: bool) -> str:
        """Empty while all is well. ``at`` in monotonic seconds; equal pictures cost nothing."""
        if changed:
            black = int(frame.image[::STRIDE, ::STRIDE].max()) <= BLACK
            self._since = (at if self._since is None else self._since) if black else None
        if self._since is None or at - self._since < BLACK_SECONDS:
            return ""
        if source == "stream":
            return SENT_BLACK
        here = source != "remote"
        return WAYLAND if here and os.environ.get("WAYLAND_DISPLAY") else WINDOWED
