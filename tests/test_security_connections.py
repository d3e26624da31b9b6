"""Nothing of Danzar calls anywhere: what its processes connect to while the demo really runs.

Looked at three ways at once: Python's own audit events in every process, the system's table of
connections, and the kernel's calls through strace where it may trace.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bot.cli.exits import Exit
from tests.bot.running import ADDRESS, ROOT, Running

HOOK = """
import os
import sys

WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "socket.sendmsg"}
log = os.open(os.environ["DANZAR_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def hook(event, values):
    if event in WATCHED:
        words = values[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else values[1]
        os.write(log, f"{os.getpid()} {event} {words!r}\\n".encode())
        if os.environ.get("DANZAR_TEST_REFUSE") and event == "socket.getaddrinfo":
            raise OSError("no names are looked up in this test")


sys.addaudithook(hook)
os.write(log, f"{os.getpid()} start {sys.orig_argv!r}\\n".encode())
"""
TRACED = "connect,sendto,sendmsg,sendmmsg"
ADDRESS_OF = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
NO_ADDRESS = ("None", "('', 0)", "b''", "''")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at Linux's processes"
)


def is_loopback(address: str) -> bool:
    if address in ("localhost", "::1"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def strangers_in_log(text: str) -> list[str]:
    """Lines of the audit hook that name something else than this machine."""
    found: list[str] = []
    for line in text.splitlines():
        _, event, words = line.split(" ", 2)
        if event == "start" or words in NO_ADDRESS:
            continue
        # ('127.0.0.1', 80), ('::1', 80, 0, 0), 'localhost', or the path of a Unix socket.
        host = re.match(r"\(?b?'([^']*)'", words)
        if host is None or not (is_loopback(host[1]) or host[1].startswith(("/", "\\x00"))):
            found.append(line)
    return found


def strangers_in_trace(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        for match in ADDRESS_OF.finditer(line)
        if not is_loopback(match[1] or match[2])
    ]


class Watch:
    """Looks at a process and its children every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self.remotes: set[str] = set()
        self.listening: set[str] = set()
        self.looks = 0
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for process in family(self._pid):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    self._look(process.net_connections("inet"))

    def _look(self, connections: list[Any]) -> None:
        self.looks += 1
        for connection in connections:
            if connection.raddr:
                self.remotes.add(connection.raddr.ip)
            elif connection.status == psutil.CONN_LISTEN:
                self.listening.add(connection.laddr.ip)


def family(pid: int) -> list[psutil.Process]:
    """The process and all that it started, as far as they live."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@functools.cache
def may_trace() -> bool:
    strace = shutil.which("strace")
    if strace is None:
        return False
    return subprocess.run([strace, "-f", "true"], capture_output=True).returncode == 0


def tracer(folder: Path) -> list[str]:
    """What goes before a command line to have its calls written to ``folder``."""
    if not may_trace():
        return []
    options = ["-f", "--seccomp-bpf", "-qq", "-e", f"trace={TRACED}"]
    return ["strace", *options, "-o", str(folder / "trace")]


def hooked(folder: Path) -> dict[str, str]:
    """What makes every Python process write down whom it speaks to."""
    return {
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "DANZAR_TEST_LOG": str(folder / "log"),
    }


@contextmanager
def watched_demo(folder: Path) -> Iterator[Running]:
    (folder / "sitecustomize.py").write_text(HOOK)
    config = folder / "demo.yaml"
    config.write_text("capture:\n  source: scene\n  fps: 2\n")
    # Some dependencies keep quiet where they believe to be tested, or are told to.
    quiet = ("CI", "PYTEST_CURRENT_TEST", "HF_HUB_OFFLINE", "YOLO_OFFLINE", "YOLO_AUTOINSTALL")
    environment = {k: v for k, v in os.environ.items() if k not in quiet}
    process = subprocess.Popen(
        [
            *tracer(folder),
            *(sys.executable, "-u", "-m", "bot", "demo", "--no-browser", "--probe", "simulated"),
            *("--config", str(config)),
        ],
        cwd=ROOT,
        env={**environment, **hooked(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    try:
        yield Running(process, folder / "interrupt")
    finally:
        for left in family(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def pids_that_began(log: str) -> dict[int, str]:
    """Every Python process that was hooked, and its command line."""
    starts = (line.split(" ", 2) for line in log.splitlines() if line.split(" ")[1] == "start")
    return {int(pid): words for pid, _, words in starts}


def test_while_the_demo_runs_nobody_but_this_machine_is_spoken_to(tmp_path: Path) -> None:
    with watched_demo(tmp_path) as demo, Watch(demo.process.pid) as watch:
        demo.wait_for(ADDRESS)
        demo.type("!gpu status")
        demo.wait_for(r"Device 0 \(RTX 4070\)")
        # Until both models have looked at a frame: that they come up is what could call out.
        for _ in range(200):
            if re.search(r"yolo \d+ ms", demo.output) and "▰" in demo.output:
                break
            demo.type("!vision look")
            time.sleep(1.5)
        else:
            pytest.fail(f"the models never ran:\n{demo.output}")
        # It is drawn once there are two readings; given up where the machine is too busy.
        for _ in range(100):
            demo.type("!gpu history")
            time.sleep(1.5)
            if re.search(r"📈 (GPU memory|The picture could not)", demo.output):
                break
        log = (tmp_path / "log").read_text()
        bot = next(pid for pid, words in pids_that_began(log).items() if "'bot'" in words)
        os.kill(bot, signal.SIGINT)
        assert demo.process.wait(timeout=60) == Exit.OK
    log = (tmp_path / "log").read_text()
    commands = " ".join(pids_that_began(log).values())
    for part in ("'demo'", "bot.vision.worker", "bot.history_chart"):
        assert part in commands, "every process of Danzar was looked at"
    assert strangers_in_log(log) == []
    assert watch.looks > 50
    assert [address for address in watch.remotes if not is_loopback(address)] == []
    assert watch.listening and all(is_loopback(address) for address in watch.listening)
    if may_trace():
        assert strangers_in_trace((tmp_path / "trace").read_text()) == []


STRANGER = """
import socket, time
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        # Names a peer and sends nothing.
        kept = socket.socket(family, socket.SOCK_DGRAM)
        kept.connect((address, 9))
        time.sleep(0.5)
    except OSError:
        pass  # no route there: it was tried all the same
try:
    socket.getaddrinfo("statistics.invalid", 443)
except OSError:
    pass
"""


def test_a_call_to_a_stranger_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    process = subprocess.Popen(
        [*tracer(tmp_path), sys.executable, "-c", STRANGER],
        env={**os.environ, **hooked(tmp_path), "DANZAR_TEST_REFUSE": "1"},
    )
    with Watch(process.pid) as watch:
        process.wait(timeout=60)
    seen = "\n".join(strangers_in_log((tmp_path / "log").read_text()))
    assert "192.0.2.1" in seen and "2001:db8::1" in seen and "statistics.invalid" in seen
    if "192.0.2.1" not in watch.remotes:
        # Without any route the system's table never holds it.
        assert not watch.remotes
    if may_trace():
        traced = "\n".join(strangers_in_trace((tmp_path / "trace").read_text()))
        assert "192.0.2.1" in traced


CONVERSION = """
import os
{setup}
import openvino
import torch
openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
"""


@pytest.mark.parametrize("prepared", [True, False], ids=["in the worker", "left alone"])
def test_openvino_sends_no_statistics(tmp_path: Path, prepared: bool) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    setup = "from bot.vision.worker import environment\nenvironment.prepare(os.environ, 1)"
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", CONVERSION.format(setup=setup if prepared else "")],
        cwd=ROOT,
        env={**environment, **hooked(tmp_path), "DANZAR_TEST_REFUSE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    called = strangers_in_log((tmp_path / "log").read_text())
    if prepared:
        assert called == []
    else:
        assert "google" in called[0], "this is what would be sent without our precaution"
