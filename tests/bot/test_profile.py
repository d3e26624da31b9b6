"""What ``danzar profile`` says: nothing yet, and what a bot left on record."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.__main__ import main
from bot.cli.exits import Exit
from bot.profile import Configured, profiles, profiles_of
from danzar_gpu import Footprint
from danzar_gpu.history import HistoryStore, Latencies, Measurement, MoveKind, MoveRecord
from danzar_gpu.latency import Histogram
from danzar_gpu.records import Recorded, Records

GB = 1 << 30
KEY = "yolo-nano.pt fp16 640px x4"
CARD = "RTX 4070 SUPER"
NOW = float(int(time.time()))
"""What is long past is forgotten."""
TODAY = int(NOW // 86400)


def move(kind: MoveKind, seconds: float, after: float = 0.0, reason: str = "why") -> MoveRecord:
    return MoveRecord(NOW + after, KEY, CARD, kind, "cuda:1", "cpu", seconds, GB // 4, reason)


def pace(device: str, *milliseconds: float) -> Latencies:
    histogram = Histogram()
    for value in milliseconds:
        histogram.add(value)
    return Latencies(TODAY, KEY, device, histogram.buckets)


RECORDED = Recorded(
    measurements=(
        Measurement(NOW, KEY, CARD, Footprint(GB // 4, GB // 4, GB // 2), 2 * GB),
        Measurement(NOW + 1, KEY, CARD, Footprint(GB // 4, GB, GB // 2), 2 * GB, fell=True),
    ),
    moves=(
        move("load", 3.0),
        move("offload", 0.0, 1.0, "it ran out of memory"),
        move("park", 0.1, 2.0),
        move("offload", 0.3, 3.0, "a game came"),
        move("restore", 0.2, 4.0),
    ),
    latencies=(pace(CARD, *[10.0] * 98, 100.0, 100.0), pace("CPU", 80.0)),
)
CONFIGURED = (Configured("yolo", "yolo-nano.pt", 3 * GB), Configured("clip", "clip-tiny", GB))


def test_each_model_on_each_device_has_its_own_line() -> None:
    clip, card, cpu = profiles_of(RECORDED, CONFIGURED)
    assert (clip.service, clip.device_name, clip.predicted_bytes) == ("clip", "", GB)
    assert (card.service, card.device_name, cpu.device_name) == ("yolo", CARD, "CPU")
    # The prediction is the one of then; what is asked for is what it needed when it fell.
    assert card.predicted_bytes == 2 * GB
    assert (card.measured_bytes, card.measurements) == (GB // 4 + GB, 1)
    assert card.fell_bytes == GB // 4 + GB
    assert card.load is not None
    assert card.load.median_seconds == 3.0
    # A fall took no time of its own, so it does not count as a quick way out.
    assert card.offload is not None
    assert (card.offload.count, card.offload.worst_seconds) == (2, 0.3)
    assert card.offload.median_seconds == pytest.approx(0.2)
    assert card.move is None
    assert card.frames == 100
    assert card.p50_ms == pytest.approx(10, rel=0.03)
    assert card.p95_ms == pytest.approx(10, rel=0.03)
    assert card.p99_ms == pytest.approx(100, rel=0.03)
    assert [line.reason for line in card.moves][-2:] == ["a game came", "why"]
    assert cpu.p50_ms == pytest.approx(80, rel=0.03)
    assert cpu.measured_bytes is None


def test_a_model_that_is_configured_no_more_is_still_shown() -> None:
    card, cpu = profiles_of(RECORDED)
    assert (card.service, card.model, cpu.model) == ("", KEY, KEY)


async def test_a_running_bot_knows_what_it_just_did() -> None:
    records = Records(None, lambda: NOW)
    records.moved(move("load", 1.0))
    records.frame(KEY, CARD, 12.0)
    context: Any = SimpleNamespace(
        gpu_memory_manager=SimpleNamespace(records=records),
        vision=SimpleNamespace(
            services={"yolo": SimpleNamespace(model="yolo-nano.pt", predicted_bytes=GB)}
        ),
    )
    (profile,) = await profiles(cast("Any", context))
    assert (profile.service, profile.frames, profile.predicted_bytes) == ("yolo", 1, GB)
    assert profile.load is not None


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data: {{folder: {tmp_path}}}\nyolo: {{model_path: nowhere.pt}}\n", encoding="utf-8"
    )
    return path


def test_before_anything_ran_it_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "profile"]) == Exit.OK
    words = capsys.readouterr().out
    assert "Nothing was recorded yet" in words
    assert "YOLO: nowhere.pt is missing" in words
    assert "never run" in words
    assert not (config.parent / "history.sqlite3").exists()


def test_what_a_bot_recorded_is_shown_and_given_to_programs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = HistoryStore(config.parent / "history.sqlite3")
    store.open()
    for measurement in RECORDED.measurements:
        store.measurement(measurement)
    for record in RECORDED.moves:
        store.move(record)
    for account in RECORDED.latencies:
        store.latencies(account)
    store.close()
    assert main(["--config", str(config), "profile"]) == Exit.OK
    words = capsys.readouterr().out
    assert "a game came" in words
    assert "fell at 1.25" in words
    assert main(["--config", str(config), "profile", "--json"]) == Exit.OK
    content = json.loads(capsys.readouterr().out)
    card = next(p for p in content["profiles"] if p["device_name"] == CARD)
    assert card["load"]["median_seconds"] == 3.0
    assert card["moves"][-1]["kind"] == "restore"
    assert content["troubles"][0].startswith("YOLO: nowhere.pt is missing")


def test_a_file_that_is_no_history_is_an_error_in_words(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "history.sqlite3").write_bytes(b"no database at all" * 100)
    assert main(["--config", str(config), "profile"]) == Exit.FAILED
    assert "can't be read" in capsys.readouterr().err
