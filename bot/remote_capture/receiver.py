"""Hears one ``danzar capture`` at a time and keeps the newest picture that it sent.

In the vision worker, in threads of its own. Nobody is read further than a greeting before they
have shown that they know the secret.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import time

from bot.remote_capture.address import shown
from bot.remote_capture.wire import (
    Channel,
    Kind,
    Refused,
    Visitor,
    WireError,
)

log = logging.getLogger("bot.vision.sources.remote")

MOST_VISITORS = 4
"""So many may be at their greeting at once; more are hung up on."""
START = "start `danzar capture --to HOST:PORT` where the game runs"
SAME_SECRET = "give both sides the same secret"
COMPLAINT_SECONDS = 30.0
"""Strangers who knock are told in the log no more often than this."""
FORMATS = ("JPEG", "PNG")


class Receiver:
    """Listens at an address until it is closed."""

    def __init__(self, host: str, port: int, secret: bytes, *, most_pixels: int) -> None:
        """Starts to listen at once. Raises ``OSError``."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=MOST_VISITORS)
        bound = self._listener.getsockname()
        self.port: int = bound[1]
        self.address = shown(host, self.port)
        self._secret = secret
        self._most_pixels = most_pixels
        self._news = threading.Condition()
        self._picture: bytes | None = None
        self._channel: Channel | None = None
        self._speaking = threading.Lock()
        """Held for the one sender that is heard."""
        self._why: tuple[str, str] = (f"no sender is connected to {self.address}", START)
        self._closed = False
        self._visitors = threading.BoundedSemaphore(MOST_VISITORS)
        self._complained = -COMPLAINT_SECONDS
        threading.Thread(target=self._accept, name="remote", daemon=True).start()

    @property
    def trouble(self) -> tuple[str, str]:
        """Why no picture comes, and what to do."""
        return self._why

    def take(self, seconds: float) -> bytes | None:
        """The newest picture that was not taken yet, encoded; waits so long for one."""
        with self._news:
            self._news.wait_for(lambda: self._picture is not None or self._closed, timeout=seconds)
            picture, self._picture = self._picture, None
            return picture

    def refuse(self, words: str) -> None:
        """Tell the sender why it isn't heard any more, and hang up."""
        channel = self._channel
        if channel is not None:
            self._part(channel, words)

    def close(self) -> None:
        """Idempotent."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        # A shutdown wakes the thread that accepts; elsewhere than on Linux closing does.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        channel = self._channel
        if channel is not None:
            channel.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, peer = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                self._complain("nobody could be let in: %s", error.strerror)
                time.sleep(0.5)  # out of descriptors: don't spin
                continue
            if not self._visitors.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(
                target=self._receive, args=(connection, str(peer[0])), name="sender", daemon=True
            ).start()

    def _receive(self, connection: socket.socket, peer: str) -> None:
        try:
            channel = self._greet(connection, peer)
        finally:
            self._visitors.release()
        if channel is None:
            connection.close()
            return
        try:
            self._listen(channel, peer)
        finally:
            channel.close()
            self._channel = None
            self._speaking.release()

    def _greet(self, connection: socket.socket, peer: str) -> Channel | None:
        """A channel, and the right to speak, for whoever knows the secret."""
        try:
            visitor = Visitor(connection, self._secret)
            if not self._speaking.acquire(blocking=False):
                visitor.send_away()
                return None
        except Refused as error:
            if self._channel is None:
                self._why = (f"a sender from {peer} was refused: {error}", SAME_SECRET)
            self._complain("%s was refused: %s", peer, error)
            return None
        except WireError as error:
            self._complain("%s was refused: %s", peer, error)
            return None
        try:
            return visitor.welcome()
        except WireError as error:
            self._speaking.release()
            self._complain("%s was lost: %s", peer, error)
            return None

    def _listen(self, channel: Channel, peer: str) -> None:
        self._channel = channel
        self._why = (f"the sender {peer} sends no pictures", "look at what it says")
        log.info("a sender is connected from %s", peer)
        try:
            while not self._closed:
                kind, content = channel.receive()
                if kind is Kind.END:
                    self._why = (f"the sender {peer} has ended", START)
                    break
                if kind is Kind.PICTURE:
                    if problem := picture_problem(content, self._most_pixels):
                        self._part(channel, problem)
                        break
                    with self._news:
                        self._picture = content
                        self._news.notify_all()
        except WireError as error:
            if not channel.parted:
                self._why = (f"the sender {peer} was lost: {error}", "it comes back by itself")
        if not self._closed:
            log.info("%s", self._why[0])

    def _part(self, channel: Channel, words: str) -> None:
        self._why = (f"the sender was refused: {words}", "look at the sender")
        log.warning("%s", self._why[0])
        channel.part(words)

    def _complain(self, words: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            log.warning(f"remote capture on %s: {words}", self.address, *values)


def picture_problem(content: bytes, most_pixels: int) -> str:
    """What is wrong with an encoded picture, looking at its head alone; else nothing."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
    except Exception as error:  # a damaged head raises whatever its reader hit upon
        return f"it sent something that is no picture ({type(error).__name__})"
    if width * height > most_pixels:
        return f"a picture has {width} x {height} pixels, too many"
    return ""
