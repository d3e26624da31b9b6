"""A long run with faults: hours of virtual time, then a real bot process with a real worker.

``python -m benchmarks.soak --minutes 60 --hours 240`` prints what was seen as a table, writes it
as JSON with ``--json PATH``, and ends with status 1 on a leak or a fault that was not survived.
Linux with a C compiler; no card, token or network is needed: driver and Discord are the stand-ins
of the tests.
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
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.host import Bench, RealRun, a_host, well
from danzar_gpu import Footprint, GPUMemoryConfig, GPUMemoryManager, Lease, ProbeError
from danzar_gpu.history import HistoryStore
from danzar_gpu.memory import GIB
from tests.bot.fake_discord import FakeDiscord, Fault
from tests.gpu_memory.rig import ScriptedProbe, guide_rig
from tests.standin import GUIDE, Process, Scenario, gib
from tests.standin import Fault as DriverFault

MOST_RSS_BYTES = 120 * 1024**2
GROWTH = {"rss": 12 * 1024**2, "descriptors": 4, "threads": 2, "tasks": 4}
"""More than this between the second fifth of the run and the last one is a leak."""
FAULT_EVERY_SECONDS = 25.0
ANSWER_SECONDS = 30.0
MEMORY_CALL = "nvmlDeviceGetMemoryInfo_v2"


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


def driver_faults(rng: random.Random) -> tuple[str, Scenario | None]:
    """A thing that drivers do, and the scenario for it (``None``: unloaded)."""
    game = GUIDE.cards[1].using(Process(4_200_099, gib(11.6), "/opt/games/big", "graphics"))
    return rng.choice(
        [
            ("driver unloaded", None),
            ("driver and library differ", GUIDE.with_faults(DriverFault("*", 18))),
            ("unknown driver error", GUIDE.with_faults(DriverFault("*", 999))),
            ("no permission", GUIDE.with_faults(DriverFault("*", 4))),
            ("card lost", GUIDE.with_faults(DriverFault("*", 15, device=1))),
            ("card taken out", Scenario(GUIDE.cards[:1])),
            ("reading hangs", GUIDE.with_faults(DriverFault(MEMORY_CALL, seconds=4))),
            ("game takes the card", GUIDE.with_card(1, game)),
        ]
    )


def discord_faults(rng: random.Random, fake: FakeDiscord) -> tuple[str, Coroutine[Any, Any, None]]:
    """A thing that happens between a bot and Discord."""

    async def posts(fault: Fault) -> None:
        fake.faults.extend((fault, fault))
        for person in rng.sample(range(1 << 20, 1 << 40), 2):
            await fake.says("!gpu vision", person=person)
        await asyncio.sleep(5)
        fake.faults.clear()

    async def not_resumed() -> None:
        fake.resumes = "invalid"
        await fake.drop(4000)

    name, happens = rng.choice(
        [
            ("connection cut", lambda: fake.drop()),
            ("connection closed", lambda: fake.drop(4000)),
            ("session invalid", lambda: fake.invalidate(resumable=False)),
            ("session not resumed", not_resumed),
            ("rate limit", lambda: posts("rate limit")),
            ("bad gateway", lambda: posts("502 but delivered")),
            ("Discord takes no posts", lambda: posts("503")),
            ("no permission to post", lambda: posts("403")),
        ]
    )
    return name, happens()


def real_run(minutes: float, seed: int) -> tuple[RealRun, float]:
    """Faults of all kinds, one every ``FAULT_EVERY_SECONDS``; and how long the end took."""
    rng = random.Random(seed)
    with a_host() as bench:
        host, run = bench.host, bench.host.run
        host.wait_for(well, 600)
        bench.discord.says("!gpu dashboard")
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            name = _one_fault(rng, bench)
            run.faults[name] = run.faults.get(name, 0) + 1
            time.sleep(rng.uniform(0.5, 1.5) * FAULT_EVERY_SECONDS)
            _ask(bench, name)
            if host.latest.get("state") == "failed":
                run.starts_by_hand += 1
                bench.discord.says("!vision start")
        host.wait_for(well, 180)
        return run, host.end()


def _one_fault(rng: random.Random, bench: Bench) -> str:
    worker = bench.host.latest.get("worker")
    kinds = ("driver", "driver", "driver", "discord", "discord", "kill", "stop", "inside", "file")
    kind = rng.choice(kinds)
    if kind in ("kill", "stop") and worker:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        return "worker killed" if kind == "kill" else "worker stopped (hangs)"
    if kind == "inside":
        fault, words = rng.choice(
            [
                ("context", "CUDA context broken"),
                ("model", "exception in a model"),
                ("frame", "torn frame"),
            ]
        )
        bench.host.worker_fault.write_text(fault, encoding="utf-8")
        return words
    if kind == "file":
        for part in bench.data.glob("history.sqlite3*"):
            part.unlink()
        return "history's file taken away"
    if kind == "discord":
        name, happens = discord_faults(rng, bench.discord.fake)
        bench.discord.do(happens)
        return name
    name, scenario = driver_faults(rng)
    if scenario is None:
        bench.driver.remove()
    else:
        bench.driver.write(scenario)
    time.sleep(rng.uniform(3, 8))
    bench.driver.write(GUIDE)
    return name


def _ask(bench: Bench, fault: str) -> None:
    """A command, which has to be answered once, whatever has happened before."""
    run = bench.host.run
    run.asked += 1
    before = bench.discord.answers
    with contextlib.suppress(TimeoutError):
        # What is written while there is no session nobody hears.
        bench.host.wait_for(lambda line: line["online"], ANSWER_SECONDS)
        before = bench.discord.answers
        bench.discord.says("!gpu vision")
        bench.host.wait(lambda: bench.discord.answers > before, ANSWER_SECONDS)
    time.sleep(1)
    # The live panel, which has buttons, may be posted anew at any time.
    answers = [m for m in bench.discord.fake.messages[before:] if not m["components"]]
    if len(answers) != 1:
        titles = [m["embeds"][0].get("title") if m["embeds"] else m["content"] for m in answers]
        run.unanswered.append(f"{titles} after: {fault}")


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
        (
            "commands between the faults, answered once",
            "; ".join([f"{run.asked - len(run.unanswered)} of {run.asked}", *run.unanswered]),
            not run.unanswered,
        ),
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
