"""The thread that writes the history, in batches, and goes on when the disk does not.

What could not be written waits, up to a bound, and is tried again with the next batch. What people
chose and set is kept besides: it is written at once, is never among what a bound gives up, and is
what a new file begins with when the old one was damaged or taken away.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from danzar_gpu import history_file
from danzar_gpu.history_file import Row, Tables

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""A process that is killed loses at most what came within so long."""
FLUSH_WAIT_SECONDS = 3.0
"""Nobody waits longer for a disk that hangs."""
FORGET_EVERY_SECONDS = 600.0
MOST_WAITING = 20_000
"""Rows that wait for a disk; the oldest are given up for new ones."""
BAD_ROW = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,
    ValueError,
)
"""What no second attempt would mend: a number too large, a name that is no text."""

Key = tuple[str, ...]


class HistoryWriter:
    """Owns the connection that writes. ``put`` never blocks."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why nothing is written at present, for people."""
        self.news: queue.SimpleQueue[str] = queue.SimpleQueue()
        """What was lost, for people."""
        self._wall = wall
        self._rows: queue.SimpleQueue[Row | threading.Event | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque(maxlen=MOST_WAITING)
        self._state: dict[Key, Row] = {}
        self._changed: dict[Key, Row] = {}
        self._state_lock = threading.Lock()
        self._begins_with: list[Row] = []
        self._new = False
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._forgot_at = float("-inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gpu-history", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Queue a row; does nothing before ``start`` and after ``close``."""
        # A disk that hangs must not fill the memory instead.
        if self._thread is not None and self._rows.qsize() < MOST_WAITING:
            self._rows.put(row)

    def keep(self, key: Key, row: Row, *, gone: bool = False) -> None:
        """Write a row at once, and again into every new file unless it is ``gone``.

        ``row`` takes the place of an earlier one with this key.
        """
        with self._state_lock:
            self._changed[key] = row
            if gone:
                self._state.pop(key, None)
            else:
                self._state[key] = row
        if self._thread is not None:
            self._rows.put(threading.Event())

    def known(self, state: Iterable[tuple[Key, Row]]) -> None:
        """What the file has already of what ``keep`` keeps."""
        with self._state_lock:
            self._state.update(state)

    def flush(self) -> bool:
        """Whether all that was given so far is on disk; waits for that a few seconds."""
        if self._thread is None:
            return False
        done = threading.Event()
        self._rows.put(done)
        return done.wait(FLUSH_WAIT_SECONDS) and self.trouble is None

    def begin_anew(self, error: BaseException) -> Tables:
        """Set the damaged file aside; what of it could be rescued, which the new one begins with.

        For the writer's thread, or before it is started. Raises ``OSError``.
        """
        aside = history_file.set_aside(self.path, error)
        tables = history_file.rescued(aside)
        self._begins_with = history_file.rows_of(tables)
        saved = ", ".join(f"{len(rows)} {table}" for table, rows in tables.items()) or "nothing"
        lost = [table for table in history_file.KEPT if table not in tables]
        words = (
            f"{self.path.name} was damaged and is set aside as {aside.name}; taken over from it: "
            f"{saved}; left in it: {', '.join((*lost, 'readings, events, moves'))}"
        )
        log.error("%s", words)
        self.news.put(words)
        return tables

    def close(self) -> None:
        """Write what is queued. Waits at most a few seconds."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join(timeout=5.0)
            self._thread = None

    def complain(self, error: BaseException) -> None:
        """Say once that nothing can be written, and why."""
        words = (
            f"{self.path} can't be written: {error}; history and settings are kept in memory only"
        )
        if self.trouble is None:
            log.error("%s, and tried again every %g s", words, FLUSH_SECONDS)
        self.trouble = words

    def _run(self) -> None:
        ended = False
        while not ended:
            batch, asked = self._next_batch()
            self._waiting.extend(batch)
            if self._waiting or self._changed or self._begins_with:
                self._flush()
            ended = asked is None
            if isinstance(asked, threading.Event):
                asked.set()
        self._disconnect()

    def _next_batch(self) -> tuple[list[Row], threading.Event | Literal[False] | None]:
        """Everything that comes within the flush interval, and what ended it sooner: somebody who
        waits, or ``None``, the end."""
        batch: list[Row] = []
        until = time.monotonic() + FLUSH_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                row = self._rows.get(timeout=left)
            except queue.Empty:
                break
            if row is None or isinstance(row, threading.Event):
                return batch, row
            batch.append(row)
        return batch, False

    def _flush(self) -> None:
        try:
            try:
                self._write()
            except sqlite3.Error as error:
                if not history_file.is_damage(error):
                    raise
                self._disconnect()
                self.begin_anew(error)
                self._write()
        except (OSError, sqlite3.Error) as error:
            self.complain(error)
            self._disconnect()
            return
        if self.trouble is not None:
            log.info("%s can be written again", self.path)
        self.trouble = None

    def _write(self) -> None:
        """Everything that waits; what was set by itself, as a nearly full disk may take that."""
        db = self._connected()
        with self._state_lock:
            changed = dict(self._changed)
            state = list(self._state.values()) if self._new else []
        with db:
            self._execute(db, (*self._begins_with, *state, *changed.values()))
        self._new = False
        self._begins_with.clear()
        with self._state_lock:
            for key, row in changed.items():
                if self._changed[key] is row:
                    del self._changed[key]
        with db:
            self._execute(db, self._waiting)
            if time.monotonic() - self._forgot_at >= FORGET_EVERY_SECONDS:
                history_file.forget(db, self._wall())
                self._forgot_at = time.monotonic()
        self._waiting.clear()

    @staticmethod
    def _execute(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
        for statement, values in rows:
            try:
                db.execute(statement, values)
            except BAD_ROW as error:
                log.warning("one row of the history is left out: %s", error)

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened anew if somebody took it away."""
        if self._db is not None and self._identity != self._found():
            log.warning("%s was taken away: a new one begins", self.path)
            self._disconnect()
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = history_file.connect(self.path)
            self._new |= history_file.migrate(self._db)
            self._identity = self._found()
        return self._db

    def _found(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _disconnect(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = self._identity = None
