"""The disk, the history's file and the configuration."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from pathlib import Path

import yaml

from benchmarks.faults import PATIENCE, Group, Seen, Trial, logged
from benchmarks.host import Bench, a_host

DISK_BYTES = 8 << 20


def samples(path: Path) -> int:
    """How many readings the history's file holds."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM samples").fetchone()[0])
    return 0


def history(bench: Bench) -> Path:
    return bench.data / "history.sqlite3"


def _folder(bench: Bench) -> Seen:
    data, path = bench.data, history(bench)
    aside = data.with_name("elsewhere")
    before = samples(path)
    data.rename(aside)
    data.write_text("a folder that can't be written")

    def unblock() -> None:
        data.unlink()
        aside.rename(data)

    return _storage(bench, before, unblock)


def _full(bench: Bench) -> Seen:
    path = history(bench)
    before = samples(path)
    filler = bench.data.with_name("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return _storage(bench, before, filler.unlink)


def _storage(bench: Bench, before: int, end: object) -> Seen:
    """From a disk that takes nothing to one that does."""
    host = bench.host
    noticed = host.wait_for(lambda line: line["storage"], PATIENCE)
    said = str(host.latest["storage"]).replace(str(bench.data), "data")
    assert callable(end)
    end()
    recovered = host.wait_for(lambda line: not line["storage"], PATIENCE)
    host.wait(lambda: samples(history(bench)) > before, PATIENCE)
    return Seen(said, noticed, recovered, "nothing: what waited is written")


def _damaged(bench: Bench) -> Seen:
    path, since = history(bench), len(bench.host.log)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.write(b"\xff" * 20_000)
    began = time.monotonic()
    said, noticed = logged(bench, ["damaged"], since)
    bench.host.wait(lambda: list(path.parent.glob("*.damaged-*")) and samples(path), PATIENCE)
    return Seen(
        said.replace(str(bench.data), "data"),
        noticed,
        time.monotonic() - began,
        "what was in it (the file is kept under another name)",
    )


def _configuration(bench: Bench) -> Seen:
    host, text = bench.host, bench.config.read_text("utf-8")
    workers, since = host.latest["workers"], len(host.log)
    bench.config.write_text(text + "\nyolo: {processing_fps: fast", encoding="utf-8")
    host.process.send_signal(signal.SIGHUP)
    _, noticed = logged(bench, ["the configuration was refused"], since)
    time.sleep(0.5)
    at = next(i for i, line in enumerate(host.log) if i >= since and "was refused" in line)
    said = " ".join(line.strip() for line in host.log[at + 1 : at + 5] if line.startswith(" "))
    said = said.replace(str(bench.config), "config.yaml")
    assert host.latest["workers"] == workers
    since = len(host.log)
    mended = {**bench.content, "yolo": {**bench.content["yolo"], "processing_fps": 2}}
    bench.config.write_text(yaml.safe_dump(mended), encoding="utf-8")
    host.process.send_signal(signal.SIGHUP)
    _, recovered = logged(bench, ["the configuration was read again"], since)
    return Seen(said, noticed, recovered, "nothing: the old configuration stays in use")


TRIALS = (
    Trial("the data folder can't be written", "a file in the folder's place", _folder),
    Trial("the history's file is damaged", "20 KB of it overwritten", _damaged),
    Trial("a broken configuration is reloaded", "a line that is no YAML; SIGHUP", _configuration),
)
FULL_DISK = Group(
    lambda: a_host(every=0.2, disk_bytes=DISK_BYTES, vision={"autostart": False}),
    (Trial("the disk is full", f"a disk of {DISK_BYTES >> 20} MiB, filled by a file", _full),),
    ready=lambda line: line["online"] and line["cards"] == [0, 1],
)
