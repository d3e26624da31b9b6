"""The manager on scripted cards and a clock that tests turn: leases, pressure, coming back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from danzar_gpu import AdmissionRefused, Footprint, GPUMemoryConfig, GPUMemoryManager, ProbeError
from danzar_gpu.history import Event
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.monitor import pause_seconds
from tests.gpu_memory.rig import Card, Rig, ScriptedProbe, gb, settle

GUIDE = Path(__file__).parents[2] / "docs" / "gpu_memory_guide.md"


def _guides_snippet() -> str:
    """The code under "Programmatic Usage", as it stands."""
    section = GUIDE.read_text(encoding="utf-8").split("### Programmatic Usage")[1]
    return section.split("```python")[1].split("```")[0]


def _run_snippet(rig: Rig) -> dict[str, Any]:
    names: dict[str, Any] = {
        "app_context": SimpleNamespace(gpu_memory_manager=rig.manager),
        "device_id": 1,
    }
    exec(_guides_snippet(), names)
    return names


async def test_the_guides_programmatic_usage_runs_as_it_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "danzar_gpu"):
        async with Rig() as rig:
            names = _run_snippet(rig)
    info = names["memory_info"]
    figures = {
        index: [
            f"{value:.1f}"
            for value in (
                device.allocated_gb,
                device.reserved_gb,
                device.free_gb,
                device.total_gb,
                device.utilization_percent,
            )
        ]
        for index, device in info.items()
    }
    assert figures == {
        0: ["6.2", "7.1", "4.9", "12.0", "59.2"],
        1: ["1.8", "2.1", "9.9", "12.0", "17.5"],
    }
    assert names["device"] == "cuda:1"
    assert names["can_use"] is True
    assert names["recommendations"] == ["All GPU devices have adequate memory"]
    assert "📊 Utilization: 59.2%" in caplog.text


def test_the_snippet_runs_in_a_plain_script_without_an_event_loop() -> None:
    assert _run_snippet(Rig())["device"] == "cuda:1"


async def test_a_reading_tells_its_age() -> None:
    async with Rig() as rig:
        rig.now += 42
        device = rig.manager.get_device_memory_info(0)
        assert device is not None
        assert device.age_seconds == 42
        assert rig.manager.get_device_memory_info(9) is None
        assert rig.manager.can_use_device_for_vision(9) == (
            False,
            "Device 9 does not exist (devices here: 0, 1)",
        )


async def test_a_lease_holds_memory_before_anything_is_allocated() -> None:
    async with Rig(Card("LLM", programs={"x": 11}), Card("vision", programs={"x": 9.7})) as rig:
        async with rig.manager.lease("yolo", Footprint.of_gb(1.2)) as first:
            async with rig.manager.lease("clip", Footprint.of_gb(0.7)) as second:
                assert (first.device, second.device) == ("cuda:1", "cpu")
            first.release()
            async with rig.manager.lease("clip", Footprint.of_gb(0.7)) as third:
                assert third.device == "cuda:1"
        assert rig.manager.leases == ()


async def test_two_requests_at_once_do_not_share_the_last_gigabyte() -> None:
    async with Rig(Card("LLM", programs={"x": 11}), Card("vision", programs={"x": 10.0})) as rig:
        leases = await asyncio.gather(
            *(rig.manager.acquire(f"m{n}", Footprint.of_gb(1.0)) for n in range(5))
        )
        assert sorted(lease.device for lease in leases) == ["cpu"] * 4 + ["cuda:1"]


async def test_a_refusal_carries_the_arithmetic() -> None:
    full = Card("B", programs={"game.exe": 8.1, "obs64.exe": 3.5})
    async with Rig(Card("A", programs={"x": 11.5}), full) as rig:
        with pytest.raises(AdmissionRefused) as refused:
            await rig.manager.acquire("yolo", Footprint.of_gb(1.0), policy="fail")
    text = str(refused.value)
    assert text.startswith("yolo was refused: No GPU devices available with sufficient memory")
    assert "Device 1 (B) has 0.4GB available, 1.5GB needed; held by game.exe 8.1" in text


@pytest.mark.parametrize(
    ("policy", "size"), [("maybe", 1.0), ("fail", -1.0)], ids=["policy", "size"]
)
async def test_a_request_that_makes_no_sense_leases_nothing(policy: Any, size: float) -> None:
    async with Rig() as rig:
        with pytest.raises(ValueError, match=r"there is no policy|less than nothing"):
            await rig.manager.acquire("yolo", Footprint.of_gb(size), policy=policy)
        assert rig.manager.leases == ()


async def test_a_manager_that_is_closed_refuses_who_asks_and_who_waits() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 11.9})) as rig:
        task = asyncio.create_task(rig.manager.acquire("clip", Footprint.of_gb(1.0), policy="wait"))
        await settle(lambda: rig.manager.waiting == ("clip",))
    with pytest.raises(AdmissionRefused, match="clip was refused: the manager is closed"):
        await task
    with pytest.raises(AdmissionRefused, match="yolo was refused: the manager is closed"):
        async with rig.manager.lease("yolo", Footprint.of_gb(1.0)):
            pass
    assert rig.manager.leases == ()


@pytest.mark.parametrize("closes", [True, False], ids=["the manager closes", "its holder dies"])
async def test_a_lease_that_ends_in_the_moment_of_its_grant_is_a_refusal(closes: bool) -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 11.9})) as rig:
        manager = rig.manager
        task = asyncio.create_task(
            manager.acquire("clip", Footprint.of_gb(1.0), policy="wait", holder="worker")
        )
        await settle(lambda: manager.waiting == ("clip",))

        ends: list[asyncio.Task[None]] = []

        def end(event: Event) -> None:
            # Before the one that waits is told.
            if event.kind == "placed" and closes:
                ends.append(asyncio.create_task(manager.close()))
            elif event.kind == "placed":
                asyncio.get_running_loop().call_soon(manager.holder_gone, "worker", "killed")

        manager.on_event(end)
        rig.cards[1].programs.clear()
        with contextlib.suppress(ProbeError):
            await manager.refresh(max_age=0)
        why = "the manager is closed" if closes else "it ended as soon as it was granted"
        with pytest.raises(AdmissionRefused, match=why):
            await asyncio.wait_for(task, 20)
        assert manager.leases == ()
        await asyncio.gather(*ends)


async def test_whoever_releases_a_lease_wakes_its_holder() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0))
        waiting = asyncio.create_task(lease.revoked.wait())
        await asyncio.sleep(0)
        lease.release()
        await asyncio.wait_for(waiting, 20)
        assert lease.released
        assert lease.target is None


async def test_who_arrives_when_its_lease_is_gone_is_not_told_that_it_has_one() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0), holder="worker")
        rig.manager.offload("yolo", "by hand")
        assert lease.revoked.is_set()
        rig.manager.holder_gone("worker", "killed")
        lease.moved()
        assert lease.released
        assert lease.revoked.is_set()


async def test_a_waiting_request_gets_the_card_when_room_appears() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"game.exe": 11.5})) as rig:
        task = asyncio.create_task(rig.manager.acquire("yolo", Footprint.of_gb(1.0), policy="wait"))
        await rig.step(times=3)
        assert not task.done()
        rig.cards[1].programs.clear()
        await rig.step()
        assert (await task).device == "cuda:1"


async def test_waiting_is_in_order_of_priority_then_arrival() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 11.9})) as rig:
        order: list[str] = []

        async def queue(name: str, priority: int) -> None:
            lease = await rig.manager.acquire(
                name, Footprint.of_gb(1.8), policy="wait", priority=priority
            )
            order.append(name)
            lease.release()

        tasks = []
        for name, priority in (("late", 1), ("first", 5), ("second", 5)):
            tasks.append(asyncio.create_task(queue(name, priority)))
            await asyncio.sleep(0)
        await rig.step()
        rig.cards[1].programs.clear()
        await rig.step()
        await asyncio.gather(*tasks)
        assert order == ["first", "second", "late"]


async def test_waiting_ends_with_the_arithmetic_and_leaves_nothing_behind() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 11.9})) as rig:
        with pytest.raises(AdmissionRefused, match=r"no card had room within 0\.01 s"):
            await rig.manager.acquire("yolo", Footprint.of_gb(1.0), policy="wait", timeout=0.01)
        task = asyncio.create_task(rig.manager.acquire("yolo", Footprint.of_gb(1.0), policy="wait"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rig.cards[1].programs.clear()
        await rig.step()
        assert rig.manager.leases == ()


async def test_under_pressure_the_least_important_leaves_and_returns_later() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"game.exe": 6.0})) as rig:
        rig.manager.holder_memory("worker", 77, {})
        rig.cards[1].ours[77] = gb(1.6)
        need = Footprint.of_gb(0.8)
        yolo = await rig.manager.acquire("yolo", need, holder="worker", priority=20)
        clip = await rig.manager.acquire("clip", need, holder="worker", priority=10)
        rig.cards[1].programs["game.exe"] = 10.3
        await rig.step(times=2)
        assert clip.revoked.is_set()
        assert not yolo.revoked.is_set()
        target = clip.target
        assert target is not None
        assert target.device == "cpu"
        assert target.reason.startswith("Device 1 (B) is short of 0.1GB")
        rig.cards[1].ours[77] = gb(0.8)
        clip.moved()
        assert clip.device == "cpu"
        await rig.step(times=5)
        assert not yolo.revoked.is_set()

        rig.cards[1].programs["game.exe"] = 6.0
        await rig.step(times=30)
        assert not clip.revoked.is_set(), "it came back before its dwell and cooldown were over"
        await rig.step(times=90)
        assert clip.revoked.is_set()
        rig.cards[1].ours[77] = gb(1.6)
        clip.moved()
        assert clip.device == "cuda:1"
        assert len(rig.events("moved")) == 2


async def test_who_left_soon_after_the_start_returns_from_the_llms_card() -> None:
    cards = (Card("A", programs={"ollama": 7.0}), Card("B", programs={"obs64.exe": 1.8}))
    async with Rig(*cards) as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0), policy="fail")
        assert lease.device == "cuda:1"
        await rig.step(5)
        rig.cards[1].programs = {"game.exe": 11.7}
        await rig.step()
        lease.moved()
        assert lease.device == "cuda:0"
        rig.cards[1].programs = {"obs64.exe": 1.8}
        waited = 0
        while lease.target is None and waited < 120:
            await rig.step()
            waited += 1
        assert lease.target is not None
        assert lease.target.device == "cuda:1"


async def test_flickering_memory_makes_nobody_bounce() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"g": 8.0})) as rig:
        rig.manager.holder_memory("w", 77, {})
        rig.cards[1].ours[77] = gb(1.0)
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0), holder="w")
        for second in range(600):
            rig.cards[1].programs["g"] = 10.9 if second % 20 < 10 else 9.4
            await rig.step()
            if lease.revoked.is_set():
                lease.moved()
                rig.cards[1].ours[77] = gb(1.0) if lease.device == "cuda:1" else 0
        assert len(rig.events("moved")) == 1


async def test_memory_that_the_driver_gives_back_late_evicts_nobody_else() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"game.exe": 6.0})) as rig:
        rig.manager.holder_memory("worker", 77, {})
        rig.cards[1].ours[77] = gb(1.6)
        need = Footprint.of_gb(0.8)
        yolo = await rig.manager.acquire("yolo", need, holder="worker", priority=20)
        clip = await rig.manager.acquire("clip", need, holder="worker", priority=10)
        rig.cards[1].programs["game.exe"] = 10.3
        await rig.step()
        clip.moved()
        await rig.step(0.5, times=4)  # still shown as held
        assert not yolo.revoked.is_set()


async def test_a_more_important_model_displaces_a_lesser_one() -> None:
    async with Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"x": 9.6})) as rig:
        clip = await rig.manager.acquire("clip", Footprint.of_gb(1.5), priority=10)
        task = asyncio.create_task(rig.manager.acquire("yolo", Footprint.of_gb(1.0), priority=20))
        await settle(clip.revoked.is_set)
        assert not task.done(), "its card is not free yet"
        clip.moved()
        assert (await task).device == "cuda:1"
        assert clip.device == "cpu"


async def test_a_dead_worker_gives_everything_back_at_once() -> None:
    async with Rig() as rig:
        leases = [
            await rig.manager.acquire(name, Footprint.of_gb(0.8), holder="worker")
            for name in ("yolo", "clip")
        ]
        rig.manager.holder_gone("worker", "killed by signal 9")
        assert rig.manager.leases == ()
        assert all(lease.revoked.is_set() and lease.released for lease in leases)
        assert "killed by signal 9" in rig.events("holder-gone")[0]
        room = rig.manager.rooms()[1]
        assert room.vision_leased == 0


async def test_a_move_that_fails_ends_on_the_cpu() -> None:
    async with Rig(Card("A", programs={"x": 6.0}), Card("B", programs={"g": 8.0})) as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0))
        rig.cards[1].programs["g"] = 11.9
        await rig.step()
        lease.move_failed("CUDA out of memory")
        assert lease.device == "cpu"
        assert "CUDA out of memory" in lease.reason
        assert not lease.revoked.is_set()


async def test_a_measured_footprint_replaces_the_prediction() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0))
        lease.measured(Footprint.of_gb(0.4))
        assert rig.manager.rooms()[1].vision_leased == Footprint.of_gb(0.4).total_bytes


async def test_a_failed_reading_is_said_once_and_recovery_too() -> None:
    async with Rig() as rig:
        rig.probe.fault = "a GPU is lost"
        for _ in range(3):
            with pytest.raises(ProbeError):
                await rig.step()
        assert len(rig.events("reading-failed")) == 1
        assert rig.manager.snapshot is not None
        assert "can't be read now: a GPU is lost" in rig.manager.get_memory_recommendations()[0]
        rig.probe.fault = None
        await rig.step()
        assert rig.events("reading-back") == ["GPU memory is read again"]
        assert rig.manager.last_error is None


async def test_a_lost_card_sends_its_models_elsewhere() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(0.5))
        rig.probe.missing.add(1)
        await rig.step()
        assert lease.target is not None
        assert "its card is gone" in lease.target.reason


async def test_concurrent_callers_share_one_reading() -> None:
    async with Rig() as rig:
        rig.now += 10
        before = rig.probe.reads
        await asyncio.gather(*(rig.manager.refresh() for _ in range(50)))
        assert rig.probe.reads == before + 1


async def test_high_utilization_warns_once_for_each_crossing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Rig() as rig:
        card = rig.cards[1]
        for size in (11.0, 11.2, 10.7, 11.1, 5.0, 11.3):
            card.programs = {"game.exe": size}
            await rig.step()
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "utilization is high: 94.2%" in warnings[0].message


@pytest.mark.parametrize(
    ("interval", "failures", "seconds"),
    [(1.0, 0, 1.0), (1.0, 1, 2.0), (1.0, 50, 8.0), (10.0, 3, 30.0), (30.0, 9, 30.0), (60, 1, 60)],
)
def test_failed_readings_are_tried_again_more_slowly_but_within_half_a_minute(
    interval: float, failures: int, seconds: float
) -> None:
    assert pause_seconds(interval, failures) == seconds


async def test_the_poller_polls_survives_faults_and_really_toggles() -> None:
    probe = ScriptedProbe(Card("A"))
    manager = GPUMemoryManager(
        GPUMemoryConfig(memory_check_interval=0.1, pressure_check_interval=0.1), probe
    )
    await manager.start()
    try:
        assert manager.monitoring_enabled
        probe.fault = "gone"
        await settle(lambda: manager.last_error is not None)
        probe.fault = None
        await settle(lambda: manager.last_error is None)
        manager.stop_monitoring()
        assert not manager.monitoring_enabled
        reads = probe.reads
        await asyncio.sleep(0.35)
        assert probe.reads == reads
        manager.start_monitoring()
        await settle(lambda: probe.reads > reads)
    finally:
        await manager.close()
        await manager.close()
    assert not manager.monitoring_enabled


async def test_monitoring_can_be_off_from_the_start() -> None:
    async with Rig(Card("A"), enable_memory_monitoring=False) as rig:
        assert not rig.manager.monitoring_enabled
        assert rig.manager.snapshot is not None


class HangingProbe(ScriptedProbe):
    """A driver call that returns only when the test lets it."""

    def __init__(self) -> None:
        super().__init__(Card("A"))
        self.gate = threading.Event()
        self.gate.set()

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        self.gate.wait(20)
        return super().read(now, processes=processes)


async def test_a_hanging_driver_is_noticed_never_piles_up_and_recovers() -> None:
    probe = HangingProbe()
    config = GPUMemoryConfig(enable_memory_monitoring=False, probe_timeout_seconds=0.05)
    manager = GPUMemoryManager(config, probe)
    await manager.start()
    probe.gate.clear()
    with pytest.raises(ProbeError, match="did not answer within"):
        await manager.refresh(max_age=0)
    threads = threading.active_count()
    for _ in range(5):
        with pytest.raises(ProbeError, match="does not answer any more"):
            await manager.refresh(max_age=0)
    assert threading.active_count() == threads
    assert manager.snapshot is not None
    probe.gate.set()
    for _ in range(200):
        await asyncio.sleep(0.01)
        try:
            await manager.refresh(max_age=0)
            break
        except ProbeError:
            continue
    assert manager.last_error is None
    await manager.close()


async def test_a_listener_that_fails_costs_nobody_a_lease() -> None:
    def fails(event: Event) -> None:
        raise KeyError(event.kind)

    async with Rig() as rig:
        rig.manager.on_event(fails)
        lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0))
        assert rig.manager.leases == (lease,)
        lease.release()
        assert rig.manager.leases == ()
