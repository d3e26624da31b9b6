"""A model with nothing to see gives its card back, and returns with the next picture."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from bot.vision.pipeline import VisionPipeline
from bot.vision.reports import FrameReport
from bot.vision.service import ServiceStatus, precision_of
from bot.vision.worker.protocol import (
    Done,
    LoadModel,
    ModelFell,
    MoveModel,
    Parked,
    ParkModel,
    Placed,
    Wanted,
)
from bot.vision.yolo import YoloService
from danzar_gpu import Footprint, GPUMemoryManager
from danzar_gpu.history import MoveRecord
from tests.gpu_memory.rig import Card, ScriptedProbe, settle
from tests.vision.running import settings_for

MIB = 1 << 20
CPU_FULL = {"game": 11.9}


class Worker:
    """Answers at once, and remembers what it was asked; no process, no torch."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        self.asked.append(request.kind)
        if isinstance(request, ParkModel):
            return Parked(seconds=0.01), b""
        if isinstance(request, LoadModel | MoveModel):
            where = request.destination.device
            placed = Placed(
                device=where,
                on_card=where != "cpu",
                weights_bytes=100 * MIB,
                activations_bytes=50 * MIB if where != "cpu" else None,
                seconds=0.5 if isinstance(request, LoadModel) else 0.1,
                backend="torch f16" if where != "cpu" else "OpenVINO f32",
            )
            return placed, b""
        return Done(), b""


class Life:
    """A service that runs on a scripted rig."""

    def __init__(self, folder: Path, *, idle: float = 0.2, programs: Any = None, **gpu: Any):
        path = folder / "some.pt"
        path.write_bytes(bytes(6 * MIB))
        settings = settings_for(
            path,
            folder,
            gpu_memory=gpu,
            capture={"fps": 60},
            yolo={"processing_fps": 60},
            vision={"idle_release_seconds": idle},
        )
        self.rig = ScriptedProbe(
            Card("RTX 4070", programs={"ollama": 11.9}),
            Card("RTX 4070 Super", programs=dict(programs or {"game": 2.0})),
        )
        self.manager = GPUMemoryManager(settings.gpu_memory, self.rig)
        self.service = YoloService(settings, self.manager)
        self.worker = Worker()

    async def __aenter__(self) -> Life:
        await self.manager.start()
        self._task = asyncio.create_task(self.service.run(cast("Any", self.worker)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.manager.close()

    async def comes_to(self, state: str) -> ServiceStatus:
        await settle(lambda: self.service.status.state == state)
        return self.service.status

    def sees_a_picture(self, milliseconds: float = 7.0) -> None:
        self.service.saw(
            FrameReport(
                sequence=1,
                captured_at=0.0,
                source="scene",
                width=64,
                height=48,
                devices={"yolo": "cuda:1"},
                milliseconds={"yolo": milliseconds},
            )
        )

    async def moves(self) -> list[MoveRecord]:
        return list((await self.manager.records.read()).moves)


async def test_an_idle_model_gives_its_card_back_and_returns_with_the_next_picture(
    tmp_path: Path,
) -> None:
    async with Life(tmp_path) as life:
        await life.comes_to("running")
        for _ in range(10):  # pictures come more often than it is patient
            life.sees_a_picture()
            await asyncio.sleep(0.03)
        assert life.service.status.state == "running"
        parked = await life.comes_to("parked")
        assert parked.device is None
        assert parked.reason == "idle for 0 s; it returns with the next new picture"
        assert life.manager.leases == ()
        life.service.heard(Wanted(model="yolo"))
        back = await life.comes_to("running")
        assert (back.device, back.measured_bytes) == ("cuda:1", 150 * MIB)
        moves = await life.moves()
    # Never loaded a second time: the way back is a copy.
    assert life.worker.asked[:3] == ["load_model", "park_model", "move_model"]
    assert [move.kind for move in moves[:3]] == ["load", "park", "restore"]
    assert [move.seconds for move in moves[:3]] == [0.5, 0.01, 0.1]
    park = moves[1]
    assert (park.from_device, park.to_device, park.bytes) == ("cuda:1", "", 150 * MIB)
    assert (park.model, park.device_name) == ("some.pt fp16 160px x4", "RTX 4070 Super")
    told = [e.text for e in life.manager.events if e.kind == "parked"]
    assert told[0] == "yolo was idle for 0 s: 0.15GB of cuda:1 goes back"


async def test_who_asks_a_parked_model_wakes_it(tmp_path: Path) -> None:
    async with Life(tmp_path) as life:
        await life.comes_to("parked")
        await life.service.wake()
        assert life.service.status.state == "running"


async def test_who_looks_waits_for_a_model_that_a_picture_woke(tmp_path: Path) -> None:
    async with Life(tmp_path) as life:
        await life.comes_to("parked")
        assert not await life.service.returned(), "nothing new is to be seen"
        assert life.service.status.state == "parked"
        life.service.heard(Wanted(model="yolo"))
        assert await life.service.returned()
        assert life.service.status.state == "running"
        assert not await life.service.returned()


async def test_a_parked_model_whose_card_was_taken_returns_on_the_cpu(tmp_path: Path) -> None:
    async with Life(tmp_path) as life:
        await life.comes_to("parked")
        life.rig.cards[1].programs["game"] = 11.9
        await life.manager.refresh(max_age=0)
        life.service.heard(Wanted(model="yolo"))
        assert (await life.comes_to("running")).device == "cpu"
        assert "load_model" not in life.worker.asked[1:]


async def test_nobody_is_parked_without_the_setting_or_on_the_cpu(tmp_path: Path) -> None:
    for idle, programs in ((0.0, None), (0.2, CPU_FULL)):
        async with Life(tmp_path, idle=idle, programs=programs) as life:
            await life.comes_to("running")
            await asyncio.sleep(0.5)
            assert life.service.status.state == "running"
            assert life.worker.asked == ["load_model"]


def test_a_film_s_frames_are_all_seen(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for every_frame in (False, True):
        pipeline = VisionPipeline(life.service.settings, life.manager, every_frame=every_frame)
        for service in pipeline._services.values():  # pyright: ignore[reportPrivateUsage]
            patience = service._idle_patience()  # pyright: ignore[reportPrivateUsage]
            assert (patience == 0.0) == every_frame


async def test_who_is_due_rarely_is_not_idle_in_between(tmp_path: Path) -> None:
    life = Life(tmp_path, idle=1.0)
    slow = life.service.settings.yolo.model_copy(update={"processing_fps": 0.1})
    life.service.settings = life.service.settings.model_copy(update={"yolo": slow})
    assert life.service._idle_patience() == 30.0  # pyright: ignore[reportPrivateUsage]


async def test_without_the_cpu_the_way_back_needs_no_file(tmp_path: Path) -> None:
    async with Life(tmp_path, idle=0.0, fallback_to_cpu=False) as life:
        await life.comes_to("running")
        life.rig.cards[1].programs["game"] = 11.9
        await life.comes_to("waiting")
        life.rig.cards[1].programs["game"] = 1.0
        await life.comes_to("running")
    assert life.worker.asked == ["load_model", "park_model", "move_model"]


async def test_a_fall_is_learned_and_its_frames_are_those_of_the_cpu(tmp_path: Path) -> None:
    async with Life(tmp_path, idle=0.0) as life:
        await life.comes_to("running")
        life.sees_a_picture(5.0)
        fallen = ModelFell(model="yolo", device="cpu", needed_bytes=900 * MIB, words="full")
        life.service.heard(fallen)
        await settle(lambda: life.service.status.device == "cpu")
        life.sees_a_picture(50.0)
        known = await life.manager.records.read()
        assert life.manager.expected_footprint(
            "some.pt fp16 160px x4", Footprint()
        ).model_bytes == pytest.approx(900 * MIB)
    offload = known.moves[-1]
    assert (offload.kind, offload.from_device, offload.to_device) == ("offload", "cuda:1", "cpu")
    devices = {x.device_name: sum(n for _, n in x.buckets) for x in known.latencies}
    assert devices == {"RTX 4070 Super": 1, "CPU": 1}


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("", "fp32"),
        ("OpenVINO f32", "fp32"),
        ("torch float32", "fp32"),
        ("torch f16", "fp16"),
        ("CUDA fp16", "fp16"),
        ("torch half", "fp16"),
        ("torch bfloat16", "bf16"),
        ("TensorRT int8", "int8"),
    ],
)
def test_the_precision_is_the_workers(backend: str, precision: str) -> None:
    assert precision_of(backend) == precision
