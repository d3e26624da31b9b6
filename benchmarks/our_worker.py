"""Danzar's own way through a film: the real worker process, its pipes, its reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.settings import Settings
from bot.vision.clip import ClipService
from bot.vision.reports import FrameReport
from bot.vision.worker.handle import ProcessWorker
from bot.vision.worker.protocol import (
    Consumed,
    Destination,
    Done,
    LoadModel,
    Ping,
    Placed,
    Pong,
    ReleaseCapture,
    Reply,
    Reported,
    SourceEnded,
    StartCapture,
)
from bot.vision.yolo import YoloService
from danzar_gpu import GPUMemoryManager
from danzar_gpu.probes.simulated import SimulatedProbe

LOAD_SECONDS = 240.0
FILM_SECONDS = 300.0
ACKNOWLEDGED = 16
"""Reports between two acknowledgements; the worker runs at most 64 ahead."""
CPU = Destination(device="cpu")


class NotComparable(Exception):
    """Our way did not do the work that the peer did: a figure would be a lie."""


@dataclass(frozen=True, slots=True)
class Played:
    """A film that the worker went through."""

    seconds: float
    frames: int
    looked: dict[str, int]
    """Frames that each model really computed; the others were the same picture again."""


class OurWorker:
    """A worker with models in it."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self._settings = settings
        self._names = names
        self._reports: list[FrameReport] = []
        self._ended: asyncio.Future[SourceEnded] | None = None
        self._worker: ProcessWorker | None = None
        self._acknowledging: set[asyncio.Task[object]] = set()
        self.placed: dict[str, Placed] = {}

    async def start(self, threads: int) -> None:
        self._worker = await ProcessWorker.start(threads, self._heard)

    async def load(self, batch_size: int, destination: Destination = CPU) -> None:
        """Load the models, or load them again with another batch size."""
        assert self._worker is not None
        # Only to learn what the services would load: nothing is asked of it.
        manager = GPUMemoryManager(self._settings.gpu_memory, SimulatedProbe())
        services = {"yolo": YoloService, "clip": ClipService}
        for name in self._names:
            plan = services[name](self._settings, manager).plan()
            spec = plan.spec.model_copy(update={"batch_size": batch_size})
            request = LoadModel(spec=spec, destination=destination, may_fall_to_cpu=False)
            placed, _ = await self._worker.ask(request, Placed, timeout=LOAD_SECONDS)
            self.placed[name] = placed

    async def play(self, film: Path) -> Played:
        """Every frame of the film, from the order to go to the last report.

        Raises:
            NotComparable: the film did not come through whole.
        """
        assert self._worker is not None
        capture = self._settings.capture.model_copy(update={"source": "video", "path": str(film)})
        order = StartCapture(
            capture=capture,
            yolo_fps=capture.fps,
            clip_fps=capture.fps,
            every_frame=True,
            retry=False,
            held=True,
        )
        self._reports = []
        self._ended = asyncio.get_running_loop().create_future()
        await self._worker.ask(order, Done, timeout=LOAD_SECONDS)
        began = time.perf_counter()
        await self._worker.ask(ReleaseCapture(), Done, timeout=LOAD_SECONDS)
        ending = await asyncio.wait_for(self._ended, FILM_SECONDS)
        took = time.perf_counter() - began
        if ending.failed:
            raise NotComparable(ending.words)
        looked = {name: sum(name in r.devices for r in self._reports) for name in self._names}
        return Played(took, len(self._reports), looked)

    async def memory(self) -> Pong:
        """What the worker holds now."""
        assert self._worker is not None
        pong, _ = await self._worker.ask(Ping(), Pong, timeout=LOAD_SECONDS)
        return pong

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.close()

    def _heard(self, event: Reply) -> None:
        if isinstance(event, Reported):
            self._reports.append(event.report)
            if len(self._reports) % ACKNOWLEDGED == 0:
                self._acknowledge()
        elif isinstance(event, SourceEnded) and self._ended is not None:
            self._ended.set_result(event)

    def _acknowledge(self) -> None:
        assert self._worker is not None
        asking = self._worker.ask(Consumed(reports=ACKNOWLEDGED), Done, timeout=LOAD_SECONDS)
        task: asyncio.Task[object] = asyncio.ensure_future(asking)
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)


@asynccontextmanager
async def our_worker(
    settings: Settings, names: Sequence[str], threads: int
) -> AsyncIterator[OurWorker]:
    """A worker without models yet, ended at the end."""
    worker = OurWorker(settings, names)
    await worker.start(threads)
    try:
        yield worker
    finally:
        await worker.close()
