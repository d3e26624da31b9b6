"""Danzar's own way through a film: the real worker process, its pipes, its reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from bot.settings import Settings
from bot.vision.clip import ClipService
from bot.vision.film_file import FPS
from bot.vision.measured_worker import MeasuredWorker, Watched, measured_worker
from bot.vision.worker.protocol import Destination, Placed
from bot.vision.yolo import YoloService
from danzar_gpu import GPUMemoryManager
from danzar_gpu.probes.simulated import SimulatedProbe

Precision = Literal["fastest", "f32"]
LOAD_SECONDS = 600.0
CPU = Destination(device="cpu")


class NotComparable(Exception):
    """Our way did not do the work that the peer did: a figure would be a lie."""


class OurWorker:
    """A worker with models in it."""

    def __init__(
        self,
        worker: MeasuredWorker,
        settings: Settings,
        names: Sequence[str],
        precision: Precision = "fastest",
    ) -> None:
        self.worker = worker
        self._settings = settings
        self._names = names
        self._precision: Precision = precision
        self.placed: dict[str, Placed] = {}

    @property
    def backend(self) -> str:
        """What computes, both models if they differ."""
        return ", ".join(dict.fromkeys(placed.backend for placed in self.placed.values()))

    async def load(self, batch_size: int, destination: Destination = CPU) -> None:
        """Load the models, or load them again with another batch size."""
        # Only to learn what the services would load: nothing is asked of it.
        manager = GPUMemoryManager(self._settings.gpu_memory, SimulatedProbe())
        services = {"yolo": YoloService, "clip": ClipService}
        for name in self._names:
            service = services[name](self._settings, manager)
            request = service.load_request(service.plan(), "cpu")
            wishes: dict[str, object] = {"precision": self._precision}
            if destination.device != "cpu":
                # For the day on which a model leaves its card OpenVINO's files are made beside it,
                # by a process that would compete with what is measured.
                wishes["backend"] = "torch"
            computing = request.spec.computing.model_copy(update=wishes)
            spec = request.spec.model_copy(
                update={"batch_size": batch_size, "computing": computing}
            )
            changes = {"spec": spec, "destination": destination, "may_fall_to_cpu": False}
            placed = await self.worker.load(request.model_copy(update=changes))
            if any("it reports nothing" in note for note in placed.notes):
                raise NotComparable(f"{name} computes nothing: {'; '.join(placed.notes)}")
            self.placed[name] = placed

    async def play(self, film: Path) -> Watched:
        """Every frame of the film, from the order to go to the last report."""
        return await self.worker.play(film, FPS)


@asynccontextmanager
async def our_worker(
    settings: Settings, names: Sequence[str], threads: int, precision: Precision = "fastest"
) -> AsyncIterator[OurWorker]:
    """A worker without models yet, ended at the end."""
    async with measured_worker(threads, LOAD_SECONDS) as worker:
        yield OurWorker(worker, settings, names, precision)
