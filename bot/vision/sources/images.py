"""The frame source ``images``: the pictures of a folder."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import numpy as np

from bot.path_kind import NotThere, require
from bot.vision.frames import Frame, SourceError, decode_image

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


class ImagesSource:
    """The pictures of a folder, by name; ``fps`` gives them a time."""

    name = "images"
    live = False

    def __init__(self, folder: Path, fps: float, *, loop: bool = False) -> None:
        self.description = f"images in {folder.name or folder}"
        self._folder = folder
        self._fps = fps
        self._loop = loop
        self._paths: list[Path] = []
        self._next = 0
        self._sequence = 0

    def open(self) -> None:
        try:
            require(self._folder, "folder", "folder")
            found = [p for p in self._folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        except NotThere as error:
            raise SourceError(str(error), "check capture.path") from None
        except OSError as error:
            raise SourceError(
                f"the folder {self._folder} can't be read: {error.strerror}",
                "give this user the right to read it",
            ) from error
        self._paths = sorted(found, key=_natural)
        if not self._paths:
            raise SourceError(
                f"the folder {self._folder} holds no picture",
                f"put {', '.join(sorted(IMAGE_SUFFIXES))} files there",
            )
        self.description = f"{len(self._paths)} images in {self._folder.name or self._folder}"
        self._next = 0

    def grab(self, not_before: float | None = None) -> Frame | None:
        refused = 0
        while refused < len(self._paths):
            if self._next >= len(self._paths):
                if not self._loop:
                    return None
                self._next = 0
            path = self._paths[self._next]
            self._next += 1
            seconds = self._sequence / self._fps
            if not_before is not None and seconds + 1 / self._fps <= not_before:
                self._sequence += 1
                continue
            try:
                image = load_image(path)
            except SourceError as error:
                refused += 1
                log.warning("%s", error)
                continue
            frame = Frame(image, time.time(), seconds, self._sequence)
            self._sequence += 1
            return frame
        raise SourceError(
            f"none of the {self.description} can be read", "see the warnings before this"
        )

    def close(self) -> None:
        self._paths = []


def load_image(path: Path) -> np.ndarray:
    """A picture as BGR; its size is looked at before it is decoded.

    Raises:
        SourceError: it is none, is damaged, or has more than ``MAX_PIXELS``.
    """
    return decode_image(path, path.name, ("PNG", "JPEG", "WEBP", "BMP"))


def _natural(path: Path) -> list[tuple[int, str]]:
    """frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]
