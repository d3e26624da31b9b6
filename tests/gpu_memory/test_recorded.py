"""A machine's own history as a trace: what comes out, and what is said where it is too little."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bot.__main__ import main
from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.history import HistoryStore, Measurement, MoveRecord, Sample
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB
from danzar_gpu.simulate import POLICIES, load, parse, play
from danzar_gpu.simulate.recorded import Known, Recording, TooLittle, trace_of
from danzar_gpu.simulate.writing import as_yaml

YOLO = "yolo.pt fp32 640px x4"


def sample(at: float, uuid: str, *, llm: float = 0, ours: float = 0, others: float = 0) -> Sample:
    held = int((llm + ours + others) * GIB)
    total = 12 * GIB
    return Sample(at, uuid, total, total - held, held, int(llm * GIB), int(ours * GIB))


def move(at: float, kind: str, origin: str, target: str, seconds: float) -> MoveRecord:
    return MoveRecord(at, YOLO, "RTX 4070 SUPER", kind, origin, target, seconds, GIB, "")  # pyright: ignore[reportArgumentType]


def evening(start: float) -> Recording:
    """An hour: the LLM comes after ten minutes, a game plays for twenty on the vision card."""
    samples: list[Sample] = []
    for second in range(0, 3601, 10):
        at = start + second
        game = 8.0 if 1200 <= second < 2400 else 0.0
        samples.append(sample(at, "GPU-b", llm=7.0 if second >= 600 else 0.0, others=0.4))
        samples.append(sample(at, "GPU-a", ours=1.0 if second >= 60 else 0.0, others=0.3 + game))
    moves = [move(start + 60, "load", "", "cuda:1", 3.0), move(start + 99, "restore", "", "", 0.5)]
    need = Footprint(GIB // 2, GIB // 4, GIB // 2)
    measured = [Measurement(start + 60, YOLO, "RTX 4070 SUPER", need)]
    return Recording(samples, ["GPU-b", "GPU-a"], moves, measured)


def test_programs_come_and_go_as_they_did_and_models_take_what_was_measured() -> None:
    found = trace_of(evening(1e9), GPUMemoryConfig(), [Known("yolo.pt", 20, GIB // 2)])
    assert [card.total_gb for card in found.rig] == [12, 12]
    assert found.rig[1].name == "RTX 4070 SUPER"
    assert found.duration == 3600
    [llm] = [p for p in found.foreign if p.llm]
    assert (llm.device, llm.at, llm.until, llm.gb) == (0, 600, None, 7)
    [game] = [p for p in found.foreign if p.gb > 1 and not p.llm]
    assert (game.device, game.at, game.until, game.gb) == (1, 1200, 2400, 8)
    [yolo] = found.models
    assert (yolo.at, yolo.until, yolo.name, yolo.priority) == (57, None, "yolo.pt", 20)
    assert (yolo.need_gb, yolo.true_gb) == (0.5, 0.75)
    assert (yolo.load_seconds, yolo.move_seconds) == (3.0, 0.5)


def test_what_was_recorded_can_be_written_read_and_replayed() -> None:
    found = trace_of(evening(1e9), GPUMemoryConfig(), name="evening")
    again = parse(as_yaml(found, "an evening"), "evening.yaml")
    assert again == found
    score = play(again, POLICIES["danzar"]())
    assert (score.oom_count, score.llm_starved_count) == (0, 0)
    assert score.gpu_fraction > 0.95


def test_what_came_with_the_last_reading_leaves_a_trace_that_can_be_read() -> None:
    whole = evening(1e9)
    last = sample(1e9 + 3610, "GPU-b", llm=7.0, others=3.4)
    late = MoveRecord(1e9 + 3610, "clip", "RTX 4070", "load", "", "cuda:0", 0.0, GIB, "")
    found = trace_of(
        Recording([*whole.samples, last], whole.cards, [*whole.moves, late], whole.measurements),
        GPUMemoryConfig(),
    )
    assert parse(as_yaml(found)).duration == 3610
    assert [m.name for m in found.models] == [YOLO]
    assert max(p.at for p in found.foreign) < 3610


def test_models_end_where_the_bot_did() -> None:
    whole = evening(1e9)
    samples = [s for s in whole.samples if not 1e9 + 1000 < s.at < 1e9 + 3000]
    again = [*whole.moves, move(1e9 + 3100, "load", "", "cpu", 2.0)]
    found = trace_of(Recording(samples, whole.cards, again, whole.measurements), GPUMemoryConfig())
    assert [(m.at, m.until) for m in found.models] == [(57, 1000), (3098, None)]


def test_an_automatic_reservation_follows_the_recorded_peak() -> None:
    config = GPUMemoryConfig(main_llm_memory_reservation_gb="auto")
    samples = [sample(1e9 + 60 * n, "GPU-a", llm=5.0) for n in range(60 * 5)]
    moves = [move(1e9 + 60, "load", "", "cuda:0", 3.0)]
    found = trace_of(Recording(samples, ["GPU-a"], moves), config)
    assert found.gpu_memory.main_llm_memory_reservation_gb == 5.5


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (Recording([], []), "less than a minute of readings"),
        (Recording([sample(1e9, "a"), sample(1e9 + 9, "a")], ["a"]), "less than a minute"),
        (Recording([sample(1e9, "a"), sample(1e9 + 99, "a")], ["a"]), "no model was loaded"),
    ],
)
def test_too_little_is_said(recording: Recording, words: str) -> None:
    with pytest.raises(TooLittle, match=words):
        trace_of(recording, GPUMemoryConfig())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "vision_config.yaml"
    path.write_text(f"data: {{folder: {tmp_path / 'data'}}}\n", encoding="utf-8")
    return path


def test_the_command_replays_the_machines_own_hours(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = evening(time.time() - 3700)
    store = HistoryStore(tmp_path / "data" / "history.sqlite3")
    store.open()
    for one in recording.samples:
        store.sample(one)
    for record in recording.moves:
        store.move(record)
    for measured in recording.measurements:
        store.measurement(measured)
    store.close()
    saved = tmp_path / "evening.yaml"
    words = ["--config", str(config), "simulate", "--from-history", "--since", "2h", "--json"]
    assert main([*words, "--policy", "danzar", "cpu", "--save-trace", str(saved)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policies"]["danzar"]["oom_count"]["mean"] == 0
    assert found["policies"]["danzar"]["gpu_fraction"]["mean"] > 0.9
    kept = load(saved)
    assert [p.device for p in kept.foreign if p.llm] == [0]
    assert main([*words[:4], "--since", "1m", "--json"]) == 1
    assert "less than a minute" in capsys.readouterr().err


def test_the_command_says_why_it_can_not(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(config), "simulate"]
    assert main([*words, "--from-history"]) == 1
    assert "nothing was recorded yet" in capsys.readouterr().err
    assert main([*words, "--from-history", "trace.yaml"]) == 2
    assert "either a trace or --from-history" in capsys.readouterr().err
    assert main([*words, "trace.yaml", "--since", "2h"]) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "history.sqlite3").write_bytes(b"not a database, not at all" * 99)
    assert main([*words, "--from-history"]) == 1
    assert "can't be read" in capsys.readouterr().err
