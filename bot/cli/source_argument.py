"""What ``danzar watch`` and ``danzar capture`` are told to look at: ``--source``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import ValidationError

from bot.path_kind import NotThere, kind_of
from bot.settings import CaptureSettings

TAKEN = "--source takes screen, scene, region, a path or an address such as rtsp://..."


class UsageError(Exception):
    """The arguments make no sense together; says which and what to do."""


def capture_settings(configured: CaptureSettings, source: str | None) -> CaptureSettings:
    """The configured capture with ``--source`` applied.

    Raises:
        UsageError: the source is neither a word nor a file nor a folder nor an address.
    """
    if source is None:
        return configured
    if source == "region":
        if configured.region is None:
            raise UsageError("--source region needs capture.region in the configuration")
        return configured.model_copy(update={"source": "region"})
    if source in ("screen", "scene", "auto"):
        return configured.model_copy(update={"source": source})
    if "://" in source and urlsplit(source).scheme != "file":
        try:
            CaptureSettings(source="stream", url=source)
        except ValidationError:
            # Its words would show the address, and with it a password.
            raise UsageError(
                "--source takes an address such as rtsp://camera:554/1 (rtsp, rtmp, udp, rtp, "
                "http(s)); this one has another scheme, no host or no possible port"
            ) from None
        return configured.model_copy(update={"source": "stream", "url": source})
    name = _path_of(source) if source.startswith("file://") else source
    if not name.strip():
        # As a path it would be the current folder, which nobody meant.
        raise UsageError(f"--source is empty; {TAKEN}")
    try:
        path = Path(name).expanduser()
        kind = kind_of(path)
    except NotThere as error:
        raise UsageError(f"{error}; {TAKEN}") from None
    except RuntimeError:  # nobody's, or there is none
        raise UsageError(f"{name} names no home folder that is here; {TAKEN}") from None
    new = {"source": "images" if kind == "folder" else "video", "path": str(path)}
    return configured.model_copy(update=new)


def _path_of(address: str) -> str:
    """``file:///films/a%20b.mp4`` as a file manager copies it."""
    path = address.removeprefix("file://")
    try:
        return url2pathname(path.removeprefix("localhost") if path[9:10] == "/" else path)
    except OSError:  # Windows: more than one colon
        raise UsageError(f"{address} names no file; {TAKEN}") from None
