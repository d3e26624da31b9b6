"""What chats keep across restarts, and what happens when the disk or the file is bad."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.chat_state import ChatState
from danzar_gpu.history import HistoryStore

PANEL = {"message": 2, "paused_by": None}
OLD = {
    "panels": {"1": PANEL},
    "alerts": {"7": {"level": "all", "muted_until": float("inf"), "role": None, "told": {}}},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.sqlite3"


@contextlib.contextmanager
def opened(path: Path, old_file: Path | None = None) -> Iterator[ChatState]:
    store = HistoryStore(path)
    state = ChatState(store)
    state.load(old_file)
    try:
        yield state
    finally:
        store.close()


async def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    with opened(path) as state:
        await state.put("panels", "1", {"message": 2})
        await state.put("panels", "3", {"message": 4})
        await state.remove("panels", "1")
    with opened(path) as again:
        assert again.section("panels") == {"3": {"message": 4}}
        assert again.section("alerts") == {}


async def test_what_was_put_is_on_disk_when_it_returns(path: Path) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
        with contextlib.closing(sqlite3.connect(path)) as db:
            (value,) = db.execute("SELECT value FROM settings").fetchone()
        assert json.loads(value) == PANEL


async def test_without_a_store_it_lives_in_memory() -> None:
    state = ChatState()
    state.load()
    await state.put("panels", "1", {"message": 2})
    assert state.section("panels") == {"1": {"message": 2}}


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from bot.chat_state import ChatState
from danzar_gpu.history import HistoryStore
state = ChatState(HistoryStore(Path(sys.argv[1])))
state.load()
asyncio.run(state.put("panels", "1", {"message": 2}))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_right_after_an_answer_loses_nothing(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    with opened(path) as again:
        assert again.section("panels") == {"1": {"message": 2}}


# --- the file of earlier releases ---------------------------------------------------------------


async def test_the_old_file_is_taken_over_once_and_kept_under_another_name(path: Path) -> None:
    old = path.with_name("chats.json")
    old.parent.mkdir()
    old.write_text(json.dumps(OLD), encoding="utf-8")
    with opened(path, old) as state:
        assert state.section("panels") == OLD["panels"]
        assert state.section("alerts") == OLD["alerts"]
        await state.remove("panels", "1")
    assert not old.exists()
    assert json.loads(old.with_name("chats.json.migrated").read_text("utf-8")) == OLD
    with opened(path, old) as again:
        assert again.section("panels") == {}
        assert again.section("alerts") == OLD["alerts"]


async def test_what_is_newer_than_the_old_file_stays(path: Path) -> None:
    old = path.with_name("chats.json")
    with opened(path) as state:
        await state.put("panels", "1", {"message": 99})
    old.write_text(json.dumps(OLD), encoding="utf-8")
    with opened(path, old) as state:
        assert state.section("panels") == {"1": {"message": 99}}
        assert state.section("alerts") == OLD["alerts"]


def test_the_old_file_stays_until_it_is_on_disk(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()  # a folder in the file's place: nothing can be written
    old = path.with_name("chats.json")
    old.write_text(json.dumps(OLD), encoding="utf-8")
    with opened(path, old) as state:
        assert state.section("panels") == OLD["panels"]
    assert old.exists()
    path.rmdir()
    with opened(path, old) as state:
        assert state.section("panels") == OLD["panels"]
    assert not old.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"panels": 3}', '{"panels": {"1": 2}}', "\xff"])
def test_a_damaged_old_file_is_set_aside_and_said(
    content: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = path.with_name("chats.json")
    old.parent.mkdir()
    old.write_text(content, encoding="latin-1")
    with opened(path, old) as state:
        assert state.section("panels") == {}
    assert "is damaged" in caplog.text
    (aside,) = old.parent.glob("chats.json.damaged-*")
    assert aside.read_text(encoding="latin-1") == content


# --- faults -------------------------------------------------------------------------------------


async def test_settings_outlive_damage_elsewhere_in_the_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO events VALUES (?, 'kind', ?)", [(n, "x" * 90) for n in range(999)]
        )
        (size,) = db.execute("PRAGMA page_size").fetchone()
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    spoil(path, (page - 1) * size, size)
    with opened(path) as state:
        assert state.section("panels") == {"1": PANEL}
    assert "taken over from it: 1 settings" in caplog.text
    with opened(path) as again:
        assert again.section("panels") == {"1": PANEL}


async def test_a_file_that_is_lost_whole_is_said_with_what_it_had(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
    spoil(path, 0, 100)
    with opened(path) as state:
        assert state.section("panels") == {}
    assert "taken over from it: nothing; left in it: settings, choices" in caplog.text
    assert len(list(path.parent.glob("history.sqlite3.damaged-*"))) == 1


async def test_damage_while_the_bot_runs_costs_no_setting(path: Path) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spoil(path)
        await state.put("panels", "3", {"message": 4})
    assert list(path.parent.glob("history.sqlite3.damaged-*"))
    with opened(path) as again:
        assert again.section("panels") == {"1": PANEL, "3": {"message": 4}}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps an open file where it is")
async def test_a_file_that_is_taken_away_costs_no_setting(path: Path) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
        await state.put("panels", "2", PANEL)
        await state.remove("panels", "2")
        for part in await asyncio.to_thread(lambda: list(path.parent.iterdir())):
            part.unlink()
        await state.put("panels", "3", {"message": 4})
    with opened(path) as again:
        assert again.section("panels") == {"1": PANEL, "3": {"message": 4}}


async def test_an_entry_that_makes_no_sense_costs_itself_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as state:
        await state.put("panels", "1", PANEL)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        values = ["{", "[]", "3", "[" * 9999, b"\x00", b"\xff"]
        rows = [("panels", str(n), value) for n, value in enumerate(values, 10)]
        db.executemany("INSERT INTO settings VALUES (?, ?, ?)", rows)
    with opened(path) as state:
        assert state.section("panels") == {"1": PANEL}
    assert caplog.text.count("makes no sense and is left out") == len(values)


def spoil(path: Path, begin: int = 0, size: int | None = None) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * (path.stat().st_size if size is None else size))
