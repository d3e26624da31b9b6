"""What a frame is, and what gives frames. Imported by the worker process only.

Every source yields ``Frame`` with a BGR image, the order in which screens, OpenCV and
ultralytics work. ``sources`` has them all.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import cv2
import numpy as np

from bot.vision.refusal import Refusal

if TYPE_CHECKING:
    from av import VideoFrame

MAX_PIXELS = 64 * 1024 * 1024
"""A larger picture is refused before it is decoded: an 8K screen has half of that."""
PLANAR = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Pixel formats of FFmpeg with a plane of bytes for brightness and two for colours."""


class SourceError(Refusal):
    """No frame can be had."""


class SourceWaiting(SourceError):
    """No frame came yet, but the source stays open: ``grab`` may be called again at once."""


class Decoded:
    """A frame as its decoder left it. To make colours of it takes a third of the time that its
    decoding took, and who only wants to know whether anything has changed needs none."""

    def __init__(self, frame: VideoFrame) -> None:
        """Raises ``SourceError``: it is too large."""
        self.size = (frame.height, frame.width)
        if frame.width * frame.height > MAX_PIXELS:
            raise SourceError(
                f"a frame has {frame.width} x {frame.height} pixels, too many",
                "choose a smaller video",
            )
        self._frame = frame
        self._image: np.ndarray | None = None
        self._making = threading.Lock()

    def image(self) -> np.ndarray:
        """Height x width x 3, uint8, BGR, contiguous; made once."""
        with self._making:
            if self._image is None:
                self._image = np.ascontiguousarray(self._frame.to_ndarray(format="bgr24"))
            return self._image

    def planes(self) -> tuple[np.ndarray, ...]:
        """Views of its brightness, then of its two colours, each height x width, uint8; none where
        the decoder has them in another form."""
        if self._frame.format.name not in PLANAR:
            return ()
        planes: Any = self._frame.planes  # they have the buffer protocol, which no stub says
        return tuple(
            np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in planes
        )


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture."""

    picture: np.ndarray | Decoded
    """``image``, or what it is made of."""
    captured_at: float
    """Unix time."""
    media_seconds: float | None
    """Time within the file or film; ``None`` for live sources."""
    sequence: int
    """0 for the first frame of the source."""

    @property
    def image(self) -> np.ndarray:
        """Height x width x 3, uint8, BGR, contiguous."""
        return self.picture.image() if isinstance(self.picture, Decoded) else self.picture

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.picture, Decoded):
            return self.picture.size
        return self.picture.shape[0], self.picture.shape[1]

    @property
    def planes(self) -> tuple[np.ndarray, ...]:
        """``Decoded.planes``; none of a picture that came in colours."""
        return self.picture.planes() if isinstance(self.picture, Decoded) else ()


class FrameSource(Protocol):
    """What the capture loop asks of a source. Only the capture thread calls it."""

    name: str
    """As in ``FrameReport.source``."""
    description: str
    """For people, valid after ``open``: ``screen 1 (1920 x 1080)``."""
    live: bool
    """Frames can't wait: the newest counts. Else each frame can be had in order."""

    def open(self) -> None:
        """Raises ``SourceError``."""
        ...

    def grab(self, not_before: float | None = None) -> Frame | None:
        """The next frame, or ``None`` at the end.

        Sources with a time of their own skip what lies before ``not_before`` (seconds since
        their start). Raises ``SourceError``; ``SourceWaiting`` when it may be called again.
        """
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


def decode_image(file: Path | BinaryIO, shown: str, formats: tuple[str, ...]) -> np.ndarray:
    """An encoded picture as BGR; ``shown`` names it. Raises ``SourceError`` as ``load_image``."""
    from PIL import Image

    try:
        with Image.open(file, formats=formats) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise SourceError(
                    f"{shown} has {width} x {height} pixels, too many", "scale it down"
                )
            rgb = np.asarray(picture.convert("RGB"))
    except SourceError:
        raise
    except Exception as error:  # damaged files raise whatever the decoder hit upon
        raise SourceError(f"{shown} is no readable picture: {error}", "replace it") from error
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
