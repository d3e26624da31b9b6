"""A live picture that stays black: most often something hides the game from screen capture."""

from __future__ import annotations

from bot.vision.frames import Frame

BLACK_SECONDS = 10.0
"""Loading screens and cuts are black for less."""
BLACK = 8
"""Of 255: what a pixel of a black picture has at most. A stream's codec leaves a little."""
STRIDE = 4

HIDDEN = (
    f"the screen has been black for {BLACK_SECONDS:.0f} seconds; a game in exclusive full screen "
    "hides itself from screen capture: choose borderless full screen in its settings, or let OBS "
    "send its picture as a stream"
)
SENT_BLACK = (
    f"the pictures have been black for {BLACK_SECONDS:.0f} seconds; look at what sends them"
)


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
        return HIDDEN if source in ("screen", "region") else SENT_BLACK
