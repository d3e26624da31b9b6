"""Where frames come from. Imported by the worker process only.

Every source yields ``Frame`` with a BGR image, the order in which screens, OpenCV and
ultralytics work. To add a source: a class with ``FrameSource``'s members and a line in
``open_source``; docs/extending.md has an example.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from bot.settings import CaptureSettings
from bot.vision.refusal import Refusal
from bot.vision.worker.buffers import Buffers

if TYPE_CHECKING:
    from av import VideoFrame
    from mss import MSS

log = logging.getLogger(__name__)

MAX_PIXELS = 64 * 1024 * 1024
"""A larger picture is refused before it is decoded: an 8K screen has half of that."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
PLANAR = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
"""Pixel formats of FFmpeg with a plane of bytes for brightness and two for colours."""
STREAM_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "http", "https"})
STREAM_PROTOCOLS = "rtsp,rtp,rtmp,rtmps,udp,tcp,tls,http,https,httpproxy,crypto"
STREAM_TIMEOUT_SECONDS = 10.0
SCENE_SIZE = (1280, 720)
SCENE_SEED = 7
SCENE_START_SECONDS = 20.0
"""The film begins with a menu and a loading screen; who just started wants to see play."""


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
            from bot.vision.remote import RemoteSource

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
        if not self._path.is_file():
            raise SourceError(f"there is no video file {self._path}", "check capture.path")
        self._start()

    def _start(self) -> None:
        self._container, stream = _open_container(
            str(self._path), self._path.name, {"protocol_whitelist": "file"}
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


class StreamSource:
    """A network stream. A thread reads on and keeps the newest frame, so no lag builds up."""

    name = "stream"
    live = True

    def __init__(self, url: str, *, timeout: float = STREAM_TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        # Addresses of cameras carry passwords: neither user nor query is ever shown.
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        self.description = f"stream {parts.scheme}://{host}{port}{parts.path}"
        self._scheme = parts.scheme.lower()
        self._url = url
        self._timeout = timeout
        self._sequence = 0
        self._news = threading.Condition()
        self._newest: VideoFrame | None = None
        self._ended = False
        self._error: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        if self._scheme not in STREAM_SCHEMES:
            raise SourceError(
                f"{self._scheme or 'nothing'}: is no kind of stream that Danzar opens",
                f"capture.url starts with one of {', '.join(sorted(STREAM_SCHEMES))}",
            )
        options = {"protocol_whitelist": STREAM_PROTOCOLS, "fflags": "nobuffer"}
        if self._scheme.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        container, stream = _open_container(
            self._url, self.description, options, timeout=self._timeout
        )
        self._newest, self._ended, self._error = None, False, None
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._read, args=(container, stream), name="stream", daemon=True
        )
        self._thread.start()

    def _read(self, container: Any, stream: Any) -> None:
        from av.error import FFmpegError

        error: str | None = None
        try:
            for frame in container.decode(stream):
                with self._news:
                    self._newest = frame
                    self._news.notify_all()
                if self._stop.is_set():
                    break
        except (FFmpegError, OSError) as failure:
            error = _without_address(str(failure), self._url)
        finally:
            container.close()
            with self._news:
                self._ended, self._error = True, error
                self._news.notify_all()

    def grab(self, not_before: float | None = None) -> Frame | None:
        with self._news:
            self._news.wait_for(
                lambda: self._newest is not None or self._ended, timeout=self._timeout
            )
            decoded, self._newest = self._newest, None
            if decoded is None:
                if self._ended and self._error is None:
                    return None
                raise SourceError(
                    f"{self.description} stopped: {self._error or 'no frame came in time'}",
                    "it is opened again by itself; check the sender",
                )
        frame = Frame(Decoded(decoded), time.time(), decoded.time, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=self._timeout + 1)
            self._thread = None


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
        if not self._folder.is_dir():
            raise SourceError(f"there is no folder {self._folder}", "check capture.path")
        self._paths = sorted(
            (p for p in self._folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES),
            key=_natural,
        )
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


def load_image(path: Path) -> np.ndarray:
    """A picture as BGR; its size is looked at before it is decoded.

    Raises:
        SourceError: it is none, is damaged, or has more than ``MAX_PIXELS``.
    """
    return decode_image(path, path.name, ("PNG", "JPEG", "WEBP", "BMP"))


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


def _open_container(
    address: str, shown: str, options: dict[str, str], *, timeout: float | None = None
) -> tuple[Any, Any]:
    import av
    from av.error import FFmpegError

    try:
        container = av.open(
            address, options=options, timeout=None if timeout is None else (timeout, timeout)
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise SourceError(
            f"{shown} can't be opened: {_without_address(str(error), address)}",
            "check that it exists and is a video",
        ) from error
    stream = next(iter(container.streams.video), None)
    if stream is None:
        container.close()
        raise SourceError(f"{shown} holds no video", "choose another source")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        container.close()
        raise SourceError(
            f"{shown} has {width} x {height} pixels, too many", "choose a smaller video"
        )
    # Left alone it takes a thread for each core, the game's as well. One decodes a 1080p frame in
    # 2 to 3 ms beside the models, and the first frame is there at once.
    stream.codec_context.thread_count = 1
    # The size may change under way: the decoder itself refuses a larger picture.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return container, stream


def _without_address(text: str, address: str) -> str:
    return text.replace(address, "the address")


def _natural(path: Path) -> list[tuple[int, str]]:
    """frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]
