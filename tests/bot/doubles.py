"""A bot on scripted cards, with a vision pipeline that says what a test wants it to say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from bot.context import AppContext
from bot.settings import Settings
from bot.vision.pipeline import Look, ServiceStatus, VisionPipeline, VisionUnavailable
from bot.vision.reports import Detection, FrameReport, Insight, PipelineCounts
from danzar_gpu import GPUMemoryManager
from tests.gpu_memory.rig import ScriptedProbe, guide_rig

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


def frame_report(source: str = "scene", **changes: Any) -> FrameReport:
    """A boss fight, half a second ago."""
    values: dict[str, Any] = {
        "sequence": 7,
        "captured_at": time.time() - 0.5,
        "source": source,
        "width": 1280,
        "height": 720,
        "devices": {"yolo": "cuda:1", "clip": "cpu"},
        "detections": (
            Detection("enemy", 0.81, (100, 100, 200, 300)),
            Detection("boss", 0.92, (600, 200, 800, 600)),
            Detection("enemy", 0.62, (900, 100, 960, 220)),
        ),
        "insights": (Insight("low health", 0.12), Insight("a boss fight", 0.81)),
        "milliseconds": {"capture": 2.0, "yolo": 31.2, "total": 55.1},
    }
    return FrameReport(**{**values, **changes})


class ScriptedVision:
    """What the cogs use of ``VisionPipeline``, without a worker."""

    def __init__(self, report: FrameReport | None = None) -> None:
        self.state = "running"
        self.state_reason = ""
        self.source = "the rendered scene"
        self.report = report or frame_report()
        self.counts = PipelineCounts(captured=120, analysed=80, unchanged=30, dropped=10)
        self.asked_for_image: list[bool] = []
        self.services = {
            "yolo": ServiceStatus(
                name="yolo",
                model="yolo-nano.pt",
                state="running",
                device="cuda:1",
                reason="Device 1 (RTX 4070 Super) available with 9.9GB free",
                predicted_bytes=1 << 30,
                measured_bytes=3 << 28,
                progress="",
                milliseconds_p50=31.6,
                frames=80,
            )
        }

    async def start(self) -> None:
        self.state = "running"

    async def stop(self) -> None:
        self.state = "off"

    async def look(self, with_image: bool) -> Look:
        self.asked_for_image.append(with_image)
        if self.state != "running":
            raise VisionUnavailable("Vision is off; `!vision start` starts it")
        return Look(self.report, JPEG if with_image else None)


@asynccontextmanager
async def scripted_context(
    *,
    probe: ScriptedProbe | None = None,
    vision: ScriptedVision | None = None,
    settings: Settings | None = None,
    demo: bool = False,
) -> AsyncIterator[AppContext]:
    """An open context on the guide's two cards; closed at the end."""
    settings = settings or Settings()
    manager = GPUMemoryManager(settings.gpu_memory, probe or ScriptedProbe(*guide_rig()))
    await manager.start()
    pipeline = cast(VisionPipeline, vision or ScriptedVision())
    context = AppContext(settings, manager, pipeline, demo=demo)
    try:
        yield context
    finally:
        await context.finish_background()
        await manager.close()
