"""The frame source ``video``: a film in a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.path_kind import NotThere, require
from bot.vision.frames import Decoded, Frame, SourceError
from bot.vision.sources.container import open_container

if TYPE_CHECKING:
    from av import VideoFrame

log = logging.getLogger(__name__)


class VideoSource:
    """A video file, frame by frame."""

    name = "video"
    live = False

    def __init__(self, path: Path, *, loop: bool = False) -> None:
        self.description = f"video {path.name}"
        self._path = path
        self._loop = loop
        self._container: Any = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._sequence = 0
        self._offset = 0.0
        self._last = 0.0
        self._step = 0.0
        """Between the last two frames: so much later the film begins again."""

    def open(self) -> None:
        try:
            require(self._path, "file", "video file")
        except NotThere as error:
            raise SourceError(str(error), "check capture.path") from None
        self._start()

    def _start(self) -> None:
        self._container, stream = open_container(
            str(self._path),
            f"the file {self._path.name}",
            {"protocol_whitelist": "file"},
            "check that it is a video and that this user may read it",
        )
        self._frames = self._container.decode(stream)

    def grab(self, not_before: float | None = None) -> Frame | None:
        while True:
            decoded = self._next()
            if decoded is None:
                if not self._loop or self._sequence == 0:
                    return None
                self.close()
                self._offset = self._last + self._step
                self._start()
                decoded = self._next()
                if decoded is None:
                    return None
            seconds = self._offset + (decoded.time if decoded.time is not None else 0.0)
            if seconds > self._last:
                self._step, self._last = seconds - self._last, seconds
            if not_before is not None and seconds < not_before:
                self._sequence += 1
                continue
            frame = Frame(Decoded(decoded), time.time(), seconds, self._sequence)
            self._sequence += 1
            return frame

    def _next(self) -> VideoFrame | None:
        from av.error import FFmpegError, InvalidDataError

        while True:
            try:
                return next(self._frames, None)
            except InvalidDataError as error:
                # A damaged packet costs its frame, not the film.
                log.warning("%s: a damaged frame was skipped (%s)", self.description, error)
            except (FFmpegError, OSError) as error:
                raise SourceError(
                    f"{self.description} can't be read further: {error}", "check the file"
                ) from error

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None
        self._frames = iter(())
