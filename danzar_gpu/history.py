"""What happened, kept: readings, events, moves, latencies, learned footprints, the LLM's peaks;
and what people chose and set.

In memory everything is bounded; on disk it is one SQLite file (WAL), written by a thread of its
own in batches (``history_writer``), so that neither the event loop nor a reading waits for the
disk. A full or read-only disk is said once, the manager goes on from memory, and what waits is
written when the disk takes it again. A damaged file is set aside under a name of its own, never
deleted; what was learned, chosen and set is taken over from it where it can still be read.
``history_file`` says what is kept for how long.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from danzar_gpu import history_file
from danzar_gpu.history_file import DAY_SECONDS, SCHEMA_VERSION, Row, Tables
from danzar_gpu.history_writer import HistoryWriter, Key
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
    "Setting",
    "fullest",
    "percentile",
]

log = logging.getLogger(__name__)

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
    """What was expected before it was ever measured, without the CUDA context; ``None`` where
    nobody wrote it down."""
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
class Setting:
    """Something that the program around the manager was told to keep."""

    section: str
    key: str
    """Within its section."""
    value: str
    """Text of the program's own form."""


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
    settings: tuple[Setting, ...] = ()


class HistoryStore:
    """The file. ``open`` and what returns something read it; the rest only queues."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._writer = HistoryWriter(path, wall)
        self._remembered: Remembered | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing is written at present, for people."""
        return self._writer.trouble

    def open(self) -> Remembered:
        """Create or check the file, read what matters, start the writer.

        Blocks for the disk; call it before the event loop has work, or in a thread. Never raises:
        without a usable file the history lives in memory, ``trouble`` says why, and the writer
        tries again. Who calls it again gets the same answer.
        """
        if self._remembered is not None:
            return self._remembered
        tables: Tables = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                tables = self._prepare()
            except sqlite3.Error as error:
                if not history_file.is_damage(error):
                    raise
                tables = self._writer.begin_anew(error)
                self._prepare()
        except (OSError, sqlite3.Error) as error:
            self._writer.complain(error)
            tables = tables or history_file.rescued(self.path)
        self._remembered = found = _remembered(tables)
        self._writer.known(_choice_row(choice) for choice in found.choices)
        self._writer.known(_setting_row(setting) for setting in found.settings)
        self._writer.start()
        return found

    def look(self) -> Remembered:
        """What ``open`` would return, from a file that is there; nothing is written, also where
        the file is of another version or damaged. Blocks for the disk.

        Raises ``sqlite3.Error`` where it can't be read.
        """
        with contextlib.closing(history_file.connect_to_look(self.path)) as db:
            return _remembered(history_file.kept(db))

    def close(self) -> None:
        """Write what is queued. Waits at most a few seconds. Idempotent."""
        self._writer.close()
        self._remembered = None

    def flush(self) -> bool:
        """Whether all that was given so far is on disk. Blocks: at most a few seconds."""
        return self._writer.flush()

    def news(self) -> list[str]:
        """What was lost with a damaged file since the last call, for people."""
        found: list[str] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._writer.news.get_nowait())
        return found

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
        self._writer.keep(*_choice_row(choice))

    def forget_choice(self, key: str) -> None:
        row = ("DELETE FROM choices WHERE key = ?", (key,))
        self._writer.keep(("choices", key), row, gone=True)

    def setting(self, setting: Setting) -> None:
        """Keep a setting in place of an earlier one with this section and key."""
        self._writer.keep(*_setting_row(setting))

    def forget_setting(self, section: str, key: str) -> None:
        row = ("DELETE FROM settings WHERE section = ? AND key = ?", (section, key))
        self._writer.keep(("settings", section, key), row, gone=True)

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
            rows = db.execute(
                f"{history_file.KEPT['footprints']} DESC LIMIT ?", (limit,)
            ).fetchall()
        return [_measurement(row) for row in reversed(rows)]

    def _put(self, statement: str, values: tuple[object, ...]) -> None:
        self._writer.put((statement, values))

    def _connect(self) -> sqlite3.Connection:
        return history_file.connect_to_read(self.path)

    def _prepare(self) -> Tables:
        with contextlib.closing(history_file.connect(self.path)) as db:
            history_file.migrate(db)
            history_file.examine(db)
            return history_file.kept(db)


def _remembered(tables: Tables) -> Remembered:
    """What an earlier run left. A row that is not of its table's types is left out."""
    return Remembered(
        tuple(_measurement(row) for row in _of_types(tables, "footprints", _FOOTPRINT)),
        tuple((row[0], row[1]) for row in _of_types(tables, "llm_peaks", (int, int))),
        tuple(Choice(*row) for row in _of_types(tables, "choices", (str, str, str, float))),
        tuple(Setting(*row) for row in _of_types(tables, "settings", (str, str, str))),
    )


_FOOTPRINT = (float, str, str, int, int, int, int | None, int)


def _of_types(
    tables: Tables, name: str, types: tuple[type | UnionType, ...]
) -> Iterator[tuple[Any, ...]]:
    # SQLite holds any value in any column, and its check does not look at all of them.
    for row in tables.get(name, ()):
        if all(isinstance(value, kind) for value, kind in zip(row, types, strict=True)):
            yield row
        else:
            log.warning("a row of %s makes no sense and is left out", name)


def _measurement(row: tuple[Any, ...]) -> Measurement:
    at, model, device_name, weights, activations, context, predicted, fell = row
    need = Footprint(weights, activations, context)
    return Measurement(at, model, device_name, need, predicted, bool(fell))


def _choice_row(choice: Choice) -> tuple[Key, Row]:
    statement = "INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?)"
    return ("choices", choice.key), (statement, astuple(choice))


def _setting_row(setting: Setting) -> tuple[Key, Row]:
    statement = "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)"
    return ("settings", setting.section, setting.key), (statement, astuple(setting))


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
