"""A really started ``danzar``: what it prints, what it is told, and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90.0
ON_ORDER = """
import _thread, pathlib, sys, threading, time
ordered = pathlib.Path(sys.argv.pop(1))
def wait():
    while not ordered.exists():
        time.sleep(0.05)
    _thread.interrupt_main()
threading.Thread(target=wait, daemon=True).start()
"""
"""Takes the appearance of a file for Ctrl-C: on Windows one process can't press it for another."""
DANZAR = "import runpy; runpy.run_module('bot', run_name='__main__', alter_sys=True)"


def danzar(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "bot", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=dict(env or os.environ),
        cwd=cwd or ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def interruptible(order: Path, *arguments: str, program: str = DANZAR) -> list[str]:
    """A command that ``interrupt`` with the same ``order``, a file to be, ends."""
    if sys.platform == "win32":
        return [sys.executable, "-u", "-c", ON_ORDER + program, str(order), *arguments]
    return [sys.executable, "-u", "-c", program, *arguments]


def interrupt(
    process: subprocess.Popen[str], order: Path, number: signal.Signals = signal.SIGINT
) -> None:
    """Ctrl-C, or elsewhere than on Windows another signal."""
    if sys.platform == "win32":
        order.touch()
    else:
        process.send_signal(number)


class Running:
    """A started process whose output is collected."""

    def __init__(self, process: subprocess.Popen[str], order: Path) -> None:
        self.process = process
        self._order = order
        self.lines: list[str] = []
        self._news = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the output holds ``pattern``."""
        end = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while True:
                if found := re.search(pattern, self.output):
                    return found
                if self.process.poll() is not None or not self._news.wait(
                    min(1.0, max(0.0, end - time.monotonic()))
                ):
                    if time.monotonic() < end and self.process.poll() is None:
                        continue
                    raise AssertionError(f"{pattern!r} never came:\n{self.output}")

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        interrupt(self.process, self._order, number)

    def type(self, line: str) -> None:
        """Type a line at the terminal."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for_children(self) -> list[psutil.Process]:
        """The vision worker, once it has been started."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if found := self.children():
                return found
            time.sleep(0.1)
        raise AssertionError("no child process was ever started")


@contextmanager
def started(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a command; whatever is left of it at the end is killed."""
    order = Path(tempfile.mkdtemp(prefix="danzar-test-")) / "interrupt"
    process = subprocess.Popen(
        interruptible(order, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=dict(env or os.environ),
        cwd=ROOT,
    )
    running = Running(process, order)
    family: list[psutil.Process] = []
    try:
        yield running
    finally:
        if process.poll() is None:
            family = running.children()
            process.kill()
        process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        shutil.rmtree(order.parent)


@contextmanager
def started_demo(config: Path, *arguments: str) -> Iterator[Running]:
    """A demo on the simulated rig; use ``wait_for(ADDRESS)`` for its address."""
    common = ["demo", "--no-browser", "--probe", "simulated", "--config", str(config)]
    with started(*common, *arguments) as running:
        yield running


ADDRESS = r"http://127\.0\.0\.1:\d+/#\S+"
