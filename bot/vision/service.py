"""A vision model as the bot process sees it: lease, load, follow the manager, unload.

The model itself lives in the worker; no torch here. ``yolo.py`` and ``clip.py`` say what is
loaded and how much it will need.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal

from bot.settings import Settings
from bot.vision.model_files import FileRefused
from bot.vision.reports import FrameReport
from bot.vision.worker.handle import WorkerGone, WorkerHandle, WorkerRefused
from bot.vision.worker.protocol import (
    ClipSpec,
    Destination,
    Done,
    LoadModel,
    ModelBroke,
    ModelFell,
    ModelName,
    MoveModel,
    Placed,
    Progress,
    UnloadModel,
    YoloSpec,
)
from danzar_gpu import AdmissionRefused, Footprint, GPUMemoryManager, Lease
from danzar_gpu.config import device_index

log = logging.getLogger(__name__)

HOLDER = "vision-worker"
"""Both models live in one process: the manager counts its CUDA context once."""
CONTEXT_BYTES = 450 << 20
"""What a process's CUDA context and torch's kernels take, until the driver says better."""
RETRY_SECONDS = 5.0

ServiceState = Literal["off", "waiting", "loading", "running", "moving", "failed"]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service at one moment, for people."""

    name: str
    model: str
    state: ServiceState
    device: str | None
    reason: str
    """Why it is there, or why it does not run; with what the model has to say."""
    predicted_bytes: int
    measured_bytes: int | None
    """What the model was measured to take on a card; ``None`` on the CPU."""
    progress: str
    milliseconds_p50: float | None
    """Median per frame over the last frames."""
    frames: int
    idle_seconds: float | None = None
    """Since it last looked at a frame; ``None`` if it never did."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be loaded, and what it is expected to need."""

    spec: YoloSpec | ClipSpec
    model: str
    need: Footprint
    note: str = ""

    @property
    def key(self) -> str:
        """What a measured footprint belongs to: model, precision, image size and batch."""
        size = self.spec.image_size if isinstance(self.spec, YoloSpec) else None
        pixels = f" {size}px" if size else ""
        return f"{self.model} fp32{pixels} x{self.spec.batch_size}"


class ModelService(ABC):
    """One model's life. Runs on the event loop; ``run`` is restarted with each worker."""

    name: ClassVar[ModelName]
    title: ClassVar[str]
    priority: ClassVar[int]

    def __init__(self, settings: Settings, manager: GPUMemoryManager) -> None:
        self.settings = settings
        self._manager = manager
        self._state: ServiceState = "off"
        self._model = ""
        self._device: str | None = None
        self._reason = ""
        self._notes: tuple[str, ...] = ()
        self._progress = ""
        self._predicted: Footprint | None = None
        self._measured_bytes: int | None = None
        self._learned: Footprint | None = None
        self._milliseconds: deque[float] = deque(maxlen=200)
        self._frames = 0
        self._ran_at: float | None = None
        self._trouble: asyncio.Queue[ModelFell | ModelBroke] = asyncio.Queue()
        self.settled = asyncio.Event()
        """Set while nothing is being loaded: it runs, or it is known that it won't."""

    @property
    @abstractmethod
    def enabled(self) -> bool: ...

    @abstractmethod
    def plan(self) -> Plan:
        """What to load; looks at files. Raises ``FileRefused``."""

    # --- for people ---------------------------------------------------------------------------

    @property
    def status(self) -> ServiceStatus:
        return ServiceStatus(
            name=self.name,
            model=self._model,
            state=self._state,
            device=self._device,
            reason="; ".join(filter(None, (self._reason, *self._notes))),
            predicted_bytes=self._predicted.total_bytes if self._predicted else 0,
            measured_bytes=self._measured_bytes,
            progress=self._progress,
            milliseconds_p50=statistics.median(self._milliseconds) if self._milliseconds else None,
            frames=self._frames,
            idle_seconds=None if self._ran_at is None else time.monotonic() - self._ran_at,
        )

    @property
    def trouble(self) -> str:
        """Why it does not run although it should, else nothing."""
        if self._state == "failed":
            return f"{self.title} off: {self._reason}"
        if self._state == "waiting":
            return f"{self.title} waits: {self._reason}"
        return ""

    def _set(self, state: ServiceState, reason: str, device: str | None = None) -> None:
        if state == "failed":
            log.warning("%s off: %s", self.title, reason)
        self._state, self._reason, self._device = state, reason, device
        if state not in ("loading", "moving"):
            self._progress = ""
        if state in ("off", "waiting", "running", "failed"):
            self.settled.set()
        else:
            self.settled.clear()

    # --- what the worker tells ----------------------------------------------------------------

    def heard(self, event: Progress | ModelFell | ModelBroke) -> None:
        if isinstance(event, Progress):
            self._progress = f"{event.text} ({event.fraction:.0%})"
        else:
            self._trouble.put_nowait(event)

    def saw(self, report: FrameReport) -> None:
        if self.name in report.devices:
            self._frames += 1
            self._ran_at = time.monotonic()
            self._milliseconds.append(report.milliseconds.get(self.name, 0.0))

    def stopped(self) -> None:
        """The worker is gone or vision was stopped."""
        if self._state != "failed":
            self._set("off", "")
        self._device = None
        self.settled.clear()
        while not self._trouble.empty():
            self._trouble.get_nowait()

    # --- its life -----------------------------------------------------------------------------

    async def run(self, worker: WorkerHandle) -> None:
        """Hold the model in the worker until it can't be held; failures become states.

        The lease is not released on cancellation: that is due when the memory is free, which
        ``unload`` or the end of the worker makes sure of.
        """
        if not self.enabled:
            self._set("off", f"{self.name}.enabled is false")
            return
        self._set("loading", "looking at its files")
        try:
            plan = await asyncio.to_thread(self.plan)
        except FileRefused as error:
            self._set("failed", str(error))
            return
        self._model = plan.model
        self._notes = (plan.note,) if plan.note else ()
        self._predicted = self._learned or plan.need
        try:
            while await self._hold(worker, plan):
                pass
        except WorkerGone:
            pass  # the pipeline sees to it
        except TimeoutError:
            limit = self.settings.vision.load_timeout_seconds
            self._set("failed", f"the model was not ready in {limit:g} s")
            await worker.kill(f"{self.title} was not ready in {limit:g} s")

    async def unload(self, worker: WorkerHandle) -> None:
        """Take the model out of the worker and give the lease back."""
        with contextlib.suppress(WorkerGone, WorkerRefused, TimeoutError):
            limit = self.settings.vision.load_timeout_seconds
            await worker.ask(UnloadModel(model=self.name), Done, timeout=limit)
        for lease in self._manager.leases:
            if lease.name == self.name and lease.holder == HOLDER:
                lease.release()
        self._set("off", "unloaded on request")

    async def _hold(self, worker: WorkerHandle, plan: Plan) -> bool:
        """From a lease to its end; whether another one is to be asked for."""
        lease = await self._acquire(plan)
        try:
            self._set("loading", lease.reason, lease.device)
            await self._load(worker, plan, lease)
        except WorkerRefused as error:
            self._set("failed", str(error))
            lease.release()
            return False
        while not lease.released:
            event = await self._next(lease)
            if lease.released:
                break
            if isinstance(event, ModelBroke):
                self._set("failed", event.words)
                lease.release()
                return False
            if isinstance(event, ModelFell) and event.device is None:
                self._set("waiting", event.words)
                lease.release()
                await asyncio.sleep(RETRY_SECONDS)
                return True
            if isinstance(event, ModelFell):
                lease.move_failed(event.words)
                self._set("running", event.words, event.device)
                continue
            if not await self._follow(worker, plan, lease):
                lease.release()
                await asyncio.sleep(RETRY_SECONDS)
                return True
        return False

    async def _acquire(self, plan: Plan) -> Lease:
        """Room for what was measured, here or in an earlier run, else for what is predicted."""
        need = self._learned or plan.need
        self._set("loading", "asking for room")
        ask = functools.partial(
            self._manager.acquire,
            self.name,
            need,
            model=plan.key,
            holder=HOLDER,
            priority=self.priority,
        )
        try:
            return await ask(policy="cpu")
        except AdmissionRefused as error:
            # The CPU is not allowed: wait until a card has room.
            self._set("waiting", str(error))
        return await ask(policy="wait")

    async def _load(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> None:
        """Load on the leased device, or on the CPU if that card turns out not to do.

        Raises:
            WorkerRefused: it can't be loaded at all.
        """
        try:
            placed = await self._ask_load(worker, plan, lease.device)
        except WorkerRefused as error:
            elsewhere = error.refusal.about in ("place", "memory") and lease.device != "cpu"
            if not (elsewhere and self._manager.config.fallback_to_cpu):
                raise
            log.warning("%s goes to the CPU: %s", self.title, error)
            lease.move_failed(str(error), for_good=error.refusal.about == "place")
            placed = await self._ask_load(worker, plan, "cpu")
        self._landed(placed, plan, lease)

    async def _ask_load(self, worker: WorkerHandle, plan: Plan, device: str) -> Placed:
        request = LoadModel(
            spec=plan.spec,
            destination=self._destination(device),
            may_fall_to_cpu=self._manager.config.fallback_to_cpu,
        )
        limit = self.settings.vision.load_timeout_seconds
        placed, _ = await worker.ask(request, Placed, timeout=limit)
        return placed

    async def _next(self, lease: Lease) -> ModelFell | ModelBroke | None:
        """The next thing that happens: the worker's trouble, or (``None``) a revocation."""
        revoked = asyncio.ensure_future(lease.revoked.wait())
        trouble = asyncio.ensure_future(self._trouble.get())
        try:
            await asyncio.wait((revoked, trouble), return_when=asyncio.FIRST_COMPLETED)
            if trouble.done():
                return trouble.result()
            return None
        finally:
            for future in (revoked, trouble):
                future.cancel()

    async def _follow(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> bool:
        """Go where the lease points to; ``False`` when the model could not stay anywhere."""
        target = lease.target
        if target is None:
            lease.revoked.clear()
            return True
        limit = self.settings.vision.load_timeout_seconds
        loaded = self._state == "running"
        if target.device is None:
            self._set("moving", target.reason, self._device)
            await worker.ask(UnloadModel(model=self.name), Done, timeout=limit)
            lease.moved()
            self._set("waiting", target.reason)
            return True
        self._set("moving", target.reason, self._device)
        try:
            if loaded:
                request = MoveModel(model=self.name, destination=self._destination(target.device))
                placed, _ = await worker.ask(request, Placed, timeout=limit)
            else:
                placed = await self._ask_load(worker, plan, target.device)
        except WorkerRefused as error:
            return await self._retreat(worker, plan, lease, str(error), loaded=loaded)
        lease.moved(placed.weights_bytes + (placed.activations_bytes or 0))
        self._landed(placed, plan, lease)
        return True

    async def _retreat(
        self, worker: WorkerHandle, plan: Plan, lease: Lease, why: str, *, loaded: bool
    ) -> bool:
        """The way to the new device is barred: to the CPU, or out."""
        limit = self.settings.vision.load_timeout_seconds
        if not self._manager.config.fallback_to_cpu:
            await worker.ask(UnloadModel(model=self.name), Done, timeout=limit)
            self._set("waiting", why)
            return False
        try:
            if loaded:
                request = MoveModel(model=self.name, destination=Destination(device="cpu"))
                placed, _ = await worker.ask(request, Placed, timeout=limit)
            else:
                placed = await self._ask_load(worker, plan, "cpu")
        except WorkerRefused as error:
            self._set("waiting", f"{why}; {error}")
            return False
        lease.move_failed(why)
        self._landed(placed, plan, lease)
        return True

    def _landed(self, placed: Placed, plan: Plan, lease: Lease) -> None:
        self._measured_bytes = None
        if placed.on_card:
            peak = placed.activations_bytes
            self._learned = Footprint(
                weights_bytes=placed.weights_bytes,
                activations_bytes=plan.need.activations_bytes if peak is None else peak,
                context_bytes=plan.need.context_bytes,
            )
            self._measured_bytes = self._learned.model_bytes
            lease.measured(self._learned)
        self._notes = (*((plan.note,) if plan.note else ()), *placed.notes)
        for note in placed.notes:
            log.warning("%s: %s", self.title, note)
        self._set("running", lease.reason, placed.device)
        log.info("%s (%s) runs on %s: %s", self.title, plan.model, placed.device, lease.reason)

    def _destination(self, device: str) -> Destination:
        if device == "cpu":
            return Destination(device="cpu")
        snapshot = self._manager.snapshot
        card = snapshot.device(device_index(device)) if snapshot else None
        simulated = self._manager.source == "simulated"
        if card is None:
            return Destination(device=device, simulated=simulated)
        return Destination(
            device=device,
            uuid=card.uuid,
            card=card.name,
            simulated=simulated,
            may_rehearse=self._manager.config.fallback_to_cpu,
            limit_bytes=self._manager.config.vision_limit_bytes(card.total_bytes),
        )
