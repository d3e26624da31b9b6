"""Memory that was given up is back when the driver shows it, whatever others do meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from danzar_gpu import Footprint, Lease
from danzar_gpu.settling import LIMIT_SECONDS, Figures, Settling
from tests.gpu_memory.rig import Card, Rig, gb

BEFORE = Figures(
    used=gb(6.0), ours=gb(1.4), others=gb(4.5), allocator=gb(1.0), leased=gb(1.0), listed_at=0.0
)
"""Ours: 1.0 of a model and 0.4 of context; the driver keeps 0.1 for itself."""
UNNAMED = replace(BEFORE, ours=None, others=None)


def waiting(before: Figures = BEFORE, *, gone: bool = False) -> Settling:
    return Settling("yolo", "GPU-1", "Device 1 (B)", "w", 77, gb(1.0), gb(0.4), before, 100.0, gone)


def there(
    before: Figures,
    *,
    given: float = 0.0,
    said: float | None = None,
    foreign: float = 0.0,
    ours_more: float = 0.0,
    listed_at: float = 101.0,
) -> Figures:
    """Later: ``given`` GB of ours are back, and our allocator ``said`` so; others took more."""
    said = given if said is None else said
    named = before.ours is not None
    return Figures(
        used=before.used - gb(given) + gb(foreign) + gb(ours_more),
        ours=(before.ours or 0) - gb(given) + gb(ours_more) if named else None,
        others=(before.others or 0) + gb(foreign) if named else None,
        allocator=before.allocator - gb(said) + gb(ours_more),
        leased=gb(ours_more),
        listed_at=listed_at,
    )


@pytest.mark.parametrize("before", [BEFORE, UNNAMED])
def test_it_ends_when_the_driver_shows_it(before: Figures) -> None:
    wait = waiting(before)
    assert wait.look(there(before, said=1.0), 100.2) is None
    ended = wait.look(there(before, given=1.0), 100.7)
    assert ended is not None
    assert (ended.kind, ended.size_bytes) == ("shown", gb(1.0))
    assert ended.words == ("Device 1 (B) shows 1.00GB of yolo as given back after 0.7 s")


@pytest.mark.parametrize("before", [BEFORE, UNNAMED])
def test_a_strangers_gift_is_not_taken_for_ours(before: Figures) -> None:
    wait = waiting(before)
    for second in range(1, int(LIMIT_SECONDS)):
        assert wait.look(there(before, foreign=-3.0), 100.0 + second) is None
    late = wait.look(there(before, foreign=-3.0), 100.0 + LIMIT_SECONDS)
    assert late is not None
    assert late.kind == "late"


def test_a_strangers_grab_does_not_hide_that_ours_is_back() -> None:
    ended = waiting().look(there(BEFORE, given=1.0, foreign=2.0), 100.5)
    assert ended is not None
    assert (ended.kind, ended.size_bytes) == ("shown", gb(1.0))


def test_without_names_a_grab_can_not_be_told_and_nothing_is_promised() -> None:
    wait = waiting(UNNAMED)
    figures = there(UNNAMED, given=1.0, foreign=2.0)
    assert wait.look(figures, 105.0) is None
    late = wait.look(figures, 110.0)
    assert late is not None
    assert late.kind == "late"
    assert "another program took it" in late.words


def test_another_model_of_ours_that_comes_meanwhile_is_accounted_for() -> None:
    wait = waiting()
    assert wait.look(there(BEFORE, said=1.0, ours_more=0.8), 100.5) is None
    ended = wait.look(there(BEFORE, given=1.0, ours_more=0.8), 100.6)
    assert ended is not None
    assert ended.kind == "shown"


def test_a_list_from_before_says_nothing() -> None:
    assert waiting().look(there(BEFORE, given=1.0, listed_at=99.0), 100.5) is None


def test_what_was_leased_but_never_held_is_not_waited_for() -> None:
    # Leased 1.0, held 0.3: the allocator's word tells how much is to come back.
    held = replace(BEFORE, ours=gb(0.7), allocator=gb(0.3))
    ended = waiting(held).look(there(held, given=0.3), 100.5)
    assert ended is not None
    assert ended.kind == "shown"


@pytest.mark.parametrize("before", [BEFORE, UNNAMED])
def test_who_held_next_to_nothing_is_not_waited_for(before: Figures) -> None:
    # Leased 1.0 for the peak of its trial; at work it held 0.03 beside another model.
    other = replace(before, leased=gb(1.3), allocator=gb(0.1))
    wait = waiting(other)
    figures = replace(there(other, given=0.03), leased=gb(0.3))
    assert wait.look(replace(figures, heard=1), 101.0) is None
    # What spoke may be from before it left: one word more decides.
    ended = wait.look(replace(figures, heard=2), 103.0)
    assert ended is not None
    assert (ended.kind, ended.size_bytes) == ("shown", gb(0.03))
    much = replace(figures, heard=2, allocator=figures.allocator - gb(0.07))
    assert waiting(other).look(much, 103.0) is None


def test_a_dead_process_is_waited_for_until_its_row_is_gone() -> None:
    wait = waiting(gone=True)
    assert wait.look(there(BEFORE, said=1.0), 100.2) is None
    ended = wait.look(replace(there(BEFORE, given=1.4), ours=0), 100.5)
    assert ended is not None
    assert ended.kind == "gone"
    # Where the driver names nobody there is nothing to wait for.
    blind = waiting(UNNAMED, gone=True).look(there(UNNAMED), 100.1)
    assert blind is not None
    assert blind.kind == "gone"


def test_it_looks_quickly_at_first() -> None:
    wait = waiting()
    assert wait.poll_seconds(100.5) < wait.poll_seconds(102.0) <= 1.0


# --- in the manager ----------------------------------------------------------------------------

NEED = Footprint(gb(0.5), gb(0.5), gb(0.4))


async def leased(rig: Rig) -> Lease:
    rig.manager.holder_memory("w", 77, {1: (gb(1.0), gb(1.0))})
    rig.cards[1].ours[77] = gb(1.4)
    lease = await rig.manager.acquire("yolo", NEED, model="yolo fp32", holder="w")
    await rig.step()
    return lease


async def test_the_manager_says_what_it_waited_for_and_how_long() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 2.0})) as rig:
        lease = await leased(rig)
        rig.manager.offload("yolo", "somebody said so")
        lease.moved()
        rig.manager.holder_memory("w", 77, {})
        await rig.step(0.2, times=3)
        rig.cards[1].programs["g"] = 0.5  # a game gives 1.5 back: that is not ours
        await rig.step(0.2)
        assert rig.events("returned") == []
        rig.cards[1].ours[77] = gb(0.4)
        await rig.step(0.2)
        assert rig.events("returned") == [
            "Device 1 (B) shows 1.00GB of yolo as given back after 1.0 s"
        ]
        settled = await rig.manager.shown("yolo")
        assert settled is not None
        assert settled.seconds == pytest.approx(1.0)


async def test_the_manager_gives_up_with_a_warning() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 2.0})) as rig:
        (await leased(rig)).release()
        await rig.step(times=int(LIMIT_SECONDS) + 1)
        (words,) = rig.events("not-returned")
        assert words.startswith("Device 1 (B) shows 0.00GB of the 1.00GB that yolo left")
        await rig.step(times=5)
        assert len(rig.events("not-returned")) == 1


async def test_while_it_waits_the_lists_are_read_each_time_and_soon() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 2.0})) as rig:
        lease = await leased(rig)
        manager = rig.manager
        await rig.step(times=30)
        calm = manager._interval()  # pyright: ignore[reportPrivateUsage]
        lease.release()
        assert manager._interval() < min(calm, 0.2)  # pyright: ignore[reportPrivateUsage]
        assert manager._processes_due()  # pyright: ignore[reportPrivateUsage]
        rig.cards[1].ours.clear()
        await rig.step()
        assert rig.events("returned")
        assert not manager._settlings.open  # pyright: ignore[reportPrivateUsage]


async def test_a_waiting_model_gets_the_card_when_the_driver_shows_the_memory() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 9.0})) as rig:
        rig.manager.holder_memory("w", 77, {1: (gb(1.5), gb(1.5))})
        rig.cards[1].ours[77] = gb(1.9)
        big = Footprint(gb(1.0), gb(0.5), gb(0.4))
        clip = await rig.manager.acquire("clip", big, holder="w", priority=1)
        await rig.step()
        ticket = rig.manager.acquire("yolo", big, holder="other", priority=9, policy="wait")
        task = asyncio.create_task(ticket)
        for _ in range(20):
            await asyncio.sleep(0)
            if clip.revoked.is_set():
                break
        assert clip.revoked.is_set()
        clip.moved()
        rig.manager.holder_memory("w", 77, {})
        await rig.step(0.3, times=3)
        assert not task.done(), "the driver does not show it yet"
        rig.cards[1].ours[77] = gb(0.1)
        await rig.step(0.3)
        assert (await task).device == "cuda:1"
        assert rig.events("returned") != []


async def test_a_dead_worker_s_memory_is_waited_for_too() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 2.0})) as rig:
        await leased(rig)
        rig.manager.holder_gone("w", "killed")
        await rig.step(0.2)
        assert rig.events("returned") == []
        rig.cards[1].ours.clear()
        await rig.step(0.2)
        assert rig.events("returned") == [
            "Device 1 (B) shows 1.40GB of yolo as given back after 0.4 s"
        ]
