"""``danzar capture``: takes pictures on this machine and sends them to the bot on another one.

For a bot in a container, which sees no screen. Pictures go to the one address that was named,
encrypted, and only after what listens there has shown that it knows the shared secret.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bot.cli.arguments import positive
from bot.cli.exits import Exit
from bot.cli.source_argument import UsageError, capture_settings
from bot.remote_capture.address import parse_address, shown
from bot.remote_capture.secret import SecretError, capture_secret
from bot.settings import CaptureSettings, Settings
from bot.settings_problems import problems_of

if TYPE_CHECKING:
    from bot.remote_capture.wire import Channel
    from bot.vision.frames import Frame, FrameSource

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
PIECE = 0.2
QUALITIES = (90, 75, 50)
"""Of the JPEG; the lesser ones only where a picture would be too large to be sent."""
MISSING = 'danzar capture: {} is not installed; pip install -e ".[capture]" in Danzar\'s folder'


class Ended(Exception):
    """There is nothing left to send."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; ``--config`` belongs to ``danzar`` as a whole."""
    parser.add_argument(
        "--to",
        required=True,
        metavar="HOST:PORT",
        type=_address,
        help="where the bot listens: its capture.listen, or the port that its container publishes",
    )
    parser.add_argument(
        "--source",
        metavar="screen|region|scene|PATH|URL",
        help="what to send: the screen (the default), the configured region, the rendered scene, "
        "a video file, a folder of images, or a stream",
    )
    parser.add_argument("--monitor", type=int, metavar="N", help="1 is the first screen, 0 all")
    parser.add_argument(
        "--region", type=_region, metavar="LEFT,TOP,WIDTH,HEIGHT", help="a part of the desktop"
    )
    parser.add_argument("--fps", type=_rate, metavar="N", help="pictures a second (as configured)")
    parser.add_argument("--frames", type=positive, metavar="N", help="end after N pictures")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Send until there is nothing more, Ctrl-C, or a refusal; the exit status."""
    try:
        secret = capture_secret()
    except SecretError as error:
        _say(str(error))
        return Exit.TOKEN
    try:
        capture = _what_to_send(args, settings.capture)
    except UsageError as error:
        _say(str(error))
        return Exit.CONFIGURATION
    stop = threading.Event()
    with _ended_by_signals(stop):
        try:
            return Sender(args.to, secret, capture, args.frames, stop).run()
        except ModuleNotFoundError as error:
            print(MISSING.format(error.name), file=sys.stderr)
            return Exit.FAILED


class Sender:
    """Keeps sending one source to one address."""

    def __init__(
        self,
        to: tuple[str, int],
        secret: bytes,
        capture: CaptureSettings,
        frames: int | None,
        stop: threading.Event,
    ) -> None:
        self._to = to
        self._secret = secret
        self._capture = capture
        self._left = frames
        self._stop = stop
        self._said = ""

    def run(self) -> int:
        """The exit status: 0 when all was sent, 3 when the secret is not the bot's."""
        from bot.remote_capture.wire import Refused, Verdict, WireError
        from bot.vision.frames import SourceError

        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with self._connected() as channel:
                    self._send_source(channel)
            except Ended as end:
                _say(str(end))
                return Exit.OK
            except Refused as refusal:
                if refusal.verdict is Verdict.WRONG_SECRET:
                    _say(f"{refusal}. Give both sides the same secret and start again.")
                    return Exit.TOKEN
                self._trouble(str(refusal))
            except SourceError as error:
                if not self._waits_for_source():
                    _say(str(error))
                    return Exit.FAILED
                self._trouble(str(error))
            except (WireError, OSError) as error:
                why = getattr(error, "strerror", None) or str(error)
                self._trouble(f"{shown(*self._to)}: {why}")
            if time.monotonic() - began > RETRY_SECONDS[-1]:
                failures = 0
            self._pause(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1
        return Exit.OK

    def _pause(self, seconds: float) -> None:
        """Until ``stop``, in pieces: on Windows Ctrl-C is not heard before a wait is over."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.wait(min(left, PIECE)):
            pass

    def _waits_for_source(self) -> bool:
        return self._capture.source in ("screen", "region", "stream")

    def _trouble(self, words: str) -> None:
        """Said once, however often it is tried again."""
        if words != self._said:
            self._said = words
            _say(f"{words}; it is tried again (Ctrl-C ends it)")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Channel]:
        from bot.remote_capture.wire import HANDSHAKE_SECONDS, knock

        with socket.create_connection(self._to, timeout=HANDSHAKE_SECONDS) as connection:
            # What waits in here would be old when it arrives.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            channel = knock(connection, self._secret)
            try:
                yield channel
            finally:
                channel.close()

    def _send_source(self, channel: Channel) -> None:
        from bot.vision.sources import open_source

        source = open_source(self._capture)
        try:
            self._said = ""
            _say(f"sending {source.description} to {shown(*self._to)}")
            self._send_frames(channel, source)
        finally:
            source.close()

    def _send_frames(self, channel: Channel, source: FrameSource) -> None:
        from bot.remote_capture.wire import Kind, WireError

        began = due = time.monotonic()
        while not self._stop.is_set():
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            due = max(due + 1 / self._capture.fps, time.monotonic())
            _hear(channel)
            frame = source.grab(None if source.live else time.monotonic() - began)
            if frame is None or self._left == 0:
                channel.send(Kind.END)
                raise Ended("all pictures were sent")
            channel.send(Kind.PICTURE, encode(frame))
            if self._left is not None:
                self._left -= 1
        with contextlib.suppress(WireError):
            channel.send(Kind.END)


def _hear(channel: Channel) -> None:
    """Raises ``WireError`` with the bot's words when it hung up."""
    from bot.remote_capture.wire import Kind, WireError

    readable, _, _ = select.select([channel], [], [], 0)
    if readable:
        kind, content = channel.receive()
        if kind is Kind.REFUSED:
            words = content.decode("utf-8", "replace")
            raise WireError("the bot hung up: " + "".join(c for c in words if c.isprintable()))


def encode(frame: Frame) -> bytes:
    """A frame as a JPEG that is small enough to be sent.

    Raises:
        SourceError: it is too large even so.
    """
    import cv2

    from bot.remote_capture.wire import MAX_PICTURE_BYTES
    from bot.vision.frames import SourceError

    for quality in QUALITIES:
        done, data = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and data.nbytes <= MAX_PICTURE_BYTES:
            return data.tobytes()
    height, width = frame.image.shape[:2]
    raise SourceError(f"a picture of {width} x {height} is too large", "send a region of it")


def _what_to_send(args: argparse.Namespace, configured: CaptureSettings) -> CaptureSettings:
    source: str | None = args.source
    if source is None and args.region:
        source = "region"
    elif source is None and configured.source in ("auto", "remote"):
        source = "screen"
    changes: dict[str, object] = {"region": args.region} if args.region else {}
    if args.monitor is not None:
        changes["monitor"] = args.monitor
    if args.fps is not None:
        changes["fps"] = args.fps
    chosen = capture_settings(configured.model_copy(update=changes), source)
    # Not copied but made anew: so that what was given together is checked.
    given = chosen.model_dump(mode="json")
    try:
        return CaptureSettings.model_validate(given)
    except ValidationError as error:
        [problem, *_] = problems_of(error, CaptureSettings, {(key,): 1 for key in given}, most=1)
        raise UsageError(f"--{problem.key or 'source'}: {problem.message}") from None


@contextlib.contextmanager
def _ended_by_signals(stop: threading.Event) -> Iterator[None]:
    def arrived(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(Exit.INTERRUPTED)
        stop.set()

    before = {n: signal.signal(n, arrived) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(words: str) -> None:
    print(f"danzar capture: {words}", file=sys.stderr, flush=True)


def _address(text: str) -> tuple[str, int]:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _region(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,WIDTH,HEIGHT in pixels")
    return numbers


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) <= 120:
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of pictures a second up to 120")
