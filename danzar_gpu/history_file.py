"""The history's file: its schema and versions, what is kept for how long, a damaged one set aside.

Readings are kept in full for a day, then the fullest of each minute for a month and the fullest
of each hour for a year: whoever asks later wants to know when memory was short. Every table has
an end, so that the file has one; settings end with what people set.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Row = tuple[str, tuple[object, ...]]
"""A statement and its values."""
Tables = Mapping[str, list[tuple[Any, ...]]]
"""Rows by table."""

DAY_SECONDS = 24 * 3600.0
YEAR_SECONDS = 365 * DAY_SECONDS
LATENCIES_KEPT_DAYS = 90
THINNING = ((60, DAY_SECONDS), (3600, 30 * DAY_SECONDS))
"""(seconds, age): of readings older than ``age`` one for so many seconds is kept."""
MOST_ROWS = {"samples": 400_000, "events": 50_000, "moves": 50_000, "footprints": 5_000}
"""Whatever happens: about 50 MB in all. Two cards need 120,000 readings for a year."""
WAL_BYTES = 4 * 1024**2

SCHEMA_1 = """
CREATE TABLE samples (
    at REAL NOT NULL, uuid TEXT NOT NULL, total INTEGER NOT NULL, free INTEGER NOT NULL,
    allocated INTEGER NOT NULL, llm INTEGER NOT NULL, ours INTEGER NOT NULL
);
CREATE INDEX samples_at ON samples (at);
CREATE TABLE llm_peaks (hour INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE events (at REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX events_at ON events (at);
CREATE TABLE footprints (
    at REAL NOT NULL, model TEXT NOT NULL, device_name TEXT NOT NULL, weights INTEGER NOT NULL,
    activations INTEGER NOT NULL, context INTEGER NOT NULL
);
CREATE INDEX footprints_model ON footprints (model, device_name);
CREATE TABLE choices (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL
);
"""
SCHEMA_2 = """
ALTER TABLE footprints ADD COLUMN predicted INTEGER;
ALTER TABLE footprints ADD COLUMN fell INTEGER NOT NULL DEFAULT 0;
CREATE TABLE moves (
    at REAL NOT NULL, model TEXT NOT NULL, device_name TEXT NOT NULL, kind TEXT NOT NULL,
    from_device TEXT NOT NULL, to_device TEXT NOT NULL, seconds REAL NOT NULL,
    bytes INTEGER NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX moves_model ON moves (model, at);
CREATE INDEX moves_at ON moves (at);
CREATE TABLE latencies (
    day INTEGER NOT NULL, model TEXT NOT NULL, device_name TEXT NOT NULL, bucket INTEGER NOT NULL,
    frames INTEGER NOT NULL, PRIMARY KEY (day, model, device_name, bucket)
) WITHOUT ROWID;
"""
SCHEMA_3 = """
CREATE TABLE thinned (seconds INTEGER PRIMARY KEY, until REAL NOT NULL);
"""
SCHEMA_4 = """
CREATE TABLE settings (
    section TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (section, key)
) WITHOUT ROWID;
"""
SCHEMAS = (SCHEMA_1, SCHEMA_2, SCHEMA_3, SCHEMA_4)
"""What leads from one version to the next: a new file goes through all of them."""
SCHEMA_VERSION = len(SCHEMAS)

KEPT = {
    "settings": "SELECT section, key, value FROM settings",
    "choices": "SELECT key, value, who, at FROM choices ORDER BY at",
    "footprints": "SELECT at, model, device_name, weights, activations, context, predicted, fell "
    "FROM footprints ORDER BY at",
    "llm_peaks": "SELECT hour, bytes FROM llm_peaks ORDER BY hour",
}
"""What a start needs, and what is rescued from a damaged file; the rest is history."""


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """An open file. Raises ``sqlite3.Error``; also, unless ``create``, if there is none."""
    mode = "rwc" if create else "rw"
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = _opened(address)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """An open file, also where nothing can be written. Raises ``sqlite3.Error``."""
    try:
        return connect(path, create=False)
    except sqlite3.OperationalError as error:
        # WAL wants files beside it even to read, unless it may take the file as unchanging.
        for unchanging in (False, True):
            with contextlib.suppress(sqlite3.OperationalError):
                return _opened(_to_read(path, unchanging=unchanging))
        raise error


def connect_to_look(path: Path) -> sqlite3.Connection:
    """The same for somebody who leaves nothing behind. Raises ``sqlite3.Error``."""
    # Nobody has it open where no log lies beside it: SQLite need not make one to read.
    nobody = not path.with_name(path.name + "-wal").exists()
    return _opened(_to_read(path, unchanging=nobody))


def _to_read(path: Path, *, unchanging: bool) -> str:
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unchanging else ''}"


def _opened(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, timeout=2.0, uri=True)
    # One text with a bad byte must not make the rest unreadable.
    connection.text_factory = _text
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except UnicodeDecodeError:
        # SQLite quotes the damaged schema in its words, and Python can't read them.
        connection.close()
        raise sqlite3.DatabaseError("its schema is damaged") from None
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def migrate(db: sqlite3.Connection) -> bool:
    """Bring a file to this version; whether it was a new one. Raises ``sqlite3.Error``."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.OperationalError(f"it was written by a newer Danzar (schema {version})")
    for number, step in enumerate(SCHEMAS[version:], version + 1):
        # All or nothing: a file that is half of one version can't be read by any.
        db.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
    return version == 0


def examine(db: sqlite3.Connection) -> None:
    """Raises ``sqlite3.DatabaseError`` (and no subclass) where the file is damaged."""
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the file is damaged")


def is_damage(error: BaseException) -> bool:
    """Whether an error tells of a damaged file: not of one that is locked, full or away."""
    return type(error) is sqlite3.DatabaseError


def set_aside(path: Path, error: BaseException) -> Path:
    """Give a damaged file (and its log, which may hold the newest rows) another name."""
    aside = _unused(path.with_name(f"{path.name}.damaged-{int(time.time())}"))
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    log.error("%s is damaged (%s): set aside as %s, a new one begins", path, error, aside)
    return aside


def kept(db: sqlite3.Connection) -> Tables:
    """What a start needs. Raises ``sqlite3.Error``."""
    return {table: db.execute(statement).fetchall() for table, statement in KEPT.items()}


def rescued(path: Path) -> Tables:
    """The same from a file that is damaged, or can't be written: the tables that are sound."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with (
        contextlib.suppress(OSError, sqlite3.Error),
        contextlib.closing(connect_to_read(path)) as db,
    ):
        for table, statement in KEPT.items():
            with contextlib.suppress(sqlite3.Error):
                if db.execute(f"PRAGMA quick_check({table})").fetchone() == ("ok",):
                    found[table] = db.execute(statement).fetchall()
    return found


def rows_of(tables: Tables) -> list[Row]:
    """What writes these tables into a new file."""
    return [
        (f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        for table, rows in tables.items()
        for row in rows
    ]


def _unused(wanted: Path) -> Path:
    names: Iterator[Path] = (
        wanted.with_name(f"{wanted.name}{f'-{n}' if n else ''}") for n in range(1000)
    )
    return next(name for name in names if not name.exists())


def forget(db: sqlite3.Connection, now: float) -> None:
    """Thin out and delete what is old at ``now`` (Unix time); within the caller's transaction."""
    for seconds, age in THINNING:
        _thin(db, seconds, now - age)
    for table in ("samples", "events", "moves"):
        db.execute(f"DELETE FROM {table} WHERE at < ?", (now - YEAR_SECONDS,))
    db.execute("DELETE FROM llm_peaks WHERE hour < ?", (int((now - YEAR_SECONDS) // 3600),))
    last_day = int(now // DAY_SECONDS) - LATENCIES_KEPT_DAYS
    db.execute("DELETE FROM latencies WHERE day < ?", (last_day,))
    for table, most in MOST_ROWS.items():
        db.execute(
            f"DELETE FROM {table} WHERE rowid <= "
            f"(SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
            (most,),
        )


def _thin(db: sqlite3.Connection, seconds: int, until: float) -> None:
    """Of each card's readings before ``until`` keep the fullest for each so many seconds."""
    until = until // seconds * seconds
    row = db.execute("SELECT until FROM thinned WHERE seconds = ?", (seconds,)).fetchone()
    since = row[0] if row is not None else 0.0
    if until <= since:
        return
    # SQLite takes a bare column from the row that has the minimum.
    db.execute(
        "DELETE FROM samples WHERE at >= ? AND at < ? AND rowid NOT IN (SELECT id FROM ("
        "SELECT rowid AS id, min(free) FROM samples WHERE at >= ? AND at < ? "
        "GROUP BY uuid, CAST(at / ? AS INTEGER)))",
        (since, until, since, until, seconds),
    )
    db.execute("INSERT OR REPLACE INTO thinned VALUES (?, ?)", (seconds, until))
