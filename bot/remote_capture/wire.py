"""How ``danzar capture`` and the vision worker speak: one connection, proven and encrypted.

Each side sends a fresh X25519 key, then shows that it knows the shared secret: an HMAC under a
key that is derived from both (HKDF-SHA256), over what was said so far. The secret never travels,
and what was recorded opens nothing: the next connection has other keys. After that everything goes
in records: a length, then ChaCha20-Poly1305 with a counter as its nonce, so a record that was
changed, repeated or left out ends the connection.

    sender -> receiver    MAGIC, public key
    receiver -> sender    MAGIC, public key
    sender -> receiver    proof
    receiver -> sender    verdict (one byte), proof over it
    both                  records
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
import time
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"DANZARF1"
KEY_BYTES = 32
TAG_BYTES = 16
LENGTH = struct.Struct(">I")
HANDSHAKE_SECONDS = 5.0
PING_SECONDS = 2.0
SILENCE_SECONDS = 10.0
"""A side that says nothing for so long is gone, though its connection may not know it."""
MAX_PICTURE_BYTES = 16 << 20
"""An 8K screen as a JPEG has about half of that."""
MAX_WORDS_BYTES = 1000


class WireError(Exception):
    """The connection is of no more use; says why."""


class Verdict(IntEnum):
    """What the receiver makes of a sender."""

    WELCOME = 0
    WRONG_SECRET = 1
    BUSY = 2


class Refused(WireError):
    """The receiver does not want this sender."""

    def __init__(self, verdict: Verdict, words: str) -> None:
        super().__init__(words)
        self.verdict = verdict


class Kind(IntEnum):
    """What a record is."""

    PING = 0
    PICTURE = 1
    END = 2
    """The sender has no more pictures."""
    REFUSED = 3
    """The receiver's words on why it closes."""


class Channel:
    """An open connection between two sides that have proven themselves."""

    def __init__(self, connection: socket.socket, outgoing: bytes, incoming: bytes) -> None:
        self._connection = connection
        self._seal = ChaCha20Poly1305(outgoing)
        self._open = ChaCha20Poly1305(incoming)
        self._sent = 0
        self._received = 0
        self.parted = False
        """Whether this side said why it closes."""

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, kind: Kind, content: bytes = b"") -> None:
        """Raises ``WireError`` when it does not get through."""
        if len(content) > MAX_PICTURE_BYTES:
            raise WireError(f"a picture of {len(content)} bytes is too large to be sent")
        length = LENGTH.pack(1 + len(content) + TAG_BYTES)
        sealed = self._seal.encrypt(_nonce(self._sent), bytes([kind]) + content, length)
        self._sent += 1
        try:
            self._connection.settimeout(SILENCE_SECONDS)
            self._connection.sendall(length + sealed)
        except OSError as error:
            raise WireError(_why(error)) from None

    def receive(self) -> tuple[Kind, bytes]:
        """The next record; its length is bounded before anything of it is read.

        Raises:
            WireError: it was cut off, changed or too large, or there was silence.
        """
        deadline = time.monotonic() + SILENCE_SECONDS
        head = _exactly(self._connection, LENGTH.size, deadline)
        (length,) = LENGTH.unpack(head)
        if not 1 + TAG_BYTES <= length <= 1 + MAX_PICTURE_BYTES + TAG_BYTES:
            raise WireError(f"a record of {length} bytes is none of ours")
        sealed = _exactly(self._connection, length, deadline)
        try:
            content = self._open.decrypt(_nonce(self._received), sealed, head)
            kind = Kind(content[0])
        except (InvalidTag, ValueError):
            raise WireError("a record was changed on its way") from None
        self._received += 1
        return kind, content[1:]

    def part(self, words: str) -> None:
        """Tell the other side why, as far as it still hears, and close."""
        self.parted = True
        with contextlib.suppress(WireError):
            self.send(Kind.REFUSED, words.encode()[:MAX_WORDS_BYTES])
        self.close()

    def close(self) -> None:
        """Idempotent."""
        _hang_up(self._connection)


def knock(connection: socket.socket, secret: bytes) -> Channel:
    """The sender's side of the handshake.

    Raises:
        Refused: the receiver said no.
        WireError: the other side is no receiver, or doesn't know the secret.
    """
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    private = X25519PrivateKey.generate()
    mine = MAGIC + private.public_key().public_bytes_raw()
    _give(connection, mine)
    theirs = _exactly(connection, len(mine), deadline)
    keys = _Keys(private, theirs, mine + theirs, secret)
    _give(connection, keys.proof_of_sender)
    answer = _exactly(connection, 1 + KEY_BYTES, deadline)
    if answer[0] == Verdict.WRONG_SECRET:
        raise Refused(Verdict.WRONG_SECRET, "the bot has another shared secret")
    if not hmac.compare_digest(answer[1:], keys.proof_of_receiver(answer[0])):
        raise Refused(
            Verdict.WRONG_SECRET,
            "what answers there does not know the shared secret; nothing was sent to it",
        )
    if answer[0] == Verdict.BUSY:
        raise Refused(Verdict.BUSY, "another sender is connected; one at a time is heard")
    return Channel(connection, keys.sender, keys.receiver)


class Visitor:
    """A connection that was accepted: prove it, then welcome it or send it away."""

    def __init__(self, connection: socket.socket, secret: bytes) -> None:
        """The receiver's side up to the sender's proof. Raises ``WireError``."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        private = X25519PrivateKey.generate()
        mine = MAGIC + private.public_key().public_bytes_raw()
        theirs = _exactly(connection, len(mine), deadline)
        if theirs[: len(MAGIC)] != MAGIC:
            raise WireError("it speaks something else")
        _give(connection, mine)
        self._connection = connection
        self._keys = _Keys(private, theirs, theirs + mine, secret)
        if not hmac.compare_digest(
            _exactly(connection, KEY_BYTES, deadline), self._keys.proof_of_sender
        ):
            _give(connection, bytes([Verdict.WRONG_SECRET]) + bytes(KEY_BYTES))
            raise Refused(Verdict.WRONG_SECRET, "it does not know the shared secret")

    def welcome(self) -> Channel:
        """Raises ``WireError``."""
        self._answer(Verdict.WELCOME)
        return Channel(self._connection, self._keys.receiver, self._keys.sender)

    def send_away(self) -> None:
        """Somebody else is being heard. Raises ``WireError``."""
        self._answer(Verdict.BUSY)

    def _answer(self, verdict: Verdict) -> None:
        _give(self._connection, bytes([verdict]) + self._keys.proof_of_receiver(verdict))


class _Keys:
    """What both sides derive from the key exchange, the secret and what was said."""

    def __init__(
        self, private: X25519PrivateKey, theirs: bytes, said: bytes, secret: bytes
    ) -> None:
        if theirs[: len(MAGIC)] != MAGIC:
            raise WireError("what answers there is no Danzar, or one of another version")
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(theirs[len(MAGIC) :]))
        except ValueError:
            raise WireError("the other side's key is no usable one") from None
        self._said = hashlib.sha256(said).digest()
        derived = HKDF(SHA256(), 4 * KEY_BYTES, salt=secret, info=self._said).derive(shared)
        self._proves_sender, self._proves_receiver, self.sender, self.receiver = (
            derived[start : start + KEY_BYTES] for start in range(0, len(derived), KEY_BYTES)
        )
        self.proof_of_sender = hmac.digest(self._proves_sender, self._said, "sha256")

    def proof_of_receiver(self, verdict: int) -> bytes:
        return hmac.digest(self._proves_receiver, self._said + bytes([verdict]), "sha256")


def _nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")


def _give(connection: socket.socket, data: bytes) -> None:
    try:
        connection.settimeout(HANDSHAKE_SECONDS)
        connection.sendall(data)
    except OSError as error:
        raise WireError(_why(error)) from None


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    data = bytearray(count)
    view, have = memoryview(data), 0
    try:
        while have < count:
            # Who sends a byte now and then does not hold the line for ever.
            left = deadline - time.monotonic()
            if left <= 0:
                raise WireError("it said nothing in time")
            connection.settimeout(left)
            got = connection.recv_into(view[have:])
            if not got:
                raise WireError("the other side has closed the connection")
            have += got
    except OSError as error:
        raise WireError(_why(error)) from None
    return bytes(data)


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the other side does not answer in time"
    return error.strerror or str(error)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        # Wakes a thread that waits for the other side.
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
