"""The thread that writes the history, in batches, and goes on when the disk does not.

What could not be written waits, up to a bound, and is tried again with the next batch.
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

from danzar_gpu import history_file

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""A process that is killed loses at most what came within so long."""
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

Row = tuple[str, tuple[object, ...]]


class HistoryWriter:
    """Owns the connection that writes. ``put`` never blocks."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why nothing is written at present, for people."""
        self._wall = wall
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque(maxlen=MOST_WAITING)
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

    def close(self) -> None:
        """Write what is queued. Waits at most a few seconds."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join(timeout=5.0)
            self._thread = None

    def complain(self, error: BaseException) -> None:
        """Say once that nothing can be written, and why."""
        words = f"{self.path} can't be written: {error}; history is kept in memory only"
        if self.trouble is None:
            log.error("%s, and tried again every %g s", words, FLUSH_SECONDS)
        self.trouble = words

    def _run(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._next_batch()
            self._waiting.extend(batch)
            if self._waiting:
                self._flush()
        self._disconnect()

    def _next_batch(self) -> tuple[list[Row], bool]:
        """Everything that comes within the flush interval; and whether it is the last."""
        batch: list[Row] = []
        until = time.monotonic() + FLUSH_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                row = self._rows.get(timeout=left)
            except queue.Empty:
                break
            if row is None:
                return batch, True
            batch.append(row)
        return batch, False

    def _flush(self) -> None:
        try:
            try:
                self._write(self._waiting)
            except sqlite3.Error as error:
                if not history_file.is_damage(error):
                    raise
                self._disconnect()
                history_file.set_aside(self.path, error)
                self._write(self._waiting)
        except (OSError, sqlite3.Error) as error:
            self.complain(error)
            self._disconnect()
            return
        if self.trouble is not None:
            log.info("%s can be written again", self.path)
        self.trouble = None
        self._waiting.clear()

    def _write(self, rows: Iterable[Row]) -> None:
        db = self._connected()
        with db:
            for statement, values in rows:
                try:
                    db.execute(statement, values)
                except BAD_ROW as error:
                    log.warning("one row of the history is left out: %s", error)
            if time.monotonic() - self._forgot_at >= FORGET_EVERY_SECONDS:
                history_file.forget(db, self._wall())
                self._forgot_at = time.monotonic()

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened anew if somebody took it away."""
        if self._db is not None and self._identity != self._found():
            log.warning("%s was taken away: a new one begins", self.path)
            self._disconnect()
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = history_file.connect(self.path)
            history_file.migrate(self._db)
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
