"""A CUDA context that nobody needs: when its process should end for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest

from danzar_gpu import Footprint
from danzar_gpu.idle_context import DWELL_SECONDS, PAUSE_SECONDS, ContextGuard
from danzar_gpu.memory import DeviceMemory, GpuProcess
from tests.gpu_memory.rig import Card, Rig, gb

WORKER = "vision-worker"
PID = 4242


def rig_with_context(context: float = 0.5, ollama: float = 4.0) -> Rig:
    """One card: 8 GB for the LLM, and our worker without a model."""
    card = Card("RTX 4070", programs={"ollama": ollama}, ours={PID: gb(context)})
    return Rig(card, main_llm_memory_reservation_gb=8.0, vision_device="cuda:1")


def asked(guard: ContextGuard, rig: Rig) -> str | None:
    manager = rig.manager
    return guard.due(manager.idle_contexts(WORKER), manager.rooms(), manager.config, rig.now)


async def test_it_ends_once_promised_memory_has_been_missing_for_long_enough() -> None:
    guard = ContextGuard()
    async with rig_with_context() as rig:
        rig.manager.holder_memory(WORKER, PID, {})
        await rig.step()
        assert asked(guard, rig) is None, "3.5 GB are left beyond the promise"
        rig.cards[0].programs["game"] = 3.4
        await rig.step()
        assert asked(guard, rig) is None, "the driver may be late"
        await rig.step(DWELL_SECONDS)
        why = asked(guard, rig)
        assert why is not None
        assert "Device 0 (RTX 4070) is short (0.10GB left beyond what is promised)" in why
        assert "0.50GB of it are vision's CUDA context" in why


async def test_a_shortage_that_passes_costs_nothing() -> None:
    guard = ContextGuard()
    async with rig_with_context() as rig:
        rig.manager.holder_memory(WORKER, PID, {})
        for _ in range(6):
            rig.cards[0].programs["game"] = 3.4
            await rig.step(DWELL_SECONDS / 2)
            assert asked(guard, rig) is None
            rig.cards[0].programs["game"] = 1.0
            await rig.step(DWELL_SECONDS / 2)
            assert asked(guard, rig) is None


async def test_a_context_under_a_model_stays_and_a_small_one_is_not_worth_it() -> None:
    for context, leased in ((0.5, True), (0.1, False)):
        guard = ContextGuard()
        async with rig_with_context(context) as rig:
            rig.manager.holder_memory(WORKER, PID, {})
            if leased:
                need = Footprint(weights_bytes=gb(0.2), context_bytes=gb(0.5))
                await rig.manager.acquire("yolo", need, holder=WORKER, priority=10, policy="fail")
            rig.cards[0].programs["game"] = 3.4
            for _ in range(3):
                await rig.step(DWELL_SECONDS)
                if leased and rig.manager.leases[0].target is None:
                    continue
                assert asked(guard, rig) is None


async def test_who_fills_the_card_for_good_does_not_restart_it_for_ever() -> None:
    guard = ContextGuard()
    async with rig_with_context() as rig:
        rig.manager.holder_memory(WORKER, PID, {})
        rig.cards[0].programs["game"] = 3.4
        ends = 0
        for _ in range(int(3 * PAUSE_SECONDS)):
            await rig.step(1.0)
            ends += asked(guard, rig) is not None
        assert ends == 3


@dataclass
class WithoutAccounts(Card):
    """As WDDM shows a card (no lists, or lists without sizes), or a container (other pids)."""

    shows: Literal["no list", "no sizes", "other pids"] = "no list"

    def device(self, index: int, now: float) -> DeviceMemory:
        found = super().device(index, now)
        rows: tuple[GpuProcess, ...] | None = None
        if self.shows == "no sizes":
            rows = tuple(replace(row, used_bytes=None) for row in found.processes or ())
        elif self.shows == "other pids":
            rows = tuple(replace(row, pid=row.pid + 1) for row in found.processes or ())
        return replace(found, processes=rows)


@pytest.mark.parametrize("shows", ["no list", "no sizes", "other pids"])
@pytest.mark.parametrize("word", [{0: gb(0.5)}, {}])
async def test_where_the_driver_keeps_no_accounts_the_workers_own_word_counts(
    shows: Literal["no list", "no sizes", "other pids"], word: dict[int, int]
) -> None:
    card = WithoutAccounts("RTX 4070", programs={"game": 11.4}, ours={PID: gb(0.5)}, shows=shows)
    guard = ContextGuard()
    rig = Rig(card, main_llm_memory_reservation_gb=0.0, vision_device="cuda:0")
    async with rig:
        rig.manager.holder_memory(WORKER, PID, dict.fromkeys(word, (0, 0)), word)
        await rig.step()
        assert asked(guard, rig) is None, "the driver may be late"
        await rig.step(DWELL_SECONDS)
        why = asked(guard, rig)
        assert ("0.50GB of it are vision's CUDA context" in (why or "")) == bool(word)
