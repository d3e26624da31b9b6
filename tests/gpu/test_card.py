"""On a real card: vision makes room for a second program, comes back, and keeps to its cap."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.settings import Settings
from bot.vision.clip import ClipService
from bot.vision.service import HOLDER
from bot.vision.worker.handle import ProcessWorker, WorkerRefused
from bot.vision.worker.protocol import (
    Destination,
    LoadModel,
    MoveModel,
    Parked,
    ParkModel,
    Ping,
    Placed,
    Pong,
    Trim,
)
from bot.vision.yolo import YoloService
from danzar_gpu import GPUMemoryManager
from danzar_gpu.memory import GIB, DeviceMemory, gib
from danzar_gpu.probes import NoProbe, open_probe
from tests.gpu.contest import makes_room, seconds_until_all_are_on, told
from tests.gpu.measurements import Measurements
from tests.gpu.program import ROOT, Program
from tests.vision.running import manager_of, running, settings_for, until

pytestmark = pytest.mark.gpu

LOAD_SECONDS = 90.0
REPEATS = 5
MIB = 1 << 20


def settings_on(card: DeviceMemory, **sections: dict[str, object]) -> Settings:
    """The shipped models, on this card alone; nothing is reserved but what is taken counts."""
    gpu = {
        "main_llm_device": card.device,
        "vision_device": card.device,
        "main_llm_memory_reservation_gb": 0.0,
        "pressure_check_interval": 0.2,
        "memory_check_interval": 0.5,
        **sections.pop("gpu_memory", {}),
    }
    return settings_for(
        ROOT / "models" / "yolo-nano.pt",
        ROOT / "models" / "clip-tiny",
        gpu_memory=gpu,
        yolo={"image_size": None, "processing_fps": 20},
        # The first run on a card loads kernels from disk: that is no hang.
        vision={"hang_timeout_seconds": 30.0, **sections.pop("vision", {})},
        **sections,
    )


@pytest.fixture(autouse=True)
def alone(card: DeviceMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vision has no other card to go to; the CPU is where it must be able to."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card.uuid)


async def test_vision_makes_room_for_the_program_and_returns(
    card: DeviceMemory, program: Program, measured: Measurements, film: Path
) -> None:
    settings = settings_on(card, capture={"source": "video", "path": str(film), "loop": True})
    async with running(settings, open_probe("nvml"), every_frame=True) as pipeline:
        manager = manager_of(pipeline)
        start = await seconds_until_all_are_on(pipeline, card.device)
        measured.add("start until both models run on the card", "s", start)
        reports = await makes_room(pipeline, card.index, program.take, program.give, measured)
        known = await manager.records.read()
        for move in known.moves:
            if move.seconds:
                name = move.model.split()[0]
                measured.add(f"{name}: {move.kind} (in the running bot)", "s", move.seconds)
        assert {m.kind for m in known.moves} >= {"load", "offload", "restore"}
        for found in known.measurements:
            name = found.model.split()[0]
            need = found.footprint
            measured.add(f"{name}: weights", "MiB", need.weights_bytes / MIB)
            measured.add(f"{name}: peak activations", "MiB", need.activations_bytes / MIB)
            if found.predicted_bytes is not None:
                predicted = found.predicted_bytes / MIB
                measured.add(f"{name}: predicted, without the context", "MiB", predicted)
        here = (await manager.refresh(max_age=0)).device(card.index)
        assert here is not None
        await pipeline.trim()
        here = (await manager.refresh(max_age=0)).device(card.index)
        row = next(
            (p for p in (here.processes if here else None) or () if p.pid == pipeline.worker_pid),
            None,
        )
        if row is not None and row.used_bytes is not None:
            # In a container the driver numbers processes otherwise: then it can't be told.
            measured.add(
                "the worker in all, context included, as the driver says",
                "MiB",
                row.used_bytes / MIB,
            )
        assert pipeline.counts.dropped == 0
    numbers = [report.sequence for report in reports]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a frame was lost"
    assert all("yolo" in report.devices or report.unchanged for report in reports)


async def test_an_idle_model_gives_the_card_back(
    card: DeviceMemory, measured: Measurements
) -> None:
    settings = settings_on(
        card,
        vision={"idle_release_seconds": 2.0},
        capture={"source": "images", "path": str(ROOT / "docs" / "images")},
    )
    async with running(settings, open_probe("nvml")) as pipeline:
        with told(pipeline):
            await until(
                lambda: {s.state for s in pipeline.services.values()} == {"parked"},
                "both models parked",
                LOAD_SECONDS,
            )
        assert manager_of(pipeline).leases == ()
        records = await manager_of(pipeline).records.read()
        for move in records.moves:
            if move.kind == "park":
                measured.add(
                    f"{move.model.split()[0]}: park (in the running bot)", "s", move.seconds
                )


@pytest.fixture
async def worker() -> AsyncIterator[ProcessWorker]:
    started = await ProcessWorker.start(max(1, (os.cpu_count() or 2) // 2), lambda event: None)
    yield started
    await started.close()


def there(card: DeviceMemory, limit_bytes: int | None = None) -> Destination:
    return Destination(device=card.device, uuid=card.uuid, card=card.name, limit_bytes=limit_bytes)


async def test_loading_leaving_parking_and_coming_back_are_timed(
    card: DeviceMemory, worker: ProcessWorker, measured: Measurements
) -> None:
    manager = GPUMemoryManager(settings_on(card).gpu_memory, NoProbe())
    for service in (YoloService, ClipService):
        plan = service(settings_on(card), manager).plan()
        name = plan.model
        load = LoadModel(spec=plan.spec, destination=there(card))
        placed, _ = await worker.ask(load, Placed, timeout=LOAD_SECONDS)
        assert placed.on_card
        measured.add(f"{name}: load ({placed.backend})", "s", placed.seconds)
        for _ in range(REPEATS):
            cpu = MoveModel(model=service.name, destination=Destination(device="cpu"))
            left, _ = await worker.ask(cpu, Placed, timeout=LOAD_SECONDS)
            measured.add(f"{name}: offload to the CPU", "s", left.seconds)
            back = MoveModel(model=service.name, destination=there(card))
            returned, _ = await worker.ask(back, Placed, timeout=LOAD_SECONDS)
            assert returned.on_card
            measured.add(f"{name}: restore from the CPU", "s", returned.seconds)
            park = ParkModel(model=service.name)
            parked, _ = await worker.ask(park, Parked, timeout=LOAD_SECONDS)
            measured.add(f"{name}: park", "s", parked.seconds)
            again, _ = await worker.ask(back, Placed, timeout=LOAD_SECONDS)
            measured.add(f"{name}: restore after parking", "s", again.seconds)
    pong, _ = await worker.ask(Ping(), Pong, timeout=30)
    trimmed, _ = await worker.ask(Trim(), Pong, timeout=30)
    before = sum(held.reserved_bytes for held in pong.held)
    after = sum(held.reserved_bytes for held in trimmed.held)
    assert after <= before
    measured.add("trim: allocator's memory that went back", "MiB", (before - after) / MIB)


async def test_the_cap_holds(card: DeviceMemory, worker: ProcessWorker) -> None:
    manager = GPUMemoryManager(settings_on(card).gpu_memory, NoProbe())
    plan = YoloService(settings_on(card), manager).plan()
    limit = 16 * MIB  # less than its activations take
    load = LoadModel(spec=plan.spec, destination=there(card, limit), may_fall_to_cpu=False)
    with pytest.raises(WorkerRefused) as refused:
        await worker.ask(load, Placed, timeout=LOAD_SECONDS)
    assert refused.value.refusal.about == "memory"
    pong, _ = await worker.ask(Ping(), Pong, timeout=30)
    assert sum(held.reserved_bytes for held in pong.held) <= limit
    roomy = LoadModel(spec=plan.spec, destination=there(card, 2 * GIB))
    placed, _ = await worker.ask(roomy, Placed, timeout=LOAD_SECONDS)
    assert placed.on_card


async def test_a_killed_worker_leaves_nothing_on_the_card(
    card: DeviceMemory, measured: Measurements
) -> None:
    async with running(settings_on(card), open_probe("nvml")) as pipeline:
        await seconds_until_all_are_on(pipeline, card.device)
        manager = manager_of(pipeline)
        first = pipeline.worker_pid
        assert first is not None
        os.kill(first, 9)
        with told(pipeline):
            await until(lambda: pipeline.worker_pid not in (None, first), "another worker")
        measured.add(
            "after a kill, until both models run again",
            "s",
            await seconds_until_all_are_on(pipeline, card.device),
        )
        assert sorted(lease.name for lease in manager.leases) == ["clip", "yolo"]
        assert {lease.holder for lease in manager.leases} == {HOLDER}
        late = [e.text for e in manager.events if e.kind == "not-returned"]
        assert late == []


def test_the_program_takes_what_the_driver_then_shows(card: DeviceMemory, program: Program) -> None:
    probe = open_probe("nvml")
    free: list[int] = []
    for _ in range(20):  # what ended just before may still be going
        free.append(probe.read(0.0, processes=True).devices[0].free_bytes)
        if len(free) > 3 and max(free[-4:]) - min(free[-4:]) <= 4 * MIB:
            break
        time.sleep(0.25)
    program.take(GIB)
    after = probe.read(1.0, processes=True).devices[0]
    probe.close()
    assert gib(free[-1] - after.free_bytes) == pytest.approx(1.0, abs=0.2)
