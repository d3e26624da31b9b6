"""A long run with faults: hours of virtual time, then a real bot process with a real worker.

``python -m benchmarks.soak --minutes 60 --hours 240`` prints what was seen as a table, writes it
as JSON with ``--json PATH``, and ends with status 1 on a leak or a fault that was not survived.
Linux with a C compiler; no card is needed: the driver is the stand-in of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from danzar_gpu import Footprint, GPUMemoryConfig, GPUMemoryManager, Lease, ProbeError
from danzar_gpu.history import HistoryStore
from danzar_gpu.memory import GIB
from tests.gpu_memory.rig import ScriptedProbe, guide_rig
from tests.standin import GUIDE, Fault, Process, Scenario, StandinNvml, build, gib

ROOT = Path(__file__).resolve().parents[1]
MOST_RSS_BYTES = 120 * 1024**2
GROWTH = {"rss": 12 * 1024**2, "descriptors": 4, "threads": 2, "tasks": 4}
"""More than this between the second fifth of the run and the last one is a leak."""
FAULT_EVERY_SECONDS = 25.0


# --- virtual time ------------------------------------------------------------------------------


@dataclass
class VirtualRun:
    """What hours of readings, leases, moves and faults did to one process."""

    hours: float
    seconds: float = 0.0
    readings: int = 0
    failures: int = 0
    leases: int = 0
    rss_growth: int = 0
    file_bytes: int = 0
    trouble: str | None = None


async def virtual_run(hours: float, seed: int) -> VirtualRun:
    """A manager on a scripted rig, its poller's work done by hand every 10 virtual seconds."""
    rng = random.Random(seed)
    now = 1_800_000_000.0
    probe = ScriptedProbe(*guide_rig())
    run = VirtualRun(hours)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite3"
        store = HistoryStore(path, wall=lambda: now)
        config = GPUMemoryConfig(enable_memory_monitoring=False)
        manager = GPUMemoryManager(config, probe, clock=lambda: now, wall=lambda: now, store=store)
        await manager.start()
        held: list[Lease] = []
        steps = int(hours * 360)
        early = 0
        for step in range(steps):
            now += 10.0
            probe.fault = "the driver is away" if rng.random() < 0.01 else None
            probe.missing = {1} if rng.random() < 0.01 else set()
            probe.cards[1].programs["game"] = rng.choice((0.0, 2.0, 9.0, 11.5))
            probe.cards[0].programs["ollama"] = rng.choice((0.0, 6.2, 7.5))
            if len(held) < 3 and rng.random() < 0.2:
                need = Footprint(int(rng.uniform(0.1, 2) * GIB), GIB // 8, 0)
                held.append(await manager.acquire(f"model {len(held)}", need, holder="worker"))
                run.leases += 1
            for lease in tuple(held):
                if lease.revoked.is_set() and lease.target is not None:
                    lease.moved()
                if lease.released or rng.random() < 0.02:
                    lease.release()
                    held.remove(lease)
            try:
                await manager.refresh(max_age=0)
                run.readings += 1
            except ProbeError:
                run.failures += 1
            if step == steps // 4:
                gc.collect()
                early = psutil.Process().memory_info().rss
            if step % 50 == 0:
                await asyncio.sleep(0)
        for lease in held:
            lease.release()
        gc.collect()
        run.rss_growth = psutil.Process().memory_info().rss - early
        run.trouble = store.trouble
        await manager.close()
        run.file_bytes = path.stat().st_size
    run.seconds = time.perf_counter() - began
    return run


# --- real time ---------------------------------------------------------------------------------


@dataclass
class RealRun:
    """What was seen of the bot's process, line by line, and what was done to it."""

    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    faults: dict[str, int] = field(default_factory=dict[str, int])
    starts_by_hand: int = 0
    traceback: str = ""


class Host:
    """The bot's process, started with the stand-in driver; its lines are read by a thread."""

    def __init__(self, config: Path, driver: StandinNvml, run: RealRun) -> None:
        self.run = run
        self._errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_host", str(config)],
            cwd=ROOT,
            env=driver.environment(DISPLAY=""),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.run.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors = [*self._errors[-200:], line]
            if line.startswith("Traceback"):
                self.run.traceback = self.run.traceback or line

    @property
    def latest(self) -> dict[str, Any]:
        return self.run.lines[-1] if self.run.lines else {}

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait_for(self, condition: Callable[[dict[str, Any]], Any], seconds: float) -> float:
        """How long until a line meets the condition. Raises ``TimeoutError`` with the last one."""
        began = time.monotonic()
        while not (self.latest and condition(self.latest)):
            if time.monotonic() - began > seconds or self.process.poll() is not None:
                errors = "".join(self._errors[-15:])
                raise TimeoutError(f"it never came; last seen: {self.latest}\n{errors}")
            time.sleep(0.1)
        return time.monotonic() - began

    def end(self) -> float:
        """Ask it to end; how long that took, in seconds."""
        began = time.monotonic()
        with contextlib.suppress(OSError):
            self.say("end")
        self.process.wait(timeout=60)
        return time.monotonic() - began


@contextlib.contextmanager
def a_host(**sections: dict[str, Any]) -> Iterator[tuple[Host, StandinNvml, Path]]:
    """A bot's process on two cards of the stand-in, with YOLO on the CPU; its data folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = StandinNvml(build(folder), folder / "scenario.txt")
        driver.write(GUIDE)
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
            "data": {"folder": str(folder / "data")},
        }
        for section, keys in sections.items():
            content.setdefault(section, {}).update(keys)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(content), encoding="utf-8")
        host = Host(config, driver, RealRun())
        try:
            yield host, driver, folder / "data"
        finally:
            if host.process.poll() is None:
                host.process.kill()
            host.process.wait()


def driver_faults(rng: random.Random) -> tuple[str, Scenario | None]:
    """A thing that drivers do, and the scenario for it (``None``: unloaded)."""
    game = GUIDE.cards[1].using(Process(4_200_099, gib(11.6), "/opt/games/big", "graphics"))
    return rng.choice(
        [
            ("driver unloaded", None),
            ("driver and library differ", GUIDE.with_faults(Fault("*", 18))),
            ("unknown driver error", GUIDE.with_faults(Fault("*", 999))),
            ("no permission", GUIDE.with_faults(Fault("*", 4))),
            ("card lost", GUIDE.with_faults(Fault("*", 15, device=1))),
            ("card taken out", Scenario(GUIDE.cards[:1])),
            ("reading hangs", GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo_v2", seconds=4))),
            ("game takes the card", GUIDE.with_card(1, game)),
        ]
    )


def real_run(minutes: float, seed: int) -> tuple[RealRun, float]:
    """Faults of all kinds, one every ``FAULT_EVERY_SECONDS``; and how long the end took."""
    rng = random.Random(seed)
    with a_host() as (host, driver, data):
        host.wait_for(lambda line: line["models"]["yolo"] == "running", 600)
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            name = _one_fault(rng, host, driver, data)
            host.run.faults[name] = host.run.faults.get(name, 0) + 1
            time.sleep(rng.uniform(0.5, 1.5) * FAULT_EVERY_SECONDS)
            if host.latest.get("state") == "failed":
                host.run.starts_by_hand += 1
                host.say("start")
        host.wait_for(
            lambda line: (
                line["state"] == "running"
                and line["models"]["yolo"] == "running"
                and line["cards"] == [0, 1]
                and not (line["error"] or line["faults"] or line["storage"])
            ),
            180,
        )
        return host.run, host.end()


def _one_fault(rng: random.Random, host: Host, driver: StandinNvml, data: Path) -> str:
    worker = host.latest.get("worker")
    kind = rng.choice(("driver", "driver", "driver", "kill", "stop", "file"))
    if kind in ("kill", "stop") and worker:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        return "worker killed" if kind == "kill" else "worker stopped (hangs)"
    if kind == "file":
        for part in data.glob("history.sqlite3*"):
            part.unlink()
        return "history's file taken away"
    name, scenario = driver_faults(rng)
    if scenario is None:
        driver.remove()
    else:
        driver.write(scenario)
    time.sleep(rng.uniform(3, 8))
    driver.write(GUIDE)
    return name


# --- the verdict -------------------------------------------------------------------------------


def growth(lines: list[dict[str, Any]], key: str) -> float:
    """From the second fifth of a run (everything is loaded by then) to its last fifth."""
    fifth = max(1, len(lines) // 5)
    early = median(line[key] for line in lines[fifth : 2 * fifth])
    return median(line[key] for line in lines[-fifth:]) - early


def verdicts(run: RealRun, seconds_to_end: float) -> list[tuple[str, str, bool]]:
    """(what, what was seen, whether that is well)."""
    lines = run.lines
    rss = max(line["rss"] for line in lines)
    found = [
        (
            "RSS of the bot's process, worst",
            f"{rss / 1024**2:.0f} MiB (limit {MOST_RSS_BYTES // 1024**2})",
            rss < MOST_RSS_BYTES,
        )
    ]
    for key, limit in GROWTH.items():
        grown = growth(lines, key)
        shown = f"{grown / 1024**2:+.1f} MiB" if key == "rss" else f"{grown:+.0f}"
        found.append((f"growth: {key}", shown, grown <= limit))
    worst = max(line["late_worst"] for line in lines)
    p99 = median(line["late_p99"] for line in lines)
    found += [
        ("event loop, p99 (median of the seconds)", f"{p99 * 1e3:.1f} ms", True),
        ("event loop, worst", f"{worst * 1e3:.0f} ms", True),
        ("frames seen", str(lines[-1]["frames"]), lines[-1]["frames"] > 0),
        ("moves", str(lines[-1]["moves"]), True),
        ("workers started", str(lines[-1]["workers"]), True),
        ("vision started by hand after it gave up", str(run.starts_by_hand), True),
        ("end after it was asked for", f"{seconds_to_end:.1f} s", seconds_to_end < 5),
        ("tracebacks in the log", run.traceback or "none", not run.traceback),
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of the real part")
    parser.add_argument("--hours", type=float, default=240.0, help="of the virtual part")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write what was seen there")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # thousands of alerts are what it asks for
    well = True
    if arguments.hours:
        virtual = asyncio.run(virtual_run(arguments.hours, arguments.seed))
        grown = virtual.rss_growth / 1024**2
        fine = grown < 40 and virtual.trouble is None
        well = well and fine
        print(
            f"virtual: {virtual.hours:g} h in {virtual.seconds:.0f} s: {virtual.readings} readings,"
            f" {virtual.failures} failed, {virtual.leases} leases, RSS {grown:+.1f} MiB after the"
            f" first quarter, file {virtual.file_bytes / 1024**2:.1f} MiB: "
            f"{'well' if fine else 'NOT WELL'}"
        )
    if arguments.minutes:
        load = os.getloadavg()[0]
        run, seconds_to_end = real_run(arguments.minutes, arguments.seed)
        print(f"real: {arguments.minutes:g} min, load average {load:.1f} at the start")
        print("faults: " + ", ".join(f"{n} x {name}" for name, n in sorted(run.faults.items())))
        found = verdicts(run, seconds_to_end)
        for what, seen, fine in found:
            print(f"  {what}: {seen}{'' if fine else '   NOT WELL'}")
        well = well and all(fine for _, _, fine in found)
        if arguments.json:
            body = {"minutes": arguments.minutes, "load": load, "faults": run.faults}
            body |= {"seen": {what: seen for what, seen, _ in found}, "lines": run.lines}
            arguments.json.write_text(json.dumps(body), encoding="utf-8")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
