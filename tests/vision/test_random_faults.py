"""Faults at random steps of random moves: the ledger says what the worker holds, at every moment.

The real pipeline, services, manager and worker; models that fail where a seed says. Afterwards
nothing fails any more, and both models come back by themselves.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.vision.pipeline import VisionPipeline
from bot.vision.worker import devices
from bot.vision.worker.handle import EventListener, WorkerHandle
from bot.vision.worker.inline import InlineWorker
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import ClipSpec, YoloSpec
from danzar_gpu.memory import MemorySnapshot
from tests.gpu_memory.rig import Card, ScriptedProbe
from tests.vision.running import manager_of, running, settings_for, until
from tests.vision.test_whereabouts import Tracked, cards

__all__ = ["cards"]

STEPS = 40
ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: KeyError("a defect"),
    lambda: RuntimeError("an error of the card"),
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: ModelError("its file is gone", "pull it again"),
    MemoryError,
)


class Faults:
    """Which steps of models fail."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.share = 0.15

    def __call__(self, step: str, device: str) -> None:
        # A model that can't be parked ends the worker: that is rarer.
        share = self.share / 5 if step == "park" else self.share
        if self.random.random() < share:
            raise self.random.choice(ERRORS)()


class Workers:
    """A factory; it knows the models that the present worker has opened."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.models: list[Tracked] = []
        self.worker: InlineWorker | None = None

    async def __call__(self, threads: int, listener: EventListener) -> WorkerHandle:
        devices.torch_is_ready()
        mine: list[Tracked] = []

        def load(spec: YoloSpec | ClipSpec, *_: object) -> Tracked:
            model = Tracked(spec.kind, fault=self._faults)
            mine.append(model)
            return model

        self.models = mine
        self.worker = await InlineWorker.start(threads, listener, loader=load)
        return self.worker


def astray(pipeline: VisionPipeline, workers: Workers) -> list[str]:
    """Models on cards where they have no lease."""
    worker = workers.worker
    if worker is None or not worker.alive:
        return []  # what it held went with its process
    # The models first: one that moves meanwhile has its new lease already.
    held = [(model.name, model.held) for model in workers.models if model.held is not None]
    leased: set[tuple[str, str]] = set()
    for lease in manager_of(pipeline).leases:
        leased.add((lease.name, lease.device))
        if lease.target is not None and lease.target.device is not None:
            leased.add((lease.name, lease.target.device))
    return [f"{name} on {card}" for name, card in held if (name, card) not in leased]


def at_home(pipeline: VisionPipeline, workers: Workers) -> bool:
    """Both models run where their leases are."""
    leases = {lease.name: lease for lease in manager_of(pipeline).leases}
    places = {model.name: model for model in workers.models if not model.parked}
    if leases.keys() != {"yolo", "clip"} or any(x.target is not None for x in leases.values()):
        return False
    return all(
        status.state == "running"
        and status.device == leases[name].device
        and (model := places.get(name)) is not None
        and model.place.device == leases[name].device
        for name, status in pipeline.services.items()
    )


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_fails_models_are_where_their_leases_are_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("bot.vision.setbacks.BACKOFF_SECONDS", (0.0,))
    monkeypatch.setattr("bot.vision.setbacks.MOST_FAILURES", 1 << 30)
    monkeypatch.setattr("bot.vision.service.RETRY_SECONDS", 0.0)
    for name in ("yolo.pt", "open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    settings = settings_for(
        tmp_path / "yolo.pt",
        tmp_path,
        gpu_memory={"memory_check_interval": 0.1, "return_dwell_seconds": 0.0},
        capture={"source": "scene", "fps": 60},
        yolo={"processing_fps": 60},
        clip={"processing_fps": 60},
        vision={"idle_release_seconds": 0.05},
    )
    rig = ScriptedProbe(Card("RTX 4070"), Card("RTX 4070 Super"))
    faults = Faults(seed)
    chance = random.Random(seed)
    workers = Workers(faults)
    found: list[str] = []
    async with running(settings, rig, worker_factory=workers) as pipeline:
        manager = manager_of(pipeline)

        def look(_: MemorySnapshot | None = None) -> None:
            found.extend(astray(pipeline, workers))

        manager.subscribe(look)

        async def one_more() -> None:
            name = chance.choice(("yolo", "clip"))
            match chance.randrange(8):
                case 0 | 1 | 2:
                    rig.cards[chance.randrange(2)].programs["game"] = chance.choice((0.0, 11.9))
                    await manager.refresh(max_age=0)
                case 3:
                    manager.offload(name, "by hand")
                case 4:
                    manager.restore(name)
                case 5:
                    await pipeline.unload(name)
                case 6:
                    pipeline.load(name)
                case _:
                    if workers.worker is not None and chance.random() < 0.3:
                        await workers.worker.kill("a test wants it")

        for _ in range(STEPS):
            task: asyncio.Task[Any] = asyncio.create_task(one_more())
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0.003)
                look()
            if chance.random() < 0.7:
                await task
            look()
        faults.share = 0.0
        for card in rig.cards:
            card.programs["game"] = 0.0
        for name in ("yolo", "clip"):
            manager.restore(name)
        await until(lambda: pipeline.state == "running", "the worker")
        for name, status in pipeline.services.items():
            if status.state in ("off", "failed"):
                pipeline.load(name)
        await until(lambda: at_home(pipeline, workers), "both models at home", 20)
        look()
    assert found == []
