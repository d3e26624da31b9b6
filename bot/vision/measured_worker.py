"""A worker to measure with: films and the screen go through it as in the bot, and are timed.

Used by ``danzar bench`` and by ``benchmarks``; no torch here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bot.settings import CaptureSettings
from bot.vision.reports import FrameReport
from bot.vision.worker.handle import (
    ProcessWorker,
    WorkerFactory,
    WorkerGone,
    WorkerHandle,
    WorkerRefused,
)
from bot.vision.worker.protocol import (
    Consumed,
    Done,
    LoadModel,
    ModelName,
    Ping,
    Placed,
    Pong,
    ReleaseCapture,
    Reply,
    Reported,
    SourceEnded,
    SourceOpened,
    SourceTrouble,
    StartCapture,
    StopCapture,
    UnloadModel,
)

FILM_SECONDS = 300.0
ACKNOWLEDGED = 16
"""Reports between two acknowledgements; the worker runs at most 64 ahead."""


class NothingSeen(Exception):
    """The source gave no frames; says why."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of watching for a while."""

    seconds: float
    reports: tuple[FrameReport, ...]
    cpu_seconds: float
    """Processor time of the worker meanwhile; 0 where it can't be asked."""
    source: str = ""

    @property
    def frames(self) -> int:
        return len(self.reports)

    def looked(self, model: str) -> int:
        """On how many frames the model really computed."""
        return sum(model in report.devices for report in self.reports)

    def milliseconds(self, stage: str) -> list[float]:
        """Of each frame that had this stage."""
        return [r.milliseconds[stage] for r in self.reports if stage in r.milliseconds]


@dataclass(slots=True)
class MeasuredWorker:
    """A worker that is up. Used on one event loop."""

    patience: float
    """Seconds that loading a model may take."""
    handle: WorkerHandle | None = None
    _reports: list[FrameReport] = field(default_factory=list[FrameReport])
    _ended: asyncio.Future[SourceEnded] | None = None
    _first: asyncio.Event = field(default_factory=asyncio.Event)
    _source: str = ""
    _trouble: str = ""
    _acknowledging: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def load(self, request: LoadModel) -> Placed:
        """Raises ``WorkerRefused``, ``WorkerGone``, ``TimeoutError``."""
        placed, _ = await self._handle.ask(request, Placed, timeout=self.patience)
        return placed

    async def unload(self, model: ModelName) -> None:
        await self._handle.ask(UnloadModel(model=model), Done, timeout=self.patience)

    async def play(self, film: Path, fps: float) -> Watched:
        """Every frame of a film through every loaded model, as fast as it goes.

        Raises:
            NothingSeen: the film did not come through whole.
        """
        settings = CaptureSettings(source="video", path=str(film), fps=fps)
        order = StartCapture(
            capture=settings, yolo_fps=fps, clip_fps=fps, every_frame=True, retry=False, held=True
        )
        self._begin()
        self._ended = asyncio.get_running_loop().create_future()
        await self._handle.ask(order, Done, timeout=self.patience)
        cpu, began = self._cpu_seconds(), time.perf_counter()
        await self._handle.ask(ReleaseCapture(), Done, timeout=self.patience)
        ending = await asyncio.wait_for(self._ended, FILM_SECONDS)
        took = time.perf_counter() - began
        cpu = self._cpu_seconds() - cpu
        # What waits for its turn to be measured must not work.
        await self._handle.ask(StopCapture(), Done, timeout=self.patience)
        if ending.failed or not self._reports:
            raise NothingSeen(ending.words)
        return Watched(took, tuple(self._reports), cpu, self._source)

    async def watch(self, settings: CaptureSettings, seconds: float) -> Watched:
        """The configured source at its own pace for so long, from its first frame on.

        Raises:
            NothingSeen: there was no frame.
        """
        order = StartCapture(
            capture=settings, yolo_fps=settings.fps, clip_fps=settings.fps, retry=False
        )
        self._begin()
        await self._handle.ask(order, Done, timeout=self.patience)
        try:
            async with asyncio.timeout(self.patience):
                await self._first.wait()
            if not self._reports:
                raise NothingSeen(self._trouble)
            cpu, began, before = self._cpu_seconds(), time.perf_counter(), len(self._reports)
            await asyncio.sleep(seconds)
            took = time.perf_counter() - began
            reports = tuple(self._reports[before:])
            if not reports:
                raise NothingSeen(self._trouble or f"no frame came in {seconds:g} s")
            return Watched(took, reports, self._cpu_seconds() - cpu, self._source)
        except TimeoutError:
            raise NothingSeen(self._trouble or "no frame came in time") from None
        finally:
            await self._handle.ask(StopCapture(), Done, timeout=self.patience)

    async def memory(self) -> Pong:
        """What the worker holds now."""
        pong, _ = await self._handle.ask(Ping(), Pong, timeout=self.patience)
        return pong

    @property
    def pid(self) -> int:
        return self._handle.pid

    @property
    def _handle(self) -> WorkerHandle:
        assert self.handle is not None
        return self.handle

    def _begin(self) -> None:
        self._reports, self._source, self._trouble = [], "", ""
        self._first.clear()

    def heard(self, event: Reply) -> None:
        """The worker's events."""
        match event:
            case Reported():
                self._reports.append(event.report)
                self._first.set()
                if self._ended is not None and len(self._reports) % ACKNOWLEDGED == 0:
                    self._acknowledge()
            case SourceOpened():
                self._source = event.description
            case SourceTrouble():
                self._trouble = event.words
            case SourceEnded():
                self._trouble = event.words
                self._first.set()
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(event)
            case _:
                pass  # progress and the log are nothing to a measurement

    def _acknowledge(self) -> None:
        task = asyncio.create_task(self._consumed())
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _consumed(self) -> None:
        # A worker that is gone is told to whoever waits for the film.
        with suppress(WorkerGone, WorkerRefused, TimeoutError):
            await self._handle.ask(Consumed(reports=ACKNOWLEDGED), Done, timeout=self.patience)

    def _cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self._handle.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system


@asynccontextmanager
async def measured_worker(
    threads: int, patience: float, factory: WorkerFactory = ProcessWorker.start
) -> AsyncIterator[MeasuredWorker]:
    """A worker without models yet, ended at the end.

    Raises:
        WorkerGone, OSError: it could not be started.
    """
    worker = MeasuredWorker(patience)
    worker.handle = await factory(threads, worker.heard)
    try:
        yield worker
    finally:
        await worker.handle.close()
