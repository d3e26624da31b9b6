"""Faults, one after another, in a real bot process: what is said, when it is well again, what is
lost. ``python -m benchmarks.reliability`` prints a table; ``--write docs/reliability.md`` puts it
there, with the soak's figures if ``--soak PATH`` (its ``--json``) is given.

A real worker, the real pynvml on the stand-in driver of the tests, real SQLite, real signals.
Linux with a C compiler; no card is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.soak import Host, RealRun, a_host
from tests.standin import GUIDE, Fault, Scenario, StandinNvml

PATIENCE = 240.0
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Line = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One fault."""

    fault: str
    how: str
    said: str
    noticed: float | None
    """Seconds from the fault to the words."""
    recovered: float | None
    """Seconds from the end of its cause (for the worker: from the fault) to all well."""
    lost: str


def well(line: Line) -> bool:
    return (
        line["state"] == "running"
        and line["models"]["yolo"] == "running"
        and line["cards"] == [0, 1]
        and not (line["error"] or line["faults"] or line["storage"])
    )


def _words(line: Line) -> str:
    return line["error"] or "; ".join(line["faults"]) or line["storage"] or line["reason"]


DRIVER: tuple[tuple[str, str, Scenario | None], ...] = (
    ("driver unloaded", "every NVML call answers 9", None),
    ("driver and library of different versions", "answers 18", GUIDE.with_faults(Fault("*", 18))),
    ("no permission", "answers 4", GUIDE.with_faults(Fault("*", 4))),
    ("device withdrawn from a container", "answers 999", GUIDE.with_faults(Fault("*", 999))),
    ("one GPU lost", "calls for it answer 15", GUIDE.with_faults(Fault("*", 15, device=1))),
    ("a card taken out", "it is not listed any more", Scenario(GUIDE.cards[1:])),
    (
        "a reading hangs",
        "the memory call sleeps 8 s (limit 2 s)",
        GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo_v2", seconds=8)),
    ),
)


def driver_rows(host: Host, driver: StandinNvml) -> Iterator[Row]:
    """What drivers do; the bot answers all the while."""
    for fault, how, scenario in DRIVER:
        workers = host.latest["workers"]
        if scenario is None:
            driver.remove()
        else:
            driver.write(scenario)
        noticed = host.wait_for(lambda line: line["error"] or line["faults"], PATIENCE)
        said = _words(host.latest)
        time.sleep(2)
        driver.write(GUIDE)
        recovered = host.wait_for(well, PATIENCE)
        same = host.latest["workers"] == workers
        lost = "readings meanwhile; the last one is kept with its age"
        if host.latest["cards"] and len(host.latest["cards"]) > 1 and "Device" in said:
            lost = "readings of that card meanwhile"
        yield Row(fault, how, said, noticed, recovered, lost if same else f"{lost}; the worker")


def worker_rows(host: Host) -> Iterator[Row]:
    """The worker dies, hangs, dies again and again."""
    for fault, how, number in (
        ("the worker is killed", "SIGKILL", signal.SIGKILL),
        ("the worker hangs", "SIGSTOP (limit 5 s)", signal.SIGSTOP),
    ):
        first = host.latest["worker"]
        os.kill(first, number)
        noticed = host.wait_for(lambda line: line["state"] == "starting", PATIENCE)
        said = _words(host.latest)

        def back(line: Line, first: int = first) -> bool:
            return well(line) and line["worker"] not in (None, first)

        recovered = noticed + host.wait_for(back, PATIENCE)
        yield Row(fault, how, said, noticed, recovered, "the frames meanwhile")
    began = time.monotonic()
    while host.latest["state"] != "failed":
        worker = host.latest["worker"]
        if worker and time.monotonic() - began < PATIENCE:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.3)
    noticed = time.monotonic() - began
    said = _words(host.latest)
    host.say("start")
    recovered = host.wait_for(well, PATIENCE)
    yield Row(
        "the worker dies again and again",
        "SIGKILL as soon as it is up",
        said,
        noticed,
        recovered,
        "vision until somebody starts it",
    )


def file_rows(host: Host, data: Path) -> Iterator[Row]:
    """The disk and the history's file."""
    path = data / "history.sqlite3"

    def damage() -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.write(b"\xff" * 20_000)

    aside = data.with_name("elsewhere")

    def block() -> None:
        data.rename(aside)
        data.write_text("a folder that can't be written")

    def unblock() -> None:
        data.unlink()
        aside.rename(data)

    before = _samples(path)
    block()
    noticed = host.wait_for(lambda line: line["storage"], PATIENCE)
    said = host.latest["storage"].replace(str(data), "data")
    unblock()
    recovered = host.wait_for(lambda line: not line["storage"], PATIENCE)
    kept = _samples(path) >= before
    yield Row(
        "the data folder can't be written",
        "a file in the folder's place",
        said,
        noticed,
        recovered,
        "nothing: what waited is written" if kept else "rows",
    )
    began = time.monotonic()
    damage()
    while not list(data.glob("*.damaged-*")) or not _samples(path):
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError("the damaged file was not set aside")
        time.sleep(0.1)
    yield Row(
        "the history's file is damaged",
        "20 KB of it overwritten",
        "data/history.sqlite3 is damaged (...): set aside as ..., a new one begins",
        time.monotonic() - began,
        time.monotonic() - began,
        "what was in it (the file is kept under another name)",
    )


def killed_bot_row(host: Host, driver: StandinNvml, data: Path) -> Row:
    """The bot itself is killed: what is left, and how the next one finds it."""
    path = data / "history.sqlite3"
    worker = host.latest["worker"]
    before = _samples(path)
    began = time.monotonic()
    host.process.kill()
    host.process.wait()
    while worker and _alive(worker) and time.monotonic() - began < PATIENCE:
        time.sleep(0.02)
    noticed = time.monotonic() - began
    with contextlib.closing(sqlite3.connect(path)) as db:
        sound = db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    began = time.monotonic()
    again = Host(data.parent / "config.yaml", driver, RealRun())
    try:
        again.wait_for(well, PATIENCE)
        recovered = time.monotonic() - began
        kept = _samples(path) >= before
        again.end()
    finally:
        if again.process.poll() is None:
            again.process.kill()
    lost = "at most the 5 s before it" if sound and kept else "THE FILE WAS DAMAGED"
    return Row(
        "the bot is killed",
        "SIGKILL; then a new start",
        "the worker ended with it (time under noticed)",
        noticed,
        recovered,
        lost,
    )


def _samples(path: Path) -> int:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM samples").fetchone()[0])
    return 0


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def no_driver_row() -> Row:
    """The driver comes a while after the bot."""
    with a_host() as (host, driver, _):
        driver.remove()
        host.process.kill()
        host.process.wait()
        late = Host(driver.scenario_path.with_name("config.yaml"), driver, RealRun())
        try:
            noticed = late.wait_for(lambda line: line["faults"], PATIENCE)
            said = _words(late.latest)
            late.wait_for(lambda line: line["models"]["yolo"] == "running", PATIENCE)
            driver.write(GUIDE)
            recovered = late.wait_for(lambda line: line["workers"] == 2 and well(line), PATIENCE)
            late.end()
        finally:
            if late.process.poll() is None:
                late.process.kill()
    return Row(
        "no driver when the bot starts",
        "every call answers 9, later not",
        said,
        noticed,
        recovered,
        "nothing; the worker is started again to see the cards",
    )


def all_rows() -> Iterator[Row]:
    """Every fault, in three bot processes."""
    yield no_driver_row()
    with a_host() as (host, driver, data):
        host.wait_for(well, PATIENCE)
        yield from driver_rows(host, driver)
        yield from worker_rows(host)
        yield from file_rows(host, data)
        yield killed_bot_row(host, driver, data)


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| Fault | How it is injected | What is said | Noticed | Well again | Lost |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        said = row.said.replace("|", "/").replace("\n", " ")
        said = said if len(said) <= 260 else f"{said[:257]}..."
        noticed = "" if row.noticed is None else f"{row.noticed:.1f} s"
        recovered = "" if row.recovered is None else f"{row.recovered:.1f} s"
        lines.append(f"| {row.fault} | {row.how} | {said} | {noticed} | {recovered} | {row.lost} |")
    return "\n".join(lines)


def as_text(rows: list[Row], soak: dict[str, Any] | None) -> str:
    """What is between the marks of ``docs/reliability.md``."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = [f"Measured on {machine}, load average {os.getloadavg()[0]:.1f}.", "", as_table(rows)]
    if soak is not None:
        faults = ", ".join(f"{n} x {name}" for name, n in sorted(soak["faults"].items()))
        text += [
            "",
            f"## Soak: {soak['minutes']:g} minutes in real time",
            "",
            f"Load average {soak['load']:.1f} at its start. Faults: {faults}.",
            "",
            "| What | Seen |",
            "|---|---|",
            *(f"| {what} | {seen} |" for what, seen in soak["seen"].items()),
        ]
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults, injected one after another.")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    parser.add_argument("--soak", type=Path, help="what `benchmarks.soak --json` wrote")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for row in all_rows():
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    soak = json.loads(arguments.soak.read_text("utf-8")) if arguments.soak else None
    text = as_text(rows, soak)
    if arguments.write is None:
        print(text)
        return 0
    page = arguments.write.read_text("utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    arguments.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
