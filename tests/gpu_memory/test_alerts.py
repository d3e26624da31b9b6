"""Alerts: once for each crossing, whatever flickers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danzar_gpu.alerts import TIMINGS, AlertBook, Condition, Lent, conditions
from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.placement import rooms
from tests.gpu_memory.rig import Card, guide_rig

FULL = Condition("pressure:GPU-1", "pressure", "Device 1 is 95% full")


def test_an_alert_opens_once_develops_and_is_resolved() -> None:
    book = AlertBook()
    changes = []
    for second in range(200):
        found = []
        if 10 <= second < 60:
            found = [FULL if second < 40 else Condition(FULL.key, "pressure", "97% full")]
        changes += [(second, kind) for kind, _ in book.observe(found, second)]
    assert changes == [(25, "opened"), (40, "updated"), (89, "resolved")]
    assert book.open == ()


def test_a_short_spike_is_nobodys_business() -> None:
    book = AlertBook()
    assert not any(book.observe([FULL] if n % 10 == 0 else [], n) for n in range(200))


@given(st.lists(st.booleans(), min_size=1, max_size=400))
def test_opened_and_resolved_alternate_with_a_cooldown_between(states: list[bool]) -> None:
    book = AlertBook()
    timing = TIMINGS["pressure"]
    history: list[tuple[str, int]] = []
    for second, state in enumerate(states):
        for kind, _ in book.observe([FULL] if state else [], second):
            if kind != "updated":
                history.append((kind, second))
    kinds = [kind for kind, _ in history]
    assert kinds == ["opened", "resolved"] * (len(kinds) // 2) + ["opened"] * (len(kinds) % 2)
    for (_, resolved), (_, opened) in zip(history[1::2], history[2::2], strict=False):
        assert opened - resolved >= timing.cooldown


def test_what_is_wrong_is_said_in_words() -> None:
    config = GPUMemoryConfig()
    cards = (Card("RTX 4070", programs={"game.exe": 9.0}), guide_rig()[1])
    reading = MemorySnapshot(0, "scripted", tuple(c.device(i, 0) for i, c in enumerate(cards)))
    found = conditions(
        reading,
        rooms(reading, Ledger(), config, 0),
        [Lent("clip", "cpu", "no room"), Lent("yolo", "cuda:1", "")],
        config,
        driver_error="a GPU is lost",
    )
    assert [(c.key, c.text) for c in found] == [
        ("driver", "GPU memory can't be read: a GPU is lost"),
        (
            "llm",
            "Device 0 (RTX 4070): the main LLM may still claim 8.0GB, 5.0GB of it are not free",
        ),
        ("cpu:clip", "clip runs on the CPU: no room"),
    ]
    assert conditions(None, {}, [], config) == []
