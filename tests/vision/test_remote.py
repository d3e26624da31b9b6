"""Pictures from another machine: real processes over the loopback, strangers, cut connections."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bot.cli.doctor import check_capture
from bot.cli.doctor_questions import ask_capture
from bot.cli.exits import Exit
from bot.remote_capture.address import parse_address
from bot.remote_capture.receiver import MOST_VISITORS, Receiver
from bot.remote_capture.secret import SecretError, capture_secret
from bot.remote_capture.wire import (
    LENGTH,
    MAGIC,
    MAX_PICTURE_BYTES,
    Channel,
    Kind,
    Refused,
    Verdict,
    WireError,
    knock,
)
from bot.settings import CaptureSettings, Settings
from bot.vision.frames import MAX_PIXELS, SourceError, SourceWaiting
from bot.vision.sources import open_source
from bot.vision.sources.remote import RemoteSource
from bot.vision.worker.handle import ProcessWorker
from bot.vision.worker.protocol import Done, Reply, Reported, StartCapture
from tests.bot.running import interrupt, interruptible
from tests.vision.running import PATIENCE, until

SECRET = b"a secret of more than sixteen characters"
ROOT = Path(__file__).parents[2]


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it never came: {what}"
        time.sleep(0.01)


def free_port() -> str:
    """An address of this machine at which nobody listens now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def encoded(colour: tuple[int, int, int] = (200, 30, 60), form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, form)
    return file.getvalue()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver("127.0.0.1", 0, SECRET, most_pixels=MAX_PIXELS)) as heard:
        yield heard


@contextmanager
def connected(port: int, secret: bytes = SECRET) -> Iterator[Channel]:
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        closing(knock(connection, secret)) as channel,
    ):
        yield channel


def told(channel: Channel) -> str:
    """The receiver's last words."""
    kind, content = channel.receive()
    assert kind is Kind.REFUSED
    return content.decode()


# --- the receiver -----------------------------------------------------------------------------


def test_the_newest_picture_wins(receiver: Receiver) -> None:
    pictures = [encoded((n, 0, 0)) for n in (10, 20, 30)]
    with connected(receiver.port) as sender:
        for picture in pictures:
            sender.send(Kind.PICTURE, picture)
        eventually(lambda: receiver._picture == pictures[-1], "the last picture")
    assert receiver.take(0) == pictures[-1]
    assert receiver.take(0) is None, "each is taken once"


def test_who_has_another_secret_is_told_so_and_not_heard(receiver: Receiver) -> None:
    with pytest.raises(Refused) as caught, connected(receiver.port, b"another secret, as long"):
        pytest.fail("it was let in")
    assert caught.value.verdict is Verdict.WRONG_SECRET
    eventually(lambda: "does not know the shared secret" in receiver.trouble[0], "the words")
    with connected(receiver.port) as sender:
        sender.send(Kind.PICTURE, encoded())
        assert receiver.take(PATIENCE) == encoded(), "others are heard as before"


def test_a_second_sender_is_told_to_wait_and_the_first_goes_on(receiver: Receiver) -> None:
    with connected(receiver.port) as first:
        first.send(Kind.PING)
        with pytest.raises(Refused, match="one at a time") as caught, connected(receiver.port):
            pytest.fail("two were let in")
        assert caught.value.verdict is Verdict.BUSY
        first.send(Kind.PICTURE, encoded())
        assert receiver.take(PATIENCE) == encoded()
        first.send(Kind.END)
    eventually(lambda: "has ended" in receiver.trouble[0], "the end")
    eventually(lambda: not receiver._speaking.locked(), "room for the next")
    with connected(receiver.port) as second:
        second.send(Kind.PICTURE, encoded((1, 2, 3)))
        assert receiver.take(PATIENCE) == encoded((1, 2, 3))


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + bytes(64),
        MAGIC + bytes(32),  # no usable key
        os.urandom(2000),
        b"",
    ],
    ids=["http", "zero key", "random", "nothing"],
)
def test_noise_is_hung_up_on_and_nothing_is_kept_of_it(receiver: Receiver, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
        connection.sendall(noise)
        connection.settimeout(PATIENCE)
        try:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except OSError as error:
            # Hung up with some of the noise unread, perhaps before we were done.
            assert error.errno in (errno.ECONNRESET, errno.ENOTCONN), error
    with connected(receiver.port) as sender:
        sender.send(Kind.PICTURE, encoded())
        assert receiver.take(PATIENCE) == encoded()


def test_silent_strangers_are_few_and_cost_no_more_than_their_seat(receiver: Receiver) -> None:
    def sit() -> socket.socket:
        return socket.create_connection(("127.0.0.1", receiver.port))

    seats = [sit() for _ in range(MOST_VISITORS)]
    eventually(lambda: receiver._visitors._value == 0, "all seats are taken")
    with sit() as one_more:
        one_more.settimeout(PATIENCE)
        assert one_more.recv(1) == b"", "hung up on at once"
    for seat in seats:
        seat.close()
    eventually(lambda: receiver._visitors._value == MOST_VISITORS, "the seats are free again")
    with connected(receiver.port) as sender:
        sender.send(Kind.PING)


def test_a_picture_is_measured_before_it_is_decoded(receiver: Receiver) -> None:
    receiver._most_pixels = 1000
    with connected(receiver.port) as sender:
        sender.send(Kind.PICTURE, encoded())
        assert told(sender) == "a picture has 64 x 48 pixels, too many"
    assert receiver.take(0) is None


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF"])
def test_other_formats_are_refused(receiver: Receiver, form: str) -> None:
    with connected(receiver.port) as sender:
        sender.send(Kind.PICTURE, encoded(form=form))
        assert "no picture" in told(sender)
    assert "was refused" in receiver.trouble[0]


def test_a_record_that_is_too_large_is_not_read(receiver: Receiver) -> None:
    with (
        socket.create_connection(("127.0.0.1", receiver.port)) as connection,
        closing(knock(connection, SECRET)),
    ):
        connection.sendall(LENGTH.pack(MAX_PICTURE_BYTES + 1000))
        connection.settimeout(PATIENCE)
        assert connection.recv(1) == b"", "hung up on before any of it came"
    eventually(lambda: "none of ours" in receiver.trouble[0], "the reason")
    eventually(lambda: not receiver._speaking.locked(), "the place is free for another")
    with connected(receiver.port) as sender, pytest.raises(WireError, match="too large"):
        sender.send(Kind.PICTURE, bytes(MAX_PICTURE_BYTES + 1))


class Tap:
    """A wire to the receiver that notes what goes there, and can change it."""

    def __init__(self, port: int) -> None:
        self.heard: list[bytes] = []
        self.change: Callable[[bytes], bytes] = lambda data: data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._port = port
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
        back.start()
        self._pump(near, far, True)
        back.join()

    def _pump(self, source: socket.socket, target: socket.socket, forth: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if forth:
                    self.heard.append(data)
                    data = self.change(data)
                target.sendall(data)
        except OSError:
            pass  # one end was closed
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._listener.close()


def test_the_wire_shows_neither_secret_nor_picture(receiver: Receiver) -> None:
    picture = encoded()
    with closing(Tap(receiver.port)) as tap, connected(tap.port) as sender:
        sender.send(Kind.PICTURE, picture)
        assert receiver.take(PATIENCE) == picture
        wire = b"".join(tap.heard)
    assert len(wire) > len(picture)
    assert SECRET not in wire
    assert picture[:16] not in wire and b"JFIF" not in wire


def test_what_was_recorded_opens_nothing(receiver: Receiver) -> None:
    with closing(Tap(receiver.port)) as tap, connected(tap.port) as sender:
        sender.send(Kind.PICTURE, encoded())
        assert receiver.take(PATIENCE) is not None
        recorded = b"".join(tap.heard)
    eventually(lambda: not receiver._speaking.locked(), "the first has gone")
    with socket.create_connection(("127.0.0.1", receiver.port)) as again:
        again.sendall(recorded)
        again.settimeout(PATIENCE)
        answer = b""
        try:
            while data := again.recv(4096):
                answer += data
        except ConnectionResetError:
            pass  # hung up with the rest of it unread
    # Its greeting, and at most the verdict.
    assert answer[40:41] in (b"", bytes([Verdict.WRONG_SECRET]))
    assert receiver.take(0) is None


def test_a_changed_or_repeated_record_ends_the_connection(receiver: Receiver) -> None:
    for change in (lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data + data):
        with closing(Tap(receiver.port)) as tap, connected(tap.port) as sender:
            sender.send(Kind.PING)
            eventually(lambda tap=tap: len(tap.heard) >= 3, "the ping is through")
            tap.change = change
            sender.send(Kind.PING)
            eventually(lambda: "changed on its way" in receiver.trouble[0], "it was noticed")
        eventually(lambda: not receiver._speaking.locked(), "room for the next")
        receiver._why = ("", "")


def test_what_does_not_know_the_secret_gets_no_picture() -> None:
    # The sender proves nothing to an impostor either: here is one, with a secret of its own.
    with closing(Receiver("127.0.0.1", 0, b"an impostor's own secret", most_pixels=1)) as impostor:
        with pytest.raises(Refused), connected(impostor.port):
            pytest.fail("it was trusted")
        assert impostor.take(0) is None


# --- the frame source -------------------------------------------------------------------------


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteSource]:
    monkeypatch.setenv("DANZAR_CAPTURE_SECRET", SECRET.decode())
    monkeypatch.setattr("bot.vision.sources.remote.WAIT_SECONDS", 0.05)
    with closing(RemoteSource("127.0.0.1:1")) as remote:
        remote._receiver = Receiver("127.0.0.1", 0, SECRET, most_pixels=MAX_PIXELS)
        yield remote


def test_frames_are_what_was_sent(source: RemoteSource) -> None:
    assert source._receiver is not None
    with pytest.raises(SourceWaiting, match="no sender is connected"):
        source.grab()
    with connected(source._receiver.port) as sender:
        sender.send(Kind.PICTURE, encoded((200, 30, 60), "PNG"))
        eventually(lambda: source._receiver and source._receiver._picture, "the picture")
        frame = source.grab()
        assert frame is not None
        assert frame.image.shape == (48, 64, 3)
        assert frame.image[0, 0].tolist() == [60, 30, 200], "frames are BGR"
        # A picture that breaks off: its head was fine.
        sender.send(Kind.PICTURE, encoded()[:-40])
        eventually(lambda: source._receiver and source._receiver._picture, "the broken one")
        with pytest.raises(SourceWaiting, match="no readable picture"):
            source.grab()
        assert "no readable picture" in told(sender)


def test_without_a_secret_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANZAR_CAPTURE_SECRET", raising=False)
    monkeypatch.delenv("DANZAR_CAPTURE_SECRET_FILE", raising=False)
    with pytest.raises(SourceError, match="there is no shared secret"):
        open_source(CaptureSettings(source="remote"))


def test_a_taken_port_is_named(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANZAR_CAPTURE_SECRET", SECRET.decode())
    with pytest.raises(SourceError, match=r"nothing can be received on 127\.0\.0\.1"):
        open_source(CaptureSettings(source="remote", listen=f"127.0.0.1:{receiver.port}"))


def test_only_the_loopback_is_listened_at_unless_somebody_says_otherwise() -> None:
    assert parse_address(CaptureSettings().listen)[0] == "127.0.0.1"


def test_the_secret_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  from a file, long enough \n")
    assert capture_secret({"DANZAR_CAPTURE_SECRET": "long enough to be one"}).endswith(b"one")
    assert capture_secret({"DANZAR_CAPTURE_SECRET_FILE": str(file)}) == b"from a file, long enough"
    file.write_text("short one")
    for environment, words in (
        ({}, "there is no shared secret"),
        ({"DANZAR_CAPTURE_SECRET_FILE": str(file)}, "can be guessed"),
        ({"DANZAR_CAPTURE_SECRET_FILE": str(tmp_path / "none")}, "can't be read"),
    ):
        with pytest.raises(SecretError, match=words) as caught:
            capture_secret(environment)
        assert "short one" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.5:7000", ("192.168.1.5", 7000)),
        ("desk", ("desk", 7460)),
        ("[::1]:9", ("::1", 9)),
        ("[::1]", ("::1", 7460)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", ":1", "a:b", "a:0", "a:70000", "::1", "[::1", "a b:1", "[]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        parse_address(text)


# --- danzar capture, in a process of its own --------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(3):
        Image.new("RGB", (64, 48), (40, 80, 200)).save(folder / f"{n}.png")
    return folder


@contextmanager
def danzar_capture(
    port: int, *arguments: str, secret: str = SECRET.decode()
) -> Iterator[subprocess.Popen[str]]:
    to = ("capture", "--to", f"127.0.0.1:{port}", "--fps", "50")
    process = subprocess.Popen(
        interruptible(order_for(port), *to, *arguments),
        cwd=ROOT,
        env={**os.environ, "DANZAR_CAPTURE_SECRET": secret},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        order_for(port).unlink(missing_ok=True)


def order_for(port: int) -> Path:
    return Path(tempfile.gettempdir(), f"danzar-test-interrupt-{port}")


def test_danzar_capture_sends_and_ends(receiver: Receiver, pictures: Path) -> None:
    with danzar_capture(receiver.port, "--source", str(pictures)) as sender:
        picture = receiver.take(PATIENCE)
        assert picture is not None
        image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.int16)
        assert image.shape == (48, 64, 3)
        assert np.abs(image - (40, 80, 200)).max() <= 6, "a JPEG of what was in the folder"
        _, said = sender.communicate(timeout=PATIENCE)
    assert sender.returncode == Exit.OK
    assert f"sending 3 images in {pictures.name} to 127.0.0.1:{receiver.port}" in said
    assert SECRET.decode() not in said


def test_danzar_capture_says_when_the_secret_is_wrong(receiver: Receiver, pictures: Path) -> None:
    with danzar_capture(
        receiver.port, "--source", str(pictures), secret="not the right secret"
    ) as sender:
        _, said = sender.communicate(timeout=PATIENCE)
    assert sender.returncode == Exit.TOKEN
    assert "the bot has another shared secret. Give both sides the same secret" in said
    assert receiver.take(0) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", ""), "--source is empty; --source takes screen"),
        (("--monitor", "99"), "--monitor: must be at most 16, not 99\n"),
        (("--region", "1,2,3,4"), "--region: a region is at least 16 x 16 pixels"),
    ],
)
def test_danzar_capture_sends_nothing_that_makes_no_sense(
    receiver: Receiver, arguments: tuple[str, ...], words: str
) -> None:
    with danzar_capture(receiver.port, *arguments) as sender:
        _, said = sender.communicate(timeout=PATIENCE)
    assert sender.returncode == Exit.CONFIGURATION
    assert said.startswith(f"danzar capture: {words}")


def test_danzar_capture_comes_back_after_a_cut(pictures: Path) -> None:
    port = 0
    sent = ["--source", "scene"]
    with closing(Receiver("127.0.0.1", port, SECRET, most_pixels=MAX_PIXELS)) as first:
        port = first.port
        with danzar_capture(port, *sent) as sender:
            assert first.take(PATIENCE) is not None
            first.close()
            # Nobody listens for a moment; then the bot is back at the same port.
            with closing(Receiver("127.0.0.1", port, SECRET, most_pixels=MAX_PIXELS)) as second:
                assert second.take(PATIENCE) is not None
            interrupt(sender, order_for(port), signal.SIGTERM)
            _, said = sender.communicate(timeout=PATIENCE)
        assert sender.returncode == Exit.OK
    assert said.count("sending rendered scene") == 2
    assert "it is tried again" in said


async def test_the_vision_worker_sees_what_danzar_capture_sends(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANZAR_CAPTURE_SECRET", SECRET.decode())
    listen = free_port()
    _, port = parse_address(listen)
    heard: list[Reply] = []
    worker = await ProcessWorker.start(1, heard.append)
    try:
        order = StartCapture(
            capture=CaptureSettings(source="remote", listen=listen, fps=50),
            yolo_fps=5,
            clip_fps=1,
            every_frame=False,
            retry=True,
            held=False,
        )
        await worker.ask(order, Done, timeout=PATIENCE)
        with danzar_capture(port, "--source", "scene"):
            report = await until(
                lambda: next((r.report for r in heard if isinstance(r, Reported)), None),
                "a report of a picture that was sent",
            )
    finally:
        await worker.close()
    assert report.source == "remote"
    assert (report.width, report.height) == (1280, 720)


def test_the_doctor_says_that_no_sender_is_there_and_calls_it_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DANZAR_CAPTURE_SECRET", SECRET.decode())
    monkeypatch.setattr("bot.vision.sources.remote.WAIT_SECONDS", 0.05)
    settings = Settings.model_validate({"capture": {"source": "remote", "listen": free_port()}})
    answer = ask_capture(settings.capture.model_dump(mode="json"))
    (finding,) = check_capture(answer, settings)
    assert finding.state == "warning"
    assert "no sender is connected" in finding.what
    assert "danzar capture --to" in finding.remedy
