"""Who holds what, what would fit beside it, and what was so a while ago."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from danzar_gpu import Footprint, GPUMemoryConfig, GPUMemoryManager
from danzar_gpu.fit import largest_fit
from danzar_gpu.history import Event, HistoryStore, Sample
from danzar_gpu.holders import shares_of
from danzar_gpu.memory import gib
from tests.gpu_memory.rig import Card, Rig, ScriptedProbe, gb, guide_rig


async def test_shares_add_up_and_tell_the_llm_from_others() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0), holder="worker")
        rig.manager.holder_memory("worker", 77, {})
        rig.cards[1].ours[77] = gb(0.75)
        await rig.step()
        shares = rig.manager.shares()
        assert lease.device == "cuda:1"
    first, second = shares[0], shares[1]
    assert (first.llm, first.ours) == (gb(6.2), 0)
    assert round(gib(first.promised), 3) == 1.8
    assert round(gib(first.other), 3) == 0.9
    assert (gib(second.llm), gib(second.ours), round(gib(second.other), 3)) == (0, 0.75, 2.1)
    for one in shares.values():
        assert one.llm + one.promised + one.ours + one.other + one.free == one.total
        assert one.named


async def test_processes_say_whose_they_are() -> None:
    async with Rig() as rig:
        rig.manager.holder_memory("worker", 77, {})
        rig.cards[1].ours[77] = gb(0.5)
        await rig.step()
        found = [(h.device.index, h.name, h.owner) for h in rig.manager.holdings()]
    assert found == [(0, "ollama", "llm"), (1, "obs64.exe", "other"), (1, "python", "ours")]


async def test_a_process_without_a_name_is_not_called_anybodys() -> None:
    async with Rig(Card("A", programs={"ollama": 3.0}, names_known=False)) as rig:
        (row,) = rig.manager.holdings()
        assert row.owner == "unknown"
        assert rig.manager.shares()[0].llm == 0


async def test_a_driver_without_accounts_is_said_to_name_nobody() -> None:
    async with Rig() as rig:
        device = rig.cards[0].device(0, 0)
        rows = tuple(replace(p, used_bytes=None) for p in device.processes or ())
        room = rig.manager.rooms()[0]
        assert shares_of(room, 0).named
        blind = replace(room, device=replace(device, processes=rows))
        assert not shares_of(blind, 0).named
        assert not shares_of(replace(room, device=replace(device, processes=None)), 0).named


async def test_fit_names_the_card_or_what_stands_in_the_way() -> None:
    async with Rig(vision_memory_limit_gb=8.0) as rig:
        small = rig.manager.fit(Footprint.of_gb(2.5))
        assert small is not None
        assert small.placement.device == "cuda:1"
        assert [card.device.index for card in small.cards] == [1, 0]
        assert small.cards[0].problem is None
        assert "reserved for main LLM" in str(small.cards[1].problem)

        rig.cards[1].programs["game.exe"] = 5.0
        await rig.manager.acquire("clip", Footprint.of_gb(2.0), holder="worker")
        rig.manager.holder_memory("worker", 77, {})
        rig.cards[1].ours[77] = gb(2.0)
        await rig.step()
        large = rig.manager.fit(Footprint.of_gb(3.0))
        assert large is not None
        assert large.placement.device == "cpu"
        assert large.cards[0].must_leave == ("clip",)
        assert large.cards[0].left_bytes < 0
        hopeless = rig.manager.fit(Footprint.of_gb(7.5))
        assert hopeless is not None
        assert hopeless.cards[0].must_leave == ()
        assert len(rig.manager.leases) == 1


async def test_the_largest_fit_keeps_headroom_and_promise() -> None:
    async with Rig(vision_memory_limit_gb=24.0) as rig:
        config = rig.manager.config
        size = largest_fit(rig.manager.rooms()[1], config)
        assert round(gib(size), 2) == 9.4
        assert round(gib(largest_fit(rig.manager.rooms()[0], config)), 2) == 2.6
        rig.cards[1].programs["game.exe"] = 9.5
        await rig.step()
        assert largest_fit(rig.manager.rooms()[1], config) == 0


async def test_samples_come_from_memory_and_before_that_from_the_file(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path / "h.sqlite3", wall=lambda: 1000.0)
    store.open()
    store.sample(Sample(500.0, "GPU-1", gb(12), gb(8), gb(4), 0, 0))
    store.sample(Sample(100.0, "GPU-1", gb(12), gb(8), gb(4), 0, 0))
    for at in (100.0, 500.0):
        store.event(Event(at, "moved", f"yolo moved at {at:g}"))
    store.close()
    now = 1000.0
    manager = GPUMemoryManager(
        GPUMemoryConfig(enable_memory_monitoring=False),
        ScriptedProbe(*guide_rig()),
        clock=lambda: now,
        wall=lambda: now,
        store=store,
    )
    await manager.start()
    found = await manager.samples(400.0)
    manager.decided("somebody decided")
    told = [(event.at, event.kind) for event in await manager.past_events(400.0)]
    await manager.close()
    assert told[0] == (500.0, "moved")
    assert told[-1] == (1000.0, "decided")
    assert len(told) == len(set(told)), "nothing is told from memory and from the file"
    assert [(s.at, s.uuid) for s in found] == [
        (500.0, "GPU-1"),
        (1000.0, "GPU-0"),
        (1000.0, "GPU-1"),
    ]
    assert found[1].llm_bytes == gb(6.2)
