"""What a configuration names and is not there. Nothing is opened but the models' manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bot.misfits import Misfit
from bot.path_kind import NotThere, require
from bot.vision.chosen_files import clip_file, yolo_file
from bot.vision.model_files import FileRefused

if TYPE_CHECKING:
    from bot.settings import CaptureSettings, Settings

NO_MODEL = Misfit(
    "yolo.enabled",
    "YOLO and CLIP are both switched off, so vision sees nothing",
    "switch one on, unless that is meant",
)


def missing_files(settings: Settings) -> Iterator[Misfit]:
    """Models and films or folders of pictures that can't be used because they are not there."""
    if settings.yolo.enabled:
        try:
            yolo_file(settings.yolo)
        except FileRefused as error:
            yield Misfit("yolo.model_path", error.what, error.remedy, fatal=True)
    if settings.clip.enabled:
        try:
            clip_file(settings.clip)
        except FileRefused as error:
            yield Misfit("clip", error.what, error.remedy, fatal=True)
    if not settings.yolo.enabled and not settings.clip.enabled:
        yield NO_MODEL
    yield from _to_be_watched(settings.capture)


def _to_be_watched(capture: CaptureSettings) -> Iterator[Misfit]:
    path = Path(capture.path or "")
    try:
        if capture.source == "video":
            require(path, "file", "video file")
        elif capture.source == "images":
            require(path, "folder", "folder")
    except NotThere as error:
        yield Misfit("capture.path", str(error), "name another, or put it there", fatal=True)
