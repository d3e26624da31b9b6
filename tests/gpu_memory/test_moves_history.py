"""Moves and latencies outlive the process; an older file is brought up to date, not lost."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danzar_gpu import Footprint
from danzar_gpu.history import (
    SCHEMA_VERSION,
    HistoryStore,
    Latencies,
    Measurement,
    MoveRecord,
)
from danzar_gpu.history_file import SCHEMA_1
from danzar_gpu.latency import LEAST_MS, Histogram

NOW = float(int(time.time()))
"""What is long past is forgotten."""
TODAY = int(NOW // 86400)


def a_move(after: float, model: str = "yolo") -> MoveRecord:
    return MoveRecord(
        NOW + after, model, "RTX 4070", "offload", "cuda:0", "cpu", 0.25, 1 << 20, "a game"
    )


def test_moves_come_back_in_order_and_by_model(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path / "h.sqlite3")
    store.open()
    for move in (a_move(3.0), a_move(1.0), a_move(2.0, "clip")):
        store.move(move)
    store.close()
    assert store.moves() == [a_move(1.0), a_move(2.0, "clip"), a_move(3.0)]
    assert store.moves("yolo", since=NOW + 2) == [a_move(3.0)]
    assert store.moves(limit=1) == [a_move(3.0)]  # the newest is kept


def test_latencies_of_a_day_add_up(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path / "h.sqlite3")
    store.open()
    store.latencies(Latencies(TODAY - 1, "yolo", "A", ((10, 2), (11, 1))))
    store.latencies(Latencies(TODAY - 1, "yolo", "A", ((11, 4),)))
    store.latencies(Latencies(TODAY, "yolo", "A", ((1, 1),)))
    store.close()
    first, second = store.all_latencies()
    assert first == Latencies(TODAY - 1, "yolo", "A", ((10, 2), (11, 5)))
    assert store.all_latencies(since_day=TODAY) == [second]


def test_a_file_of_the_first_version_keeps_what_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(f"{SCHEMA_1} PRAGMA user_version = 1;")
        db.execute("INSERT INTO footprints VALUES (1, 'yolo', 'A', 10, 20, 30)")
    db.close()
    store = HistoryStore(path)
    assert store.open().measurements == (Measurement(1.0, "yolo", "A", Footprint(10, 20, 30)),)
    store.move(a_move(1.0))
    fallen = Measurement(2.0, "yolo", "A", Footprint(10, 40, 30), predicted_bytes=70, fell=True)
    store.measurement(fallen)
    store.close()
    assert store.moves() == [a_move(1.0)]
    assert store.measurements()[-1] == fallen
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


@given(st.lists(st.floats(LEAST_MS, 60_000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_of_the_histogram_is_within_a_fortieth(
    values: list[float], share: float
) -> None:
    whole, parts = Histogram(), Histogram()
    for value in values:
        whole.add(value)
        part = Histogram()
        part.add(value)
        parts.merge(part.buckets)
    ranked = sorted(values)
    wanted = max(1, -(-int(share * len(values) * 1e6) // 10**6))
    exact = ranked[min(wanted, len(values)) - 1]
    found = whole.percentile(share)
    assert found is not None
    assert found == pytest.approx(exact, rel=0.03)
    assert parts.percentile(share) == found
    assert Histogram().percentile(share) is None
