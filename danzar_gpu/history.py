"""What happened, kept: readings, events, moves, latencies, learned footprints, the LLM's peaks.

In memory everything is bounded; on disk it is one SQLite file (WAL), written by a thread of its
own in batches (``history_writer``), so that neither the event loop nor a reading waits for the
disk. A full or read-only disk is said once, the manager goes on from memory, and what waits is
written when the disk takes it again. A damaged file is set aside under a name of its own, never
deleted. ``history_file`` says what is kept for how long.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from danzar_gpu import history_file
from danzar_gpu.history_file import DAY_SECONDS, SCHEMA_VERSION
from danzar_gpu.history_writer import HistoryWriter
from danzar_gpu.ledger import Footprint

__all__ = [
    "DAY_SECONDS",
    "MOVE_KINDS",
    "SCHEMA_VERSION",
    "Choice",
    "Event",
    "HistoryStore",
    "Latencies",
    "Measurement",
    "MoveKind",
    "MoveRecord",
    "Remembered",
    "Sample",
    "fullest",
    "percentile",
]

MoveKind = Literal["load", "move", "offload", "restore", "park", "trim"]
MOVE_KINDS: tuple[MoveKind, ...] = get_args(MoveKind)


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

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._writer = HistoryWriter(path, wall)

    @property
    def trouble(self) -> str | None:
        """Why nothing is written at present, for people."""
        return self._writer.trouble

    def open(self) -> Remembered:
        """Create or check the file, read what matters, start the writer.

        Blocks for the disk; call it before the event loop has work, or in a thread. Never raises:
        without a usable file the history lives in memory, ``trouble`` says why, and the writer
        tries again.
        """
        remembered = Remembered()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                remembered = self._prepare()
            except sqlite3.Error as error:
                if not history_file.is_damage(error):
                    raise
                history_file.set_aside(self.path, error)
                remembered = self._prepare()
        except (OSError, sqlite3.Error) as error:
            self._writer.complain(error)
        self._writer.start()
        return remembered

    def close(self) -> None:
        """Write what is queued. Waits at most a few seconds."""
        self._writer.close()

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

    def samples(self, since: float, every: float = 0.0) -> list[Sample]:
        """Readings since a Unix time, oldest first; of those within ``every`` seconds the fullest
        of each card alone. Blocks for the disk: call it in a thread.

        Raises ``OSError`` or ``sqlite3.Error`` where the file can't be read.
        """
        # SQLite takes a bare column from the row that has the minimum.
        with contextlib.closing(self._connect()) as db:
            rows = db.execute(
                "SELECT at, uuid, total, min(free), allocated, llm, ours FROM samples "
                "WHERE at >= ? GROUP BY uuid, CAST(at / ? AS INTEGER) ORDER BY at",
                (since, max(every, 0.001)),
            )
            return [Sample(*row) for row in rows]

    def cards(self) -> list[str]:
        """UUIDs of the cards on record, in the order of their indices. As ``samples``."""
        # The cards of one reading are written in that order.
        with contextlib.closing(self._connect()) as db:
            rows = db.execute("SELECT uuid FROM samples GROUP BY uuid ORDER BY min(rowid)")
            return [uuid for (uuid,) in rows]

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
        self._writer.put((statement, values))

    def _connect(self) -> sqlite3.Connection:
        return history_file.connect(self.path, create=False)

    def _prepare(self) -> Remembered:
        with contextlib.closing(history_file.connect(self.path)) as db:
            history_file.migrate(db)
            history_file.examine(db)
            measured = _measurements(db, 2000)
            peaks = db.execute("SELECT hour, bytes FROM llm_peaks ORDER BY hour").fetchall()
            choices = db.execute("SELECT key, value, who, at FROM choices ORDER BY at").fetchall()
        return Remembered(
            tuple(measured),
            tuple((hour, size) for hour, size in peaks),
            tuple(Choice(*row) for row in choices),
        )


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


def fullest(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most ``most`` of one card's readings, oldest first: the fullest of each equal span.

    Readings come closer when memory is short and are kept more rarely when they are old: to take
    every n-th would miss what a person looks for.
    """
    if len(samples) <= most:
        return list(samples)
    first = samples[0].at
    span = max((samples[-1].at - first) / most, 1e-3) * (1 + 1e-9)
    kept: dict[int, Sample] = {}
    for sample in samples:
        number = int((sample.at - first) / span)
        other = kept.get(number)
        if other is None or sample.free_bytes < other.free_bytes:
            kept[number] = sample
    return [kept[number] for number in sorted(kept)]
