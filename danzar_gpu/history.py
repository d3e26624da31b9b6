"""What happened, kept: readings, events, moves, latencies, learned footprints, the LLM's peaks.

In memory everything is bounded; on disk it is one SQLite file (WAL), written by a thread of its
own in batches, so that neither the event loop nor a reading waits for the disk. A full or
read-only disk is said once and the manager goes on from memory. A damaged file is set aside under
a name of its own, never deleted.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from danzar_gpu.ledger import Footprint

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
FLUSH_SECONDS = 5.0
SAMPLES_KEPT_SECONDS = 7 * 24 * 3600.0
FULL_DETAIL_SECONDS = 24 * 3600.0
"""Of older readings those of ten seconds in each minute are kept."""
FORGET_EVERY_SECONDS = 600.0
EVENTS_KEPT_SECONDS = 365 * 24 * 3600.0
LATENCIES_KEPT_DAYS = 90
DAY_SECONDS = 24 * 3600.0
_SCHEMA_1 = """
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
_SCHEMA_2 = """
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
_SCHEMAS = (_SCHEMA_1, _SCHEMA_2)
"""What leads from one version to the next: a new file goes through all of them."""

MoveKind = Literal["load", "move", "offload", "restore", "park", "trim"]
MOVE_KINDS: tuple[MoveKind, ...] = get_args(MoveKind)
Row = tuple[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that the manager did or saw, in the words that chat and log use, too."""

    at: float
    """Unix time."""
    kind: str
    text: str
    facts: Mapping[str, object] = field(default_factory=dict[str, object], compare=False)
    """The figures behind it, by name; not kept in the file."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a model really took on a kind of card."""

    at: float
    model: str
    """Names weights, precision, batch and image size: ``yolo-nano.pt fp16 640px x4``."""
    device_name: str
    footprint: Footprint
    predicted_bytes: int | None = None
    """What was expected before it was ever measured; ``None`` where nobody wrote it down."""
    fell: bool = False
    """It ran out of memory there: ``footprint`` is what it would have needed, at least."""


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """One change of where a model's memory is, and what it took."""

    at: float
    """Unix time of its end."""
    model: str
    """As in ``Measurement``."""
    device_name: str
    """The kind of card whose memory was taken or given back; ``CPU`` where none was."""
    kind: MoveKind
    """``load`` from disk; ``offload`` a card for the CPU; ``restore`` back onto a card; ``move``
    from card to card; ``park`` the card's memory given back while nothing is to do; ``trim`` the
    allocator's unused blocks."""
    from_device: str
    """``cuda:N``, ``cpu``, or empty: nowhere."""
    to_device: str
    seconds: float
    bytes: int
    """What was moved, or given back."""
    reason: str


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long a model's frames took on one kind of device, on one day (UTC)."""

    day: int
    """Days since 1970."""
    model: str
    device_name: str
    buckets: tuple[tuple[int, int], ...]
    """(bucket, frames), see ``danzar_gpu.latency``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that a person decided while the bot ran; it outlives a restart."""

    key: str
    """A configuration key, or ``offload:NAME``."""
    value: str
    who: str
    at: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One card at one moment, as the file keeps it; sizes in bytes."""

    at: float
    uuid: str
    total_bytes: int
    free_bytes: int
    allocated_bytes: int
    llm_bytes: int
    our_bytes: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier run left behind."""

    measurements: tuple[Measurement, ...] = ()
    llm_peaks: tuple[tuple[int, int], ...] = ()
    """(hour since 1970, bytes): the most that the main LLM held in that hour."""
    choices: tuple[Choice, ...] = ()


class HistoryStore:
    """The file. ``open`` and ``remembered`` read it; the rest only queues."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        """Why nothing is written at present, for people."""
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._forgot_at = float("-inf")

    def open(self) -> Remembered:
        """Create or check the file, read what matters, start the writer.

        Blocks for the disk; call it before the event loop has work, or in a thread. Never raises:
        without a usable file the history lives in memory, and ``trouble`` says why.
        """
        remembered = Remembered()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                remembered = self._prepare()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._set_aside(error)
                remembered = self._prepare()
        except (OSError, sqlite3.Error) as error:
            self._complain(error)
            return remembered
        self._thread = threading.Thread(target=self._write, name="gpu-history", daemon=True)
        self._thread.start()
        return remembered

    def close(self) -> None:
        """Write what is queued. Waits at most a few seconds."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join(timeout=5.0)
            self._thread = None

    def sample(self, sample: Sample) -> None:
        """Keep one card's reading."""
        self._put("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(sample))
        if sample.llm_bytes:
            self._put(
                "INSERT INTO llm_peaks VALUES (?, ?) "
                "ON CONFLICT (hour) DO UPDATE SET bytes = max(bytes, excluded.bytes)",
                (int(sample.at // 3600), sample.llm_bytes),
            )

    def choice(self, choice: Choice) -> None:
        self._put("INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?)", astuple(choice))

    def forget_choice(self, key: str) -> None:
        self._put("DELETE FROM choices WHERE key = ?", (key,))

    def samples(self, since: float) -> list[Sample]:
        """Readings since a Unix time, oldest first. Blocks for the disk: call it in a thread.

        Raises ``OSError`` or ``sqlite3.Error`` where the file can't be read.
        """
        with contextlib.closing(self._connect()) as db:
            rows = db.execute("SELECT * FROM samples WHERE at >= ? ORDER BY at", (since,))
            return [Sample(*row) for row in rows]

    def events(self, since: float) -> list[Event]:
        """Events since a Unix time, oldest first. As ``samples``."""
        with contextlib.closing(self._connect()) as db:
            rows = db.execute("SELECT * FROM events WHERE at >= ? ORDER BY at", (since,))
            return [Event(*row) for row in rows]

    def event(self, event: Event) -> None:
        self._put("INSERT INTO events VALUES (?, ?, ?)", (event.at, event.kind, event.text))

    def measurement(self, measured: Measurement) -> None:
        need = measured.footprint
        self._put(
            "INSERT INTO footprints VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                measured.at,
                measured.model,
                measured.device_name,
                need.weights_bytes,
                need.activations_bytes,
                need.context_bytes,
                measured.predicted_bytes,
                int(measured.fell),
            ),
        )

    def move(self, record: MoveRecord) -> None:
        """Keep one change of place."""
        self._put("INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(record))

    def latencies(self, more: Latencies) -> None:
        """Add frames to a day's account."""
        for bucket, frames in more.buckets:
            self._put(
                "INSERT INTO latencies VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET frames = frames + excluded.frames",
                (more.day, more.model, more.device_name, bucket, frames),
            )

    def moves(
        self, model: str | None = None, since: float = 0.0, limit: int = 10_000
    ) -> list[MoveRecord]:
        """The newest ``limit`` changes of place since a Unix time, oldest first. As ``samples``."""
        with contextlib.closing(self._connect()) as db:
            rows = db.execute(
                "SELECT * FROM moves WHERE at >= ? AND (? IS NULL OR model = ?) "
                "ORDER BY at DESC LIMIT ?",
                (since, model, model, limit),
            ).fetchall()
        return [MoveRecord(*row) for row in reversed(rows)]

    def all_latencies(self, since_day: int = 0) -> list[Latencies]:
        """Each day's account since a day, oldest first. As ``samples``."""
        with contextlib.closing(self._connect()) as db:
            rows = db.execute(
                "SELECT day, model, device_name, bucket, frames FROM latencies WHERE day >= ? "
                "ORDER BY day, model, device_name, bucket",
                (since_day,),
            ).fetchall()
        accounts: dict[tuple[int, str, str], list[tuple[int, int]]] = {}
        for day, model, device_name, bucket, frames in rows:
            accounts.setdefault((day, model, device_name), []).append((bucket, frames))
        return [Latencies(*key, tuple(buckets)) for key, buckets in accounts.items()]

    def measurements(self, limit: int = 2000) -> list[Measurement]:
        """The newest ``limit`` measured footprints, oldest first. As ``samples``."""
        with contextlib.closing(self._connect()) as db:
            return _measurements(db, limit)

    def _put(self, statement: str, values: tuple[object, ...]) -> None:
        if self._thread is not None:
            self._rows.put((statement, values))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=2.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _prepare(self) -> Remembered:
        with contextlib.closing(self._connect()) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise sqlite3.OperationalError(
                    f"it was written by a newer Danzar (schema {version})"
                )
            for number, step in enumerate(_SCHEMAS[version:], version + 1):
                # All or nothing: a file that is half of one version can't be read by any.
                db.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the file is damaged")
            measured = _measurements(db, 2000)
            peaks = db.execute("SELECT hour, bytes FROM llm_peaks ORDER BY hour").fetchall()
            choices = db.execute("SELECT key, value, who, at FROM choices ORDER BY at").fetchall()
        return Remembered(
            tuple(measured),
            tuple((hour, size) for hour, size in peaks),
            tuple(Choice(*row) for row in choices),
        )

    def _set_aside(self, error: sqlite3.Error) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        log.error("%s is damaged (%s): set aside as %s, a new one begins", self.path, error, aside)

    def _complain(self, error: Exception) -> None:
        words = f"{self.path} can't be written: {error}; history is kept in memory only"
        if self.trouble is None:
            log.error("%s", words)
        self.trouble = words

    def _write(self) -> None:
        ended = False
        db: sqlite3.Connection | None = None
        while not ended:
            batch, ended = self._next_batch()
            if not batch:
                continue
            try:
                db = db or self._connect()
                with db:
                    for statement, values in batch:
                        db.execute(statement, values)
                    self._forget(db)
            except (OSError, sqlite3.Error) as error:
                self._complain(error)
            else:
                if self.trouble is not None:
                    log.info("%s can be written again", self.path)
                self.trouble = None
        if db is not None:
            db.close()

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

    def _forget(self, db: sqlite3.Connection) -> None:
        if time.monotonic() - self._forgot_at < FORGET_EVERY_SECONDS:
            return
        self._forgot_at = time.monotonic()
        now = time.time()
        db.execute("DELETE FROM samples WHERE at < ?", (now - SAMPLES_KEPT_SECONDS,))
        db.execute(
            "DELETE FROM samples WHERE at < ? AND CAST(at AS INTEGER) % 60 >= 10",
            (now - FULL_DETAIL_SECONDS,),
        )
        db.execute("DELETE FROM events WHERE at < ?", (now - EVENTS_KEPT_SECONDS,))
        db.execute("DELETE FROM moves WHERE at < ?", (now - EVENTS_KEPT_SECONDS,))
        last_day = int(now // DAY_SECONDS) - LATENCIES_KEPT_DAYS
        db.execute("DELETE FROM latencies WHERE day < ?", (last_day,))


def _measurements(db: sqlite3.Connection, limit: int) -> list[Measurement]:
    rows = db.execute(
        "SELECT at, model, device_name, weights, activations, context, predicted, fell "
        "FROM footprints ORDER BY at DESC LIMIT ?",
        (limit,),
    ).fetchall()
    return [
        Measurement(r[0], r[1], r[2], Footprint(r[3], r[4], r[5]), r[6], bool(r[7]))
        for r in reversed(rows)
    ]


def percentile(values: Iterable[int], share: float) -> int:
    """The nearest-rank percentile: the least value that ``share`` (0 to 1) of all don't exceed."""
    ranked = sorted(values)
    if not ranked:
        raise ValueError("a percentile of nothing")
    rank = max(1, -(-len(ranked) * round(share * 1000) // 1000))
    return ranked[min(rank, len(ranked)) - 1]
