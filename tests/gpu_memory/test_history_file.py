"""The history's file over months: versions, thinning, bounds, kills, full disks, damage."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danzar_gpu import GPUMemoryConfig, GPUMemoryManager, history_file, history_writer
from danzar_gpu.history import Event, HistoryStore, Sample, Setting, fullest
from danzar_gpu.history_file import DAY_SECONDS, SCHEMA_1, SCHEMA_VERSION, YEAR_SECONDS
from danzar_gpu.memory import GIB
from tests.gpu_memory.rig import Card, ScriptedProbe
from tests.unprivileged import folder_for_anybody, run_unprivileged

NOW = 1_800_000_000.0


def at(when: float, free: float = 8.0, uuid: str = "GPU-0") -> Sample:
    return Sample(when, uuid, 12 * GIB, int(free * GIB), int((12 - free) * GIB), 0, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.sqlite3"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_writer, "FLUSH_SECONDS", 0.05)


@contextlib.contextmanager
def opened(path: Path, now: float = NOW) -> Iterator[HistoryStore]:
    store = HistoryStore(path, wall=lambda: now)
    store.open()
    try:
        yield store
    finally:
        store.close()


def until(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"it never came: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        yield db


# --- versions and retention -------------------------------------------------------------------


def test_a_file_of_version_1_is_brought_up_to_date_and_thinned(path: Path) -> None:
    path.parent.mkdir()
    with sqlite(path) as db:
        db.executescript(f"{SCHEMA_1} PRAGMA user_version = 1;")
        old = [NOW - 3 * DAY_SECONDS + n for n in range(120)]
        rows = [(t, "GPU-0", 12, 5 if n == 77 else 9, 1, 0, 0) for n, t in enumerate(old)]
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        db.execute("INSERT INTO choices VALUES ('vision_device', 'cuda:0', 'Ada', 1)")
    store = HistoryStore(path, wall=lambda: NOW)
    assert [c.who for c in store.open().choices] == ["Ada"]
    store.event(Event(NOW, "x", "y"))
    store.close()
    with sqlite(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    kept = store.samples(0)
    assert len(kept) == len({t // 60 for t in old})
    assert old[77] in [s.at for s in kept], "the fullest of its minute"


def test_readings_are_kept_in_full_for_a_day_by_minutes_a_month_by_hours_a_year(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_writer, "FLUSH_SECONDS", 5.0)  # one batch
    ages = {
        "day": range(60, 1200, 10),
        "month": range(int(10 * DAY_SECONDS), int(10 * DAY_SECONDS) + 1200, 10),
        "year": range(int(100 * DAY_SECONDS), int(100 * DAY_SECONDS) + 7200, 60),
        "older": range(int(YEAR_SECONDS) + 60, int(YEAR_SECONDS) + 600, 60),
    }
    with opened(path) as store:
        for uuid in ("GPU-0", "GPU-1"):
            for span in ages.values():
                for age in span:
                    store.sample(at(NOW - age, free=4.0 + age % 7, uuid=uuid))
    with opened(path) as store:  # what was thinned is not thinned again
        store.event(Event(NOW, "x", "y"))
    for uuid in ("GPU-0", "GPU-1"):
        found = [s for s in store.samples(0) if s.uuid == uuid]
        of = {name: [s for s in found if int(NOW - s.at) in span] for name, span in ages.items()}
        assert len(of["day"]) == len(ages["day"])
        assert len(of["month"]) in (20, 21)
        assert len(of["year"]) in (2, 3)
        assert of["older"] == []
        assert min(s.free_bytes for s in of["month"]) == 4 * GIB


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12)), min_size=1, max_size=60))
def test_thinning_keeps_the_fullest_of_each_minute(rows: list[tuple[int, int]]) -> None:
    db = sqlite3.connect(":memory:")
    for step in history_file.SCHEMAS:
        db.executescript(step)
    start = NOW - 2 * DAY_SECONDS
    start -= start % 60
    seen = dict(rows)
    for second, free in seen.items():
        values = (start + second, "GPU-0", 12, free, 0, 0, 0)
        db.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    # In two steps, as it happens.
    history_file.forget(db, start + DAY_SECONDS + 2500)
    history_file.forget(db, NOW)
    kept = dict(db.execute("SELECT CAST(at / 60 AS INTEGER), free FROM samples").fetchall())
    expected: dict[int, int] = {}
    for second, free in seen.items():
        minute = int((start + second) // 60)
        expected[minute] = min(free, expected.get(minute, 99))
    assert kept == expected
    db.close()


def test_a_week_is_read_with_its_short_peaks(path: Path) -> None:
    with opened(path) as store:
        for minute in range(7 * 24 * 60):
            full = minute == 4321
            store.sample(at(NOW - minute * 60 - 30, free=0.5 if full else 8.0))
    week = store.samples(NOW - 7 * DAY_SECONDS, every=7 * DAY_SECONDS / 600)
    assert 590 <= len(week) <= 602
    assert [s.at for s in week] == sorted(s.at for s in week)
    assert min(s.free_bytes for s in week) == GIB // 2


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=80, unique=True), st.integers(1, 40))
def test_a_thinned_picture_keeps_the_fullest_reading(times: list[int], most: int) -> None:
    samples = [at(float(t), free=(t * 7919) % 12) for t in sorted(times)]
    shown = fullest(samples, most)
    assert len(shown) <= most or len(samples) <= most
    assert min(s.free_bytes for s in shown) == min(s.free_bytes for s in samples)
    assert [s.at for s in shown] == sorted(s.at for s in shown)


def test_the_file_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "MOST_ROWS", {"events": 50, "samples": 30})
    monkeypatch.setattr(history_writer, "FORGET_EVERY_SECONDS", 0.0)
    with opened(path) as store:
        for n in range(200):
            store.event(Event(NOW + n, "kind", str(n)))
            store.sample(at(NOW + n))
    assert [e.text for e in store.events(0)] == [str(n) for n in range(150, 200)]
    assert len(store.samples(0)) == 30


# --- faults -----------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from danzar_gpu import history_writer
from danzar_gpu.history import Event, HistoryStore, Sample, Setting
history_writer.FLUSH_SECONDS = 0.03
history_writer.FORGET_EVERY_SECONDS = 0.1
flush = history_writer.HistoryWriter._flush
def told(self):
    last = self._waiting[-1][1]
    flush(self)
    print(int(last[0] - 1.8e9), flush=True)
history_writer.HistoryWriter._flush = told
store = HistoryStore(Path(sys.argv[1]))
store.open()
for n in range(int(sys.argv[2]), 10**9):
    store.event(Event(1.8e9 + n, "n", "x" * 200))
    if n % 50 == 0:
        store.setting(Setting("panels", str(n % 7), str(n)))
    if n % 20 == 0:
        time.sleep(0.001)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_loses_no_flushed_row_and_damages_nothing(path: Path) -> None:
    rng = random.Random(6)
    written = 0
    for instant in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(written + 1)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            for _ in range(1 + 3 * instant):
                child.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
            flushed = [int(line) for line in child.stdout.read().split()]
        if flushed:
            written = flushed[-1]
        with sqlite(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            settings = [int(value) for (value,) in db.execute("SELECT value FROM settings")]
            # Read as the next start reads it: with what the log still holds.
            numbers = [int(t - 1.8e9) for (t,) in db.execute("SELECT at FROM events ORDER BY at")]
        assert numbers[-1] >= written
        assert max(settings) >= written - 50
        assert set(range(max(1, written - 500), written + 1)) <= set(numbers)
        written = numbers[-1]
    assert list(path.parent.glob("*.damaged-*")) == []


FULL_DISK = """
import resource, sqlite3, sys, time
from pathlib import Path
from danzar_gpu import history_writer
from danzar_gpu.history import Event, HistoryStore, Setting
history_writer.FLUSH_SECONDS = 0.05
store = HistoryStore(Path(sys.argv[1]))
store.open()
def limit(size):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
def until(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
store.event(Event(1.8e9, "first", ""))
until(lambda: Path(sys.argv[1]).exists() and store.events(0))
limit(200_000)
for n in range(1, 400):
    store.event(Event(1.8e9 + n, "more", "x" * 1000))
until(lambda: store.trouble)
print(store.trouble, flush=True)
store.setting(Setting("panels", "1", "set meanwhile"))
store.flush()
with sqlite3.connect(sys.argv[1]) as db:
    print(db.execute("SELECT value FROM settings").fetchall(), flush=True)
limit(resource.RLIM_INFINITY)
until(lambda: not store.trouble)
store.close()
print(len(store.events(0)), store.trouble, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_full_disk_is_said_and_what_waited_is_written_when_there_is_room(path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    trouble, settings, rest = shown.stdout.strip().splitlines()
    assert "can't be written" in trouble
    assert "history and settings are kept in memory only" in trouble
    assert settings == "[('set meanwhile',)]", "the little that there is room for is written"
    assert rest == "400 None"


def test_a_folder_that_cannot_be_written_is_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_text("not a folder", encoding="utf-8")
    with opened(path) as store:
        store.event(Event(NOW, "early", "while it could not be written"))
        until(lambda: store.trouble, "the words")
        time.sleep(0.2)
        assert caplog.text.count("can't be written") == 1, "it is said once"
        path.parent.unlink()
        until(lambda: not store.trouble, "the file")
    assert [e.kind for e in store.events(0)] == ["early"]


def test_what_waits_for_a_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_writer, "MOST_WAITING", 10)
    path.parent.write_text("not a folder", encoding="utf-8")
    writer = history_writer.HistoryWriter(path, time.time)
    writer._waiting = history_writer.deque(maxlen=10)  # pyright: ignore[reportPrivateUsage]
    writer.start()
    for n in range(100):
        writer.put(("INSERT INTO events VALUES (?, ?, ?)", (NOW + n, "n", "")))
        time.sleep(0.002)
    assert writer._rows.qsize() <= 10  # pyright: ignore[reportPrivateUsage]
    path.parent.unlink()
    until(lambda: path.exists(), "the file")
    writer.close()
    assert 0 < len(HistoryStore(path).events(0)) <= 30


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps an open file where it is")
def test_a_file_that_is_taken_away_while_the_bot_runs_is_begun_anew(path: Path) -> None:
    with opened(path) as store:
        store.event(Event(NOW, "before", ""))
        until(lambda: store.events(0), "the first row")
        for part in path.parent.iterdir():
            part.unlink()
        store.event(Event(NOW + 1, "after", ""))
        until(lambda: path.exists(), "the new file")
    assert [e.kind for e in store.events(0)] == ["after"]
    assert store.trouble is None


def test_a_file_that_is_damaged_while_the_bot_runs_is_set_aside(path: Path) -> None:
    with opened(path) as store:
        for n in range(2000):
            store.event(Event(NOW + n, "before", "x" * 100))
        until(lambda: len(store.events(0)) == 2000, "the rows")
        with sqlite(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(0)
            file.write(b"\xff" * 40_000)
        store.event(Event(NOW, "after", ""))
        until(lambda: list(path.parent.glob("*.damaged-*")), "the name")
        until(lambda: path.exists(), "the new file")
    assert [e.kind for e in store.events(0)] == ["after"]
    aside = [p for p in path.parent.glob("*.damaged-*") if not p.name.endswith(("-wal", "-shm"))]
    assert [p.read_bytes()[:4] for p in aside] == [b"\xff" * 4]


def test_a_file_of_a_newer_danzar_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with opened(path) as store:
        store.event(Event(NOW, "x", "y"))
        time.sleep(0.15)
        assert "newer Danzar" in (store.trouble or "")
    with sqlite(path) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert len(path.read_bytes()) == len(before)


def test_a_row_that_no_file_takes_costs_itself_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as store:
        store.event(Event(NOW, "good", "1"))
        store.event(Event(NOW, "bad", "\ud800"))
        store.sample(Sample(NOW, "GPU-0", 2**70, 0, 0, 0, 0))
        store.event(Event(NOW, "good", "2"))
    assert [e.text for e in store.events(0)] == ["1", "2"]
    assert caplog.text.count("is left out") == 2
    assert store.trouble is None


def test_what_people_set_is_not_among_what_a_long_full_disk_gives_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_writer, "MOST_WAITING", 10)
    path.parent.write_text("not a folder", encoding="utf-8")
    with opened(path) as store:
        store.setting(Setting("panels", "1", "one"))
        store.setting(Setting("panels", "2", "two"))
        store.forget_setting("panels", "2")
        for n in range(100):
            store.event(Event(NOW + n, "n", ""))
        assert not store.flush()
        path.parent.unlink()
        until(store.flush, "the file")
    with opened(path) as again:
        assert again.open().settings == (Setting("panels", "1", "one"),)
        assert len(again.events(0)) <= 20


KEEP = """
import os, signal, sys
from pathlib import Path
from danzar_gpu.history import Choice, Event, HistoryStore, Setting
store = HistoryStore(Path(sys.argv[1]))
store.open()
store.setting(Setting("panels", "1", "one"))
store.choice(Choice("vision_device", "cuda:0", "Ada", 1.8e9))
store.event(Event(1.8e9, "kind", "happened"))
assert store.flush()
if sys.argv[2] == "True":
    os.kill(os.getpid(), signal.SIGKILL)
store.close()
"""
READ_ONLY_IMPORTS = """
import logging, sys
from pathlib import Path
from danzar_gpu import history_writer
from danzar_gpu.history import Event, HistoryStore, Setting
"""
READ_ONLY = """
logging.basicConfig(stream=sys.stdout, format="%(message)s")
history_writer.FLUSH_SECONDS = 0.05
store = HistoryStore(Path(sys.argv[1]))
kept = store.open()
print([s.value for s in kept.settings], [c.who for c in kept.choices])
store.setting(Setting("panels", "1", "two"))
for _ in range(3):
    print(store.flush())
print([e.text for e in store.events(0)])
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_folder_is_read_and_said_once(killed: bool) -> None:
    with folder_for_anybody() as folder:
        path = folder / "history.sqlite3"
        subprocess.run([sys.executable, "-c", KEEP, str(path), str(killed)], check=False)
        assert path.with_name(f"{path.name}-wal").exists() is killed
        before = {part.name: part.read_bytes() for part in folder.iterdir()}
        for part in folder.iterdir():
            part.chmod(0o444)
        folder.chmod(0o555)
        lines = run_unprivileged(READ_ONLY_IMPORTS, READ_ONLY, path).splitlines()
        said = [line for line in lines if "can't be written" in line]
        assert len(said) == 1
        lines.remove(said[0])
        assert lines == ["['one'] ['Ada']", "False", "False", "False", "['happened']"]
        assert {name: (folder / name).read_bytes() for name in before} == before


def test_rows_that_no_danzar_wrote_are_left_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path):
        pass
    with sqlite(path) as db:
        db.execute("INSERT INTO llm_peaks VALUES (1, 'much')")
        db.execute("INSERT INTO llm_peaks VALUES (2, 5)")
        db.execute("INSERT INTO footprints VALUES (1, 'm', 'd', 'x', 2, 3, NULL, 0)")
        db.execute("INSERT INTO footprints VALUES (1, 'm', 'd', 1, 2, 3, NULL, 0)")
        db.execute("INSERT INTO settings VALUES ('a', 'b', CAST(x'41ff' AS TEXT))")
    with opened(path) as store:
        found = store.open()
        assert store.trouble is None
    assert found.llm_peaks == ((2, 5),)
    assert len(found.measurements) == 1
    assert [s.value for s in found.settings] == ["A\ufffd"]
    assert caplog.text.count("makes no sense and is left out") == 2


@pytest.fixture
def no_database(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    return path


async def test_what_was_lost_with_a_damaged_file_is_in_the_log_of_events(
    no_database: Path,
) -> None:
    probe = ScriptedProbe(Card("A"))
    config = GPUMemoryConfig(enable_memory_monitoring=False)
    manager = GPUMemoryManager(config, probe, store=HistoryStore(no_database))
    await manager.start()
    try:
        (told,) = [event.text for event in manager.events if event.kind == "history-damaged"]
    finally:
        await manager.close()
    assert "set aside as history.sqlite3.damaged-" in told
    assert "taken over from it: nothing" in told
