"""What profiles are made of: footprints, moves and latencies, of this run and of earlier ones."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from danzar_gpu.history import DAY_SECONDS, HistoryStore, Latencies, Measurement, MoveRecord
from danzar_gpu.latency import Histogram

log = logging.getLogger(__name__)

T = TypeVar("T", Measurement, MoveRecord)

FLUSH_SECONDS = 30.0
"""How much of the latencies a crash may lose."""
MOVES_KEPT = 500
MEASUREMENTS_KEPT = 500


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything that is on record."""

    measurements: tuple[Measurement, ...] = ()
    moves: tuple[MoveRecord, ...] = ()
    latencies: tuple[Latencies, ...] = ()


class Records:
    """Keeps what happened in memory (bounded) and passes it on to the file.

    ``store`` is ``None`` where nothing may be written: a scripted rig must not be learned from.
    """

    def __init__(self, store: HistoryStore | None, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        self._measurements: deque[Measurement] = deque(maxlen=MEASUREMENTS_KEPT)
        self._moves: deque[MoveRecord] = deque(maxlen=MOVES_KEPT)
        self._session: dict[tuple[str, str], Histogram] = {}
        self._unsaved: dict[tuple[str, str], Histogram] = {}
        self._flushed_at = wall()

    def measured(self, measurement: Measurement) -> None:
        self._measurements.append(measurement)
        if self._store is not None:
            self._store.measurement(measurement)

    def moved(self, record: MoveRecord) -> None:
        self._moves.append(record)
        if self._store is not None:
            self._store.move(record)

    def frame(self, model: str, device_name: str, milliseconds: float) -> None:
        """A frame was analysed; ``device_name`` as in ``MoveRecord``."""
        key = (model, device_name)
        self._session.setdefault(key, Histogram()).add(milliseconds)
        if self._store is None:
            return
        self._unsaved.setdefault(key, Histogram()).add(milliseconds)
        if not 0 <= self._wall() - self._flushed_at < FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand the latencies on to the file."""
        self._flushed_at = self._wall()
        if self._store is None:
            return
        for latencies in self._accounts(self._unsaved):
            self._store.latencies(latencies)
        self._unsaved.clear()

    async def read(self) -> Recorded:
        """All that is known. A file that can't be read shortens it; the log says why."""
        mine = Recorded(
            tuple(self._measurements), tuple(self._moves), tuple(self._accounts(self._session))
        )
        if self._store is None:
            return mine
        self.flush()
        try:
            stored = await asyncio.to_thread(read_store, self._store)
        except (OSError, sqlite3.Error) as error:
            log.warning("the records on disk can't be read: %s", error)
            return mine
        return Recorded(
            _both(stored.measurements, mine.measurements),
            _both(stored.moves, mine.moves),
            stored.latencies,
        )

    def _accounts(self, histograms: dict[tuple[str, str], Histogram]) -> Iterable[Latencies]:
        day = int(self._wall() // DAY_SECONDS)
        return [Latencies(day, *key, h.buckets) for key, h in histograms.items()]


def read_store(store: HistoryStore) -> Recorded:
    """What the file has. Blocks for the disk; raises ``OSError`` or ``sqlite3.Error``."""
    return Recorded(tuple(store.measurements()), tuple(store.moves()), tuple(store.all_latencies()))


def _both(stored: tuple[T, ...], recent: tuple[T, ...]) -> tuple[T, ...]:
    """The file's, and those in memory that its writer has not come to yet."""
    known = set(stored)
    return (*stored, *(r for r in recent if r not in known))
