"""The history's file: its schema and versions, what is kept for how long, a damaged one set aside.

Readings are kept in full for a day, then the fullest of each minute for a month and the fullest
of each hour for a year: whoever asks later wants to know when memory was short. Every table has
an end, so that the file has one.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

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
SCHEMAS = (SCHEMA_1, SCHEMA_2, SCHEMA_3)
"""What leads from one version to the next: a new file goes through all of them."""
SCHEMA_VERSION = len(SCHEMAS)


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """An open file. Raises ``sqlite3.Error``; also, unless ``create``, if there is none."""
    mode = "rwc" if create else "rw"
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, timeout=2.0, uri=True)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection


def migrate(db: sqlite3.Connection) -> None:
    """Bring a file to this version; a new one is made. Raises ``sqlite3.Error``."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.OperationalError(f"it was written by a newer Danzar (schema {version})")
    for number, step in enumerate(SCHEMAS[version:], version + 1):
        # All or nothing: a file that is half of one version can't be read by any.
        db.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")


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
