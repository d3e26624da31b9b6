"""Films and streams as FFmpeg opens them."""

from __future__ import annotations

from typing import Any

from bot.vision.frames import MAX_PIXELS, SourceError


def open_container(
    address: str, shown: str, options: dict[str, str], remedy: str, *, timeout: float | None = None
) -> tuple[Any, Any]:
    """What FFmpeg makes of an address or a file's path, and the video in it.

    ``shown`` stands for the address, which may hold a password, in every message; ``remedy`` is
    for what can't be opened.

    Raises:
        SourceError: it can't be opened, or holds no video of a size that can be watched.
    """
    import av
    from av.error import FFmpegError

    try:
        container = av.open(
            address, options=options, timeout=None if timeout is None else (timeout, timeout)
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{shown} can't be opened: {why(error, address)}", remedy) from error
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


def why(error: Exception, address: str) -> str:
    """An error of FFmpeg's or the system's in words, without the address that it quotes."""
    return getattr(error, "strerror", None) or str(error).replace(address, "it")
