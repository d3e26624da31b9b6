"""A bot's process to which anything may happen: its Discord, its driver and its disk are ours.

Linux with a C compiler; no card, no token and no network are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.bot.fake_discord import FakeDiscord
from tests.standin import GUIDE, Scenario, StandinNvml, build

ROOT = Path(__file__).resolve().parents[1]
IN_WORKER = Path(__file__).resolve().parent / "in_worker"
TOKEN = "MTAw.nobody.uses-this-token"
END_SECONDS = 60.0
MEANT = "failed on a frame|could not be dealt with"
"""Log records that have a traceback on purpose: of a fault in a model, of discord.py."""
Line = dict[str, Any]


class Discord:
    """The stand-in for Discord, in a thread of its own."""

    def __init__(self) -> None:
        self.fake = FakeDiscord()
        self.fake.interval_ms = 1000
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._up = threading.Event()
        self._people = itertools.count(5000)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with self.fake.open():
            self._up.set()
            await self._closing.wait()

    def __enter__(self) -> Discord:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def do(self, what: Coroutine[Any, Any, None]) -> None:
        """Let it happen on Discord."""
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def says(self, content: str, *, times: int = 1) -> None:
        """Somebody who has not written before writes: nobody is told to wait."""
        self.do(self.fake.says(content, times=times, person=next(self._people)))

    @property
    def answers(self) -> int:
        """How many messages of the bot Discord has."""
        return len(self.fake.messages)


@dataclass
class RealRun:
    """What was seen of the bot's process, line by line, and what was done to it."""

    lines: list[Line] = field(default_factory=list[Line])
    faults: dict[str, int] = field(default_factory=dict[str, int])
    starts_by_hand: int = 0
    asked: int = 0
    unanswered: list[str] = field(default_factory=list[str])
    traceback: str = ""


class Host:
    """The bot's process; what it reports and what it logs are read by threads."""

    def __init__(
        self, config: Path, driver: StandinNvml, discord: Discord, *, every: float = 1.0
    ) -> None:
        self.run = RealRun()
        self.log: list[str] = []
        self.began = time.monotonic()
        self.worker_fault = config.with_name("worker-fault")
        search = os.pathsep.join(filter(None, (str(IN_WORKER), os.environ.get("PYTHONPATH"))))
        command = [discord.fake.url, str(every), "run", "--config", str(config)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_host", *command],
            cwd=ROOT,
            env=driver.environment(
                DISPLAY="",
                DISCORD_TOKEN=TOKEN,
                PYTHONPATH=search,
                DANZAR_WORKER_FAULT=str(self.worker_fault),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.run.lines.append(json.loads(line))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        record = ""
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            record = record if line.startswith(" ") else line.strip()
            if "Traceback (most recent call last)" in line and not re.search(MEANT, record):
                self.run.traceback = self.run.traceback or record

    @property
    def latest(self) -> Line:
        return self.run.lines[-1] if self.run.lines else {}

    def wait(self, condition: Callable[[], Any], seconds: float) -> float:
        """How long until it holds. Raises ``TimeoutError`` with what was seen last."""
        began = time.monotonic()
        while not condition():
            ended = self.process.poll() is not None
            if time.monotonic() - began > seconds or ended:
                if condition():
                    break
                log = "\n".join(self.log[-15:])
                what = "the bot ended" if ended else "it never came"
                raise TimeoutError(f"{what}; last seen: {self.latest}\n{log}")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_for(self, condition: Callable[[Line], Any], seconds: float) -> float:
        """How long until a line meets the condition."""
        return self.wait(lambda: self.latest and condition(self.latest), seconds)

    def logged(self, pattern: str, since: int = 0) -> str:
        """What the log says about it from its line ``since`` on; empty if nothing."""
        for line in self.log[since:]:
            if re.search(pattern, line):
                # Time, level and logger are not what a person reads first.
                return re.sub(r"^\S+ \S+ +[A-Z]+ +[\w.]+: ", "", line)
        return ""

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_ended(self) -> int:
        """Its exit status, with all that it said read. Raises ``subprocess.TimeoutExpired``."""
        status = self.process.wait(timeout=END_SECONDS)
        self._reader.join(timeout=END_SECONDS)
        return status

    def end(self) -> float:
        """SIGTERM; how long it took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.wait_ended()
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass
class Bench:
    """A bot and what surrounds it."""

    host: Host
    driver: StandinNvml
    discord: Discord
    config: Path
    content: dict[str, Any]
    """What stands in the configuration."""

    @property
    def data(self) -> Path:
        return Path(self.content["data"]["folder"])

    def another(self, **options: Any) -> Host:
        """One more process on the same configuration."""
        return Host(self.config, self.driver, self.discord, **options)


def well(line: Line) -> bool:
    """Whether all runs, every card is read, and the disk takes what it is given."""
    return (
        line["state"] == "running"
        and line["models"]["yolo"] == "running"
        and line["cards"] == [0, 1]
        and line["online"]
        and not (line["error"] or line["faults"] or line["storage"])
    )


@contextlib.contextmanager
def a_host(
    *,
    driver_is: Scenario | None = GUIDE,
    every: float = 1.0,
    disk_bytes: int = 0,
    **sections: dict[str, Any],
) -> Iterator[Bench]:
    """A bot's process on two cards of the stand-in, with YOLO, which really is on the CPU.

    With ``disk_bytes`` its data folder is on a disk of that size of its own, for which one has to
    be root. Raises ``PermissionError``.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        driver = StandinNvml(build(folder), folder / "scenario.txt")
        if driver_is is None:
            driver.remove()
        else:
            driver.write(driver_is)
        disk = folder / "disk"
        disk.mkdir()
        if disk_bytes:
            stack.enter_context(_small_disk(disk, disk_bytes))
        content: dict[str, Any] = {
            "gpu_memory": {
                "memory_check_interval": 2.0,
                "pressure_check_interval": 1.0,
                "probe_timeout_seconds": 2.0,
            },
            "capture": {"source": "scene", "fps": 2},
            "yolo": {"processing_fps": 1},
            "clip": {"enabled": False},
            "vision": {"cpu_budget": 1, "hang_timeout_seconds": 5, "autostart": True},
            "data": {"folder": str(disk / "data")},
            "observability": {"port": 0},
        }
        for section, keys in sections.items():
            content.setdefault(section, {}).update(keys)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(content), encoding="utf-8")
        discord = stack.enter_context(Discord())
        host = Host(config, driver, discord, every=every)
        stack.callback(host.kill)
        yield Bench(host, driver, discord, config, content)


@contextlib.contextmanager
def _small_disk(where: Path, size: int) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "danzar", str(where)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise PermissionError("a disk of a small size needs the right to mount one") from None
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)
