"""Out of memory, and more than leased: the next admission asks for what is really needed."""

from __future__ import annotations

from pathlib import Path

from danzar_gpu import Footprint, GPUMemoryConfig, GPUMemoryManager
from danzar_gpu.history import HistoryStore, Measurement, MoveRecord
from danzar_gpu.learning import FALLS_COUNT_SECONDS, FootprintBook
from danzar_gpu.records import Records
from tests.gpu_memory.rig import Card, Rig, ScriptedProbe, gb

MODEL = "yolo.pt fp16"
NEED = Footprint(gb(0.2), gb(0.3), gb(0.4))


def test_a_fall_is_a_floor_until_it_is_long_ago() -> None:
    book = FootprintBook()
    for second in range(40):
        book.add(Measurement(second, MODEL, "A", NEED))
    book.add(Measurement(50, MODEL, "A", Footprint(gb(0.2), gb(1.0), gb(0.4)), fell=True))
    for second in range(60, 100):
        book.add(Measurement(second, MODEL, "A", NEED))
    # One in eighty is above no percentile, and yet it is what the model needs.
    assert book.expected(MODEL, "A") == Footprint(gb(0.2), gb(1.2) - gb(0.2), gb(0.4))
    book.add(Measurement(51 + FALLS_COUNT_SECONDS, MODEL, "A", NEED))
    assert book.expected(MODEL, "A") == NEED


async def test_after_a_fall_more_is_asked_for_also_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    config = GPUMemoryConfig(enable_memory_monitoring=False, vision_memory_limit_gb=4)
    cards = (Card("A", programs={"x": 11.9}), Card("B"))
    manager = GPUMemoryManager(config, ScriptedProbe(*cards), store=HistoryStore(path))
    await manager.start()
    lease = await manager.acquire("yolo", NEED, model=MODEL, holder="w")
    lease.measured(NEED)
    lease.fell("out of memory", gb(1.5))
    assert lease.device == "cpu"
    told = [e.text for e in manager.events if e.kind == "footprint"]
    assert told == [
        "yolo ran out of memory on cuda:1: 1.50GB are asked for from now on, not 0.50GB"
    ]
    lease.release()
    # A fall that needed no more than was leased was somebody else's doing: nothing to learn.
    lease = await manager.acquire("yolo", NEED, model=MODEL, holder="w")
    assert lease.need.model_bytes == gb(1.5)
    lease.fell("out of memory", gb(0.4))
    await manager.close()

    again = GPUMemoryManager(config, ScriptedProbe(*cards), store=HistoryStore(path))
    await again.start()
    lease = await again.acquire("yolo", NEED, model=MODEL, holder="w")
    assert lease.need.model_bytes == gb(1.5)
    # What the trial shows is less than what it needed when it fell: that is still kept free.
    lease.measured(NEED)
    assert lease.need.model_bytes == gb(1.5)
    lease.release()
    small = ScriptedProbe(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 10.3}))
    await again.close()
    third = GPUMemoryManager(config, small, store=HistoryStore(path))
    await third.start()
    assert (await third.acquire("yolo", NEED, model=MODEL, holder="w")).device == "cpu"
    await third.close()


async def test_who_takes_more_than_leased_is_told_and_it_is_learned() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B")) as rig:
        rig.manager.holder_memory("w", 77, {})
        lease = await rig.manager.acquire("yolo", NEED, model=MODEL, holder="w")
        told: list[Footprint] = []
        lease.on_resized = told.append
        rig.cards[1].ours[77] = gb(0.9)
        lease.measured(NEED)
        await rig.step(times=2)
        assert told == []  # its own word is no news to it
        rig.cards[1].ours[77] = gb(1.4)
        await rig.step(times=3)
        assert [need.model_bytes for need in told] == [gb(1.0)]
        assert rig.events("resized") == ["yolo took 0.5GB more on Device 1 (B) than leased"]
        lease.release()
        await rig.step(times=20)
        again = await rig.manager.acquire("yolo", NEED, model=MODEL, holder="w")
        assert again.need.model_bytes == gb(1.0)


async def test_another_kind_of_card_has_its_own_footprint(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    store = HistoryStore(path)
    store.open()
    big = Footprint(gb(0.2), gb(0.9), gb(0.4))
    for card, need in (("A", NEED), ("B", big)):
        store.measurement(Measurement(1.0, MODEL, card, need))
    store.close()
    config = GPUMemoryConfig(enable_memory_monitoring=False, main_llm_memory_reservation_gb=0)
    manager = GPUMemoryManager(
        config, ScriptedProbe(Card("A"), Card("B", programs={"x": 10.9})), store=HistoryStore(path)
    )
    await manager.start()
    # Card B, the preferred one, has room for what A would take but not for what B takes.
    lease = await manager.acquire("yolo", Footprint.of_gb(9.0), model=MODEL, holder="w")
    assert (lease.device, lease.need) == ("cuda:0", NEED)
    await manager.close()


async def test_records_outlive_the_process_and_are_told_at_once(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    move = MoveRecord(now[0], MODEL, "A", "load", "", "cuda:1", 0.5, 9, "because")
    for session in (1, 2):
        store = HistoryStore(tmp_path / "h.sqlite3")
        store.open()
        records = Records(store, lambda: now[0])
        for _ in range(10):
            records.frame(MODEL, "A", 12.0)
        now[0] += 60
        records.frame(MODEL, "A", 12.0)
        if session == 1:
            records.moved(move)
        seen = await records.read()
        assert seen.moves == (move,)
        records.flush()
        store.close()
        stored = await records.read()
        assert [sum(n for _, n in x.buckets) for x in stored.latencies] == [11 * session]
    bare = Records(None, lambda: now[0])
    bare.frame(MODEL, "A", 12.0)
    bare.moved(move)
    seen = await bare.read()
    assert (seen.moves, len(seen.latencies)) == ((move,), 1)


async def test_a_move_that_finds_no_room_is_learned_for_that_card() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 11.9})) as rig:
        manager = rig.manager
        lease = await manager.acquire("yolo", NEED, model=MODEL, holder="w")
        assert lease.device == "cpu"
        rig.cards[1].programs = {}
        while not lease.revoked.is_set():
            await rig.step()
        lease.move_failed("out of memory", needed_bytes=gb(1.5))
        assert manager.out_of_memory == {"yolo": 1}
        [told] = [e.text for e in manager.events if e.kind == "footprint"]
        assert "yolo ran out of memory on cuda:1: 1.50GB are asked for from now on" in told
        rig.cards[1].programs = {"x": 10.2}  # room for what was expected, none for what it takes
        await rig.step(times=200)
        assert lease.device == "cpu"
        assert not lease.revoked.is_set()
        rig.cards[1].programs = {}
        while not lease.revoked.is_set():
            await rig.step()
        lease.moved()
        assert lease.need.model_bytes == gb(1.5)
