"""A bot on scripted cards, with a vision pipeline that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from bot.context import AppContext
from bot.settings import GAME_CONCEPTS, Settings
from bot.vision.asking import Scores
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
        self.worker_starts = 1
        self.asked_for_image: list[bool] = []
        self.concepts = GAME_CONCEPTS
        self.subscribers: list[Callable[[FrameReport], None]] = []
        self.scores: dict[str, float] = {}
        self.scored: list[tuple[str, ...]] = []
        self.slow_seconds = 0.0
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

    async def use_settings(self, settings: Settings) -> tuple[str, ...]:
        self.settings = settings
        return ()

    @property
    def latest(self) -> FrameReport | None:
        return self.report if self.state == "running" else None

    def subscribe(self, callback: Callable[[FrameReport], None]) -> Callable[[], None]:
        self.subscribers.append(callback)
        return lambda: self.subscribers.remove(callback)

    def see(self, report: FrameReport) -> None:
        """A frame was analysed."""
        self.report = report
        for subscriber in tuple(self.subscribers):
            subscriber(report)

    async def score(self, phrases: Sequence[str]) -> Scores:
        if self.state != "running":
            raise VisionUnavailable("Vision is off; `!vision start` starts it")
        self.scored.append(tuple(phrases))
        await asyncio.sleep(self.slow_seconds)
        found = {phrase: self.scores.get(phrase, 0.5) for phrase in phrases}
        return Scores(found, self.report, "cpu", 12.0)

    async def use_concepts(self, concepts: tuple[str, ...]) -> None:
        self.choose_from(concepts)

    def choose_from(self, concepts: tuple[str, ...]) -> None:
        self.concepts = concepts

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
