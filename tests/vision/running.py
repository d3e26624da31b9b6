"""A real manager on a scripted rig, and pipelines on it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from bot.settings import Settings
from bot.vision.pipeline import VisionPipeline
from bot.vision.worker import devices
from bot.vision.worker.handle import EventListener, WorkerFactory, WorkerHandle
from bot.vision.worker.inline import InlineWorker
from bot.vision.worker.protocol import ClipSpec, YoloSpec
from danzar_gpu import GPUMemoryManager
from danzar_gpu.probes import MemoryProbe
from tests.gpu_memory.rig import Card, ScriptedProbe
from tests.vision.conftest import CONCEPTS
from tests.vision.scripted import ScriptedModel

QUICK = {
    "memory_check_interval": 0.1,
    "pressure_check_interval": 0.1,
    "min_residency_seconds": 0.0,
    "return_dwell_seconds": 0.3,
    "return_margin_gb": 0.1,
    "move_cooldown_seconds": 0.0,
}
PATIENCE = 90.0
"""The machine is small and shared; nothing here takes that long when it works."""
KILLED = "status 15" if sys.platform == "win32" else "signal 9"
"""What ended a process that ``psutil`` killed."""


class SimulatedRig(ScriptedProbe):
    """Cards that do not exist: the worker really computes on the CPU."""

    source = "simulated"


def two_cards() -> SimulatedRig:
    return SimulatedRig(
        Card("RTX 4070", programs={"ollama": 7.5}, total=9.0),
        Card("RTX 4070 Super", programs={"game": 2.0}),
    )


def settings_for(yolo: Path | str, clip: Path | str, /, **sections: dict[str, Any]) -> Settings:
    """Settings with these models, a quick poller, and changes by section."""
    content: dict[str, dict[str, Any]] = {
        "gpu_memory": dict(QUICK),
        "capture": {"source": "scene", "fps": 10},
        "yolo": {
            "model_path": str(yolo),
            "confidence_threshold": 0.2,
            "image_size": 160,
            "processing_fps": 20,
        },
        "clip": {
            "model_path": str(clip),
            "confidence_threshold": 0.0,
            "processing_fps": 20,
            "profiles": {"default": list(CONCEPTS)},
        },
        # No conversion for each test's models: test_backends.py has its own.
        "vision": {"hang_timeout_seconds": 4, "cpu_budget": 1, "backend": "torch"},
    }
    for name, changes in sections.items():
        content.setdefault(name, {}).update(changes)
    return Settings.model_validate(content)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    probe: MemoryProbe | None = None,
    *,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[VisionPipeline]:
    """A pipeline on a manager, both ended at the end."""
    manager = GPUMemoryManager(settings.gpu_memory, probe or two_cards())
    await manager.start()
    pipeline = VisionPipeline(settings, manager, **options)
    try:
        if start:
            await pipeline.start()
        yield pipeline
    finally:
        await pipeline.stop()
        await manager.close()


def manager_of(pipeline: VisionPipeline) -> GPUMemoryManager:
    return pipeline._manager


async def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until it holds; the value that it gave."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never came: {what}"
        await asyncio.sleep(0.02)
    return found


def both_run(pipeline: VisionPipeline) -> bool:
    return all(status.state == "running" for status in pipeline.services.values())


def inline(*models: ScriptedModel) -> WorkerFactory:
    """Workers in this process, with scripted models."""
    by_name = {model.name: model for model in models}
    devices.torch_is_ready()  # as after a real load

    def load(spec: YoloSpec | ClipSpec, *_: object) -> ScriptedModel:
        return by_name[spec.kind]

    async def start(threads: int, listener: EventListener) -> WorkerHandle:
        return await InlineWorker.start(threads, listener, loader=load)

    return start
