"""Where frames come from. Imported by the worker process only.

To add a source: a class with ``FrameSource``'s members and a line in ``_make``;
docs/extending.md has an example.
"""

from __future__ import annotations

from pathlib import Path

from bot.settings import CaptureSettings
from bot.vision.frames import FrameSource, SourceError
from bot.vision.sources.images import ImagesSource
from bot.vision.sources.scene import SceneSource
from bot.vision.sources.screen import ScreenSource
from bot.vision.sources.stream import StreamSource
from bot.vision.sources.video import VideoSource


def open_source(settings: CaptureSettings) -> FrameSource:
    """The configured source, opened.

    Raises:
        SourceError: it can't be opened.
    """
    if settings.source == "auto":
        return _open_auto(settings)
    source = _make(settings)
    source.open()
    return source


def _make(settings: CaptureSettings) -> FrameSource:
    match settings.source:
        case "screen" | "auto":
            return ScreenSource(settings.monitor)
        case "region":
            return ScreenSource(settings.monitor, settings.region)
        case "video":
            return VideoSource(Path(settings.path or ""), loop=settings.loop)
        case "stream":
            return StreamSource(settings.url or "")
        case "images":
            return ImagesSource(Path(settings.path or ""), settings.fps, loop=settings.loop)
        case "scene":
            return SceneSource(settings.fps)
        case "remote":
            from bot.vision.sources.remote import RemoteSource

            return RemoteSource(settings.listen)


def _open_auto(settings: CaptureSettings) -> FrameSource:
    screen = ScreenSource(settings.monitor)
    try:
        screen.open()
    except SourceError as error:
        scene = SceneSource(settings.fps)
        scene.open()
        scene.description += f" (no screen: {error.what})"
        return scene
    return screen
