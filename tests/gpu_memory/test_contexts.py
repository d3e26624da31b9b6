"""A process keeps its CUDA context on a card that its models have left: not asked for twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from danzar_gpu import Footprint
from danzar_gpu.memory import DeviceMemory
from tests.gpu_memory.rig import Card, Rig, gb

NEED = Footprint(gb(0.5), gb(0.5), gb(0.4))
CALM = {"return_dwell_seconds": 2.0, "move_cooldown_seconds": 2.0, "min_residency_seconds": 0.0}


async def left_behind(rig: Rig, context: float) -> None:
    """A model was on card 1 and has left; its process's context stays there."""
    rig.manager.holder_memory("w", 77, {1: (gb(1.0), gb(1.0))})
    rig.cards[1].ours[77] = gb(1.0 + context)
    lease = await rig.manager.acquire("yolo", NEED, model="yolo fp32", holder="w")
    lease.measured(NEED)
    await rig.step()
    lease.release()
    rig.manager.holder_memory("w", 77, {})
    rig.cards[1].ours[77] = gb(context)
    await rig.step(times=15)


@pytest.mark.parametrize("context", [0.4, 0.7])
async def test_a_context_that_is_there_is_not_asked_for_again(context: float) -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B"), **CALM) as rig:
        await left_behind(rig, context)
        # Room for the model and the headroom, not for another context.
        rig.cards[1].programs["game"] = 12.0 - context - 1.6
        await rig.step(times=3)
        lease = await rig.manager.acquire("yolo", NEED, model="yolo fp32", holder="w")
        assert lease.device == "cuda:1"
        lease.measured(NEED)
        # What the driver showed of it replaces what was predicted.
        assert lease.need.context_bytes == gb(context)
        known = (await rig.manager.records.read()).measurements[-1]
        assert known.footprint.context_bytes == gb(context)


async def test_a_new_process_has_no_context_there() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B"), **CALM) as rig:
        await left_behind(rig, 0.4)
        rig.manager.holder_gone("w", "killed")
        rig.cards[1].ours.clear()
        rig.manager.holder_memory("w", 78, {})
        rig.cards[1].programs["game"] = 12.0 - 1.6
        await rig.step(times=3)
        lease = await rig.manager.acquire("yolo", NEED, model="yolo fp32", holder="w")
        assert lease.device == "cpu"


async def test_what_stays_is_not_taken_for_memory_on_its_way_back() -> None:
    """Where the driver keeps no accounts of processes only the worker's own word tells of it."""
    async with Rig(Card("A", programs={"x": 11.9}), Unlisted("B"), **CALM) as rig:
        contexts = {1: gb(0.4)}
        rig.manager.holder_memory("w", 77, {1: (gb(1.0), gb(1.0))}, contexts)
        rig.cards[1].ours[77] = gb(1.4)
        lease = await rig.manager.acquire("yolo", NEED, model="yolo fp32", holder="w")
        lease.measured(NEED)
        await rig.step()
        lease.release()
        rig.manager.holder_memory("w", 77, {1: (0, 0)}, contexts)
        rig.cards[1].ours[77] = gb(0.4)
        await rig.step()
        card = rig.manager.get_all_devices_memory_info()[1]
        assert card.processes is None
        assert rig.manager.our_bytes(card) == rig.manager.context_bytes(card) == gb(0.4)
        assert rig.manager.rooms()[1].departing == 0


class Unlisted(Card):
    """A card whose driver lists no processes."""

    def device(self, index: int, now: float) -> DeviceMemory:
        return replace(super().device(index, now), processes=None)
