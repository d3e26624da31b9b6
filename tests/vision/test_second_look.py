"""When another worker may try a card that refused this one."""

from __future__ import annotations

from bot.vision.second_look import WAITS_SECONDS, SecondLook


def test_a_card_that_refuses_worker_after_worker_is_tried_less_and_less_and_then_no_more() -> None:
    look, now = SecondLook(), 1000.0
    for wait in WAITS_SECONDS:
        look.refused("GPU-1", "it is busy", now)
        look.refused("GPU-1", "it is busy", now + wait - 1)  # the other model: the same refusal
        assert look.due(now + wait - 0.5) is None
        assert look.due(now + wait) == "it is busy"
        look.worker_gone()
        now += wait
        assert look.due(now + 1e6) is None, "the next worker has not been refused"
    look.refused("GPU-1", "it is busy", now)
    assert look.due(now + 1e9) is None


def test_whoever_gets_there_after_all_counts_anew_and_for_that_card_alone() -> None:
    look, first = SecondLook(), WAITS_SECONDS[0]
    look.refused("GPU-1", "lost", 0.0)
    assert look.due(first) == "lost"
    look.worker_gone()
    look.landed("GPU-2")
    look.refused("GPU-1", "lost again", 100.0)
    assert look.due(100.0 + first) is None
    look.landed("GPU-1")
    look.refused("GPU-1", "lost once more", 200.0)
    assert look.due(200.0 + first) == "lost once more"


def test_somebody_who_starts_vision_starts_the_count() -> None:
    look = SecondLook()
    for now in (0.0, 1000.0, 2000.0):
        look.refused("GPU-1", "busy", now)
        assert look.due(now + 999.0) == "busy"
        look.worker_gone()
    look.clear()
    look.refused("GPU-1", "busy", 5000.0)
    assert look.due(5000.0 + WAITS_SECONDS[0]) == "busy"
