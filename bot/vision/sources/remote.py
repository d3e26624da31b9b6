"""The frame source ``remote``: pictures that ``danzar capture`` sends from another machine."""

from __future__ import annotations

import io
import time

from bot.remote_capture.address import parse_address
from bot.remote_capture.secret import REMEDY, SecretError, capture_secret
from bot.vision.frames import MAX_PIXELS, Frame, SourceError, SourceWaiting, decode_image

WAIT_SECONDS = 2.0
"""After so long without a picture people are told why none comes."""


class RemoteSource:
    """Listens for a sender; the newest picture counts."""

    name = "remote"
    live = True

    def __init__(self, address: str) -> None:
        self.description = f"pictures sent to {address}"
        self._address = address
        self._receiver = None
        self._sequence = 0

    def open(self) -> None:
        try:
            from bot.remote_capture.receiver import Receiver
        except ModuleNotFoundError as error:
            raise SourceError(
                f"{error.name} is not installed", "install what vision needs: danzar[vision]"
            ) from error
        try:
            secret = capture_secret()
        except SecretError as error:
            what, _, remedy = str(error).partition("; ")
            raise SourceError(what, remedy or REMEDY) from None
        host, port = parse_address(self._address)
        try:
            self._receiver = Receiver(host, port, secret, most_pixels=MAX_PIXELS)
        except OSError as error:
            raise SourceError(
                f"nothing can be received on {self._address}: {error.strerror or error}",
                "change capture.listen, or end what listens there",
            ) from error

    def grab(self, not_before: float | None = None) -> Frame | None:
        receiver = self._receiver
        if receiver is None:
            raise SourceError("the remote source is closed", "open it first")
        picture = receiver.take(WAIT_SECONDS)
        if picture is None:
            raise SourceWaiting(*receiver.trouble)
        try:
            image = decode_image(io.BytesIO(picture), "a picture that was sent", ("JPEG", "PNG"))
        except SourceError as error:
            receiver.refuse(str(error))
            raise SourceWaiting(*receiver.trouble) from error
        frame = Frame(image, time.time(), None, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
