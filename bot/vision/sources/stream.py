"""The frame source ``stream``: what a camera or another program sends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bot.vision.frames import Decoded, Frame, SourceError
from bot.vision.sources.container import open_container, why

if TYPE_CHECKING:
    from av import VideoFrame

STREAM_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "http", "https"})
STREAM_PROTOCOLS = "rtsp,rtp,rtmp,rtmps,udp,tcp,tls,http,https,httpproxy,crypto"
STREAM_TIMEOUT_SECONDS = 10.0


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
        container, stream = open_container(
            self._url,
            self.description,
            options,
            "check that the sender runs and that the address in capture.url or --source is its",
            timeout=self._timeout,
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
            error = why(failure, self._url)
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
