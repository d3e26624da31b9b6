"""A vision model as the bot process sees it: lease, load, follow the manager, unload.

The model itself lives in the worker; no torch here. ``yolo.py`` and ``clip.py`` say what is
loaded and how much it will need.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from bot.settings import Settings
from bot.vision.model_files import FileRefused
from bot.vision.reports import FrameReport
from bot.vision.second_look import SecondLook
from bot.vision.setbacks import TOO_MANY, Setbacks
from bot.vision.worker.handle import Answer, WorkerGone, WorkerHandle, WorkerRefused
from bot.vision.worker.protocol import (
    CallOff,
    ClipSpec,
    Computing,
    Destination,
    Done,
    LoadModel,
    ModelBroke,
    ModelFell,
    ModelName,
    MoveModel,
    Parked,
    ParkModel,
    Placed,
    Progress,
    Request,
    UnloadModel,
    Wanted,
    YoloSpec,
)
from danzar_gpu import AdmissionRefused, Footprint, GPUMemoryManager, Lease
from danzar_gpu.config import device_index
from danzar_gpu.history import MoveKind, MoveRecord
from danzar_gpu.memory import gib

log = logging.getLogger(__name__)

HOLDER = "vision-worker"
"""Both models live in one process: the manager counts its CUDA context once."""
CONTEXT_BYTES = 450 << 20
"""What a process's CUDA context and torch's kernels take, until the driver says better."""
RETRY_SECONDS = 5.0
IDLE_PERIODS = 3
"""Who is due for a picture now and then is not idle in between."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SIMULATED = " (simulated)"
REHEARSED = " (rehearsed on the CPU)"
"""torch can't use the card: what is timed is not the card's doing."""
CPU = "CPU"
"""In place of a card's name."""

ServiceState = Literal["off", "waiting", "loading", "running", "moving", "parked", "failed"]


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
    """Without the CUDA context, which a process's models share; so is the next."""
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

    def key(self, precision: str) -> str:
        """What a measured footprint belongs to: model, precision, image size and batch."""
        size = self.spec.image_size if isinstance(self.spec, YoloSpec) else None
        pixels = f" {size}px" if size else ""
        return f"{self.model} {precision}{pixels} x{self.spec.batch_size}"


def precision_of(backend: str) -> str:
    """``fp16`` from what the worker calls its backend: ``torch f16``; single where it is silent."""
    found = re.search(
        r"(?<![a-z])(bf16|bfloat16|fp?16|float16|half|int8|i8)(?!\d)", backend.lower()
    )
    if found is None:
        return "fp32"
    word = found[1]
    return "bf16" if word.startswith("b") else "int8" if word.endswith("8") else "fp16"


class ModelService(ABC):
    """One model's life. Runs on the event loop; ``run`` is restarted with each worker."""

    name: ClassVar[ModelName]
    title: ClassVar[str]
    priority: ClassVar[int]

    def __init__(
        self,
        settings: Settings,
        manager: GPUMemoryManager,
        clock: Callable[[], float] = time.monotonic,
        *,
        second_look: SecondLook | None = None,
    ) -> None:
        self.settings = settings
        self._manager = manager
        self._second_look = second_look or SecondLook()
        self._clock = clock
        self._state: ServiceState = "off"
        self._model = ""
        self._device: str | None = None
        self._reason = ""
        self._notes: tuple[str, ...] = ()
        self._progress = ""
        self._predicted: Footprint | None = None
        self._measured_bytes: int | None = None
        self._learned: Footprint | None = None
        self._key = ""
        """What footprints, moves and latencies are kept under."""
        self._device_name = CPU
        self._rehearsed = False
        self._in_worker = False
        """Whether the worker has it, parked or at work."""
        self._stay = 0
        """The number of its stay where it was put last."""
        self._due = asyncio.Event()
        """Set when a parked model is wanted."""
        self._milliseconds: deque[float] = deque(maxlen=200)
        self._frames = 0
        self._ran_at: float | None = None
        self._landed_at = 0.0
        self._trouble: asyncio.Queue[ModelFell | ModelBroke] = asyncio.Queue()
        self.setbacks = Setbacks()
        """How often it broke at its work."""
        self.may_rest = True
        """Whether it may be parked; not where each frame of a film has to be seen."""
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
            predicted_bytes=self._predicted.model_bytes if self._predicted else 0,
            measured_bytes=self._measured_bytes,
            progress=self._progress,
            milliseconds_p50=statistics.median(self._milliseconds) if self._milliseconds else None,
            frames=self._frames,
            idle_seconds=None if self._ran_at is None else self._clock() - self._ran_at,
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
        if state in ("off", "waiting", "running", "parked", "failed"):
            self.settled.set()
        else:
            self.settled.clear()

    # --- what the worker tells ----------------------------------------------------------------

    def heard(self, event: Progress | ModelFell | ModelBroke | Wanted) -> None:
        if isinstance(event, Progress):
            self._progress = f"{event.text} ({event.fraction:.0%})"
        elif isinstance(event, Wanted):
            self._due.set()
        else:
            self._trouble.put_nowait(event)

    def saw(self, report: FrameReport) -> None:
        if self.name in report.devices:
            self._frames += 1
            self._ran_at = self._clock()
            milliseconds = report.milliseconds.get(self.name, 0.0)
            self._milliseconds.append(milliseconds)
            self._manager.records.frame(self._key, self._device_name, milliseconds)

    async def wake(self) -> None:
        """Bring a parked model back before a picture asks for it; returns when it is there."""
        if self._state == "parked":
            self.settled.clear()
            self._due.set()
            await self.settled.wait()

    async def returned(self) -> bool:
        """Wait while a parked model comes back to a picture; whether that was so."""
        if not self._due.is_set() or self._state not in ("parked", "moving"):
            return False
        if self._state == "parked":
            self.settled.clear()
        await self.settled.wait()
        return True

    def stopped(self) -> None:
        """The worker is gone or vision was stopped."""
        if self._state != "failed":
            self._set("off", "")
        self._device = None
        self._in_worker = False
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
        self._predicted = plan.need
        keys = [plan.key(precision) for precision in PRECISIONS]
        self._key = self._manager.measured_as(keys) or keys[0]
        try:
            while await self._hold(worker, plan):
                pass
        except WorkerGone:
            self.settled.set()  # nothing is loaded any more; the pipeline sees to the rest
        except TimeoutError:
            limit = self.settings.vision.load_timeout_seconds
            self._set("failed", f"the model was not ready in {limit:g} s")
            await worker.kill(f"{self.title} was not ready in {limit:g} s")

    async def unload(self, worker: WorkerHandle) -> None:
        """Take the model out of the worker and give the lease back."""
        try:
            await self._ask(worker, UnloadModel(model=self.name), Done)
        except WorkerGone:
            pass
        except (WorkerRefused, TimeoutError) as error:
            # Its memory goes with the process, and its lease then.
            await worker.kill(f"{self.title} could not be unloaded: {str(error) or 'no answer'}")
        self._in_worker = False
        for lease in self._manager.leases:
            if lease.name == self.name and lease.holder == HOLDER:
                lease.release()
        self._set("off", "unloaded on request")

    async def _ask(self, worker: WorkerHandle, request: Request, answer: type[Answer]) -> Answer:
        """Ask the worker for something that takes as long as loading.

        Raises:
            WorkerRefused: it is on no card now, and the worker has it no more if something
                unexpected was the matter.
            WorkerGone, TimeoutError: as ``WorkerHandle.ask``.
        """
        limit = self.settings.vision.load_timeout_seconds
        try:
            reply, _ = await worker.ask(request, answer, timeout=limit)
        except WorkerRefused as error:
            if error.refusal.about == "other":
                self._in_worker = False
            raise
        return reply

    async def _hold(self, worker: WorkerHandle, plan: Plan) -> bool:
        """From a lease to its end; whether another one is to be asked for."""
        lease = await self._acquire(plan)
        try:
            self._set("loading", lease.reason, lease.device)
            if await self._load(worker, plan, lease):
                return await self._stay_with(worker, plan, lease)
            return await self._later(lease)
        except WorkerRefused as error:
            lease.release()
            if error.refusal.about == "other":  # an error that nobody thought of
                return await self._again(str(error))
            if self._in_worker:
                # No film shall wait for it to come back.
                await self._ask(worker, UnloadModel(model=self.name), Done)
                self._in_worker = False
            self._set("failed", str(error))
            return False

    async def _stay_with(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> bool:
        """Go where the lease goes until one of them ends; as ``_hold``."""
        while not lease.released:
            event = await self._next(lease)
            if lease.released:
                break
            if isinstance(event, ModelBroke):
                self._in_worker = False
                lease.release()
                return await self._again(event.words)
            if isinstance(event, ModelFell) and event.device is None:
                self._in_worker = False
                self._set("waiting", event.words)
                lease.fell(event.words, event.needed_bytes)
                return await self._later(lease)
            if isinstance(event, ModelFell):
                self._record("offload", lease.device, event.device or "", 0.0, event.words)
                lease.fell(event.words, event.needed_bytes)
                self._device_name = CPU
                self._set("running", event.words, event.device)
                continue
            if event == "idle":
                await self._park(worker, lease)
                lease.release()
                await self._due.wait()
                return True
            if not await self._follow(worker, plan, lease):
                return await self._later(lease)
        return False

    async def _later(self, lease: Lease) -> bool:
        """It could stay nowhere: after a pause another lease is to be asked for."""
        lease.release()
        await asyncio.sleep(RETRY_SECONDS)
        return True

    async def _again(self, words: str) -> bool:
        """The model broke at its work: whether, after a pause, it is to be loaded once more."""
        delay = self.setbacks.one_more(self._clock())
        if delay is None:
            prefix = self.settings.discord.prefix
            retry = f"`{prefix}vision stop` and `{prefix}vision start` try again"
            self._set("failed", f"{TOO_MANY}: {words}; {retry}")
            return False
        self._set("waiting", f"{words}; it is loaded again in {delay:g} s")
        log.warning("%s: %s", self.title, self._reason)
        await asyncio.sleep(delay)
        return True

    async def _park(self, worker: WorkerHandle, lease: Lease) -> None:
        """Nothing was to be seen for long: the card's memory goes back, the host copy stays."""
        self._due.clear()
        parked = await self._ask(worker, ParkModel(model=self.name), Parked)
        size, idle = self._measured_bytes or 0, _duration(self._idle_for())
        held = f"{gib(size):.2f}GB of " if size else ""
        self._record("park", lease.device, "", parked.seconds, f"idle for {idle}")
        self._manager.parked(f"{self.name} was idle for {idle}: {held}{lease.device} goes back")
        self._set("parked", f"idle for {idle}; it returns with the next new picture")

    def _idle_patience(self) -> float:
        """Seconds without a picture after which it is parked; 0: never.

        Some periods at least: who was woken for a picture must have come to see it.
        """
        wish = self.settings.vision.idle_release_seconds if self.may_rest else 0.0
        section = self.settings.yolo if self.name == "yolo" else self.settings.clip
        period = 1 / min(section.processing_fps, self.settings.capture.fps)
        return max(wish, IDLE_PERIODS * period) if wish else 0.0

    def _idle_for(self) -> float:
        """Seconds since it saw a picture, or since it came."""
        return self._clock() - max(self._landed_at, self._ran_at or self._landed_at)

    async def _acquire(self, plan: Plan) -> Lease:
        """Room for what was measured, here or in an earlier run, else for what is predicted."""
        self._set("moving" if self._in_worker else "loading", "asking for room")
        # Measured footprints are the manager's to remember: it wants to name the prediction, too.
        ask = functools.partial(
            self._manager.acquire,
            self.name,
            plan.need,
            model=self._key,
            holder=HOLDER,
            priority=self.priority,
        )
        try:
            lease = await ask(policy="cpu")
        except AdmissionRefused as error:
            # The CPU is not allowed: wait until a card has room.
            self._set("waiting", str(error))
            lease = await ask(policy="wait")
        lease.on_resized = self._resized
        return lease

    def _resized(self, need: Footprint) -> None:
        """The manager saw it take more than was leased."""
        self._measured_bytes = need.model_bytes

    async def _load(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> bool:
        """Load on the leased device, or on the CPU if that card turns out not to do; ``False`` when
        it can stay nowhere.

        Raises:
            WorkerRefused: it can't be loaded at all.
        """
        kind: MoveKind = "restore" if self._in_worker else "load"
        try:
            placed = await self._put_unless_revoked(worker, plan, lease)
        except WorkerRefused as error:
            if error.refusal.about == "called_off":
                self._in_worker = True  # in host memory; its lease says where to
                return True
            about = error.refusal.about
            elsewhere = about in ("place", "process", "memory") and lease.device != "cpu"
            if not elsewhere:
                raise
            unusable, needed = self._unusable(error, lease.uuid), error.refusal.needed_bytes
            if lease.target is not None and lease.target.device is not None:
                # It was told to leave that card meanwhile.
                log.info("%s goes on: %s", self.title, error)
                lease.refused(str(error), unusable=unusable, needed_bytes=needed)
                return True
            lease.move_failed(str(error), unusable=unusable, needed_bytes=needed)
            if not self._manager.config.fallback_to_cpu:
                self._set("waiting", str(error))
                return False
            log.warning("%s goes to the CPU: %s", self.title, error)
            placed = await self._put(worker, plan, "cpu")
        self._landed(placed, plan, lease)
        self._record(kind, "", lease.device, placed.seconds, lease.reason, _size(placed))
        return True

    async def _put_unless_revoked(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> Placed:
        """Where the lease is; a revocation on the way keeps the model off that card."""
        putting = asyncio.ensure_future(self._put(worker, plan, lease.device))
        revoked = asyncio.ensure_future(lease.revoked.wait())
        try:
            await asyncio.wait((putting, revoked), return_when=asyncio.FIRST_COMPLETED)
            if not putting.done() and lease.device != "cpu":
                with contextlib.suppress(WorkerGone, TimeoutError):
                    await self._ask(worker, CallOff(model=self.name), Done)
            return await putting
        finally:
            revoked.cancel()
            putting.cancel()

    async def _put(self, worker: WorkerHandle, plan: Plan, device: str) -> Placed:
        """Where it shall be: from the worker's own copy if it has one, else from its file."""
        if self._in_worker:
            request = MoveModel(model=self.name, destination=self._destination(device))
        else:
            request = self.load_request(plan, device)
        placed = await self._ask(worker, request, Placed)
        self._in_worker, self._stay = True, placed.stay
        return placed

    def load_request(self, plan: Plan, device: str) -> LoadModel:
        """What the worker is asked for: ``danzar bench`` asks for the same."""
        return LoadModel(
            spec=plan.spec.model_copy(update={"computing": self._computing}),
            destination=self._destination(device),
            may_fall_to_cpu=self._manager.config.fallback_to_cpu,
        )

    @property
    def _computing(self) -> Computing:
        vision = self.settings.vision
        return Computing(
            backend=vision.backend,
            cuda_graphs=vision.cuda_graphs,
            cache_folder=str(Path(self.settings.data.folder).absolute() / "models"),
        )

    async def _next(self, lease: Lease) -> ModelFell | ModelBroke | Literal["revoked", "idle"]:
        """The next thing that happens: the worker's trouble, a revocation, or nothing for long."""
        revoked = asyncio.ensure_future(lease.revoked.wait())
        trouble = asyncio.ensure_future(self._trouble.get())
        patience = self._idle_patience()
        try:
            while True:
                parkable = patience and lease.device != "cpu" and self._state == "running"
                left = patience - self._idle_for() if parkable else None
                if left is not None and left <= 0:
                    return "idle"
                await asyncio.wait(
                    (revoked, trouble), timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if trouble.done():
                    if (event := trouble.result()).stay == self._stay:
                        return event
                    # It was told of where the model was before it was sent on.
                    trouble = asyncio.ensure_future(self._trouble.get())
                    continue
                if revoked.done():
                    return "revoked"
        finally:
            for future in (revoked, trouble):
                future.cancel()

    async def _follow(self, worker: WorkerHandle, plan: Plan, lease: Lease) -> bool:
        """Go where the lease points to; ``False`` when the model could not stay anywhere."""
        target = lease.target
        if target is None:
            lease.revoked.clear()
            return True
        origin = lease.device
        self._set("moving", target.reason, self._device)
        if target.device is None:
            await self._give_up_place(worker, origin, target.reason)
            lease.moved()
            self._set("waiting", target.reason)
            return True
        try:
            placed = await self._put(worker, plan, target.device)
        except WorkerRefused as error:
            return await self._retreat(worker, plan, lease, error)
        lease.moved(_size(placed))
        self._landed(placed, plan, lease)
        kind = _kind(origin, target.device)
        self._record(kind, origin, target.device, placed.seconds, target.reason, _size(placed))
        return True

    async def _give_up_place(self, worker: WorkerHandle, origin: str, why: str) -> None:
        """Off the card with nowhere to go: the worker keeps the host copy for the way back."""
        parked = await self._ask(worker, ParkModel(model=self.name), Parked)
        self._record("park", origin, "", parked.seconds, why)

    async def _retreat(
        self, worker: WorkerHandle, plan: Plan, lease: Lease, barred: WorkerRefused
    ) -> bool:
        """The way to the new device is barred: to the CPU, or out."""
        why, needed = str(barred), barred.refusal.needed_bytes
        unusable = self._unusable(barred, lease.target.uuid if lease.target else None)
        if not self._manager.config.fallback_to_cpu:
            if self._in_worker:
                await self._give_up_place(worker, lease.device, why)
            lease.move_failed(why, unusable=unusable, needed_bytes=needed)
            self._set("waiting", why)
            return False
        origin = lease.device
        lease.move_failed(why, unusable=unusable, needed_bytes=needed)
        try:
            placed = await self._put(worker, plan, "cpu")
        except WorkerRefused as error:
            self._set("waiting", f"{why}; {error}")
            return False
        self._landed(placed, plan, lease)
        self._record(_kind(origin, "cpu"), origin, "cpu", placed.seconds, why, _size(placed))
        return True

    def _unusable(self, barred: WorkerRefused, uuid: str | None) -> bool:
        """Whether it is the card that won't do, whatever room it has."""
        if barred.refusal.about == "process" and uuid is not None:
            self._second_look.refused(uuid, str(barred), self._clock())
        return barred.refusal.about in ("place", "process")

    def _landed(self, placed: Placed, plan: Plan, lease: Lease) -> None:
        self._landed_at = self._clock()
        self._measured_bytes = None
        if placed.backend or placed.on_card:
            self._key = plan.key(precision_of(placed.backend))
        if lease.device.startswith("cuda:"):
            self._rehearsed = not placed.on_card
        card = self._card_name(lease.device)
        self._device_name = card if placed.on_card or card.endswith(SIMULATED) else CPU
        if placed.on_card:
            if lease.uuid is not None:
                self._second_look.landed(lease.uuid)
            peak = placed.activations_bytes
            self._learned = Footprint(
                weights_bytes=placed.weights_bytes,
                activations_bytes=plan.need.activations_bytes if peak is None else peak,
                context_bytes=plan.need.context_bytes,
            )
            self._measured_bytes = self._learned.model_bytes
            lease.model = self._key
            lease.measured(self._learned)
        self._notes = (*((plan.note,) if plan.note else ()), *placed.notes)
        for note in placed.notes:
            log.warning("%s: %s", self.title, note)
        self._set("running", lease.reason, placed.device)
        log.info("%s (%s) runs on %s: %s", self.title, plan.model, placed.device, lease.reason)

    def _record(
        self,
        kind: MoveKind,
        origin: str,
        target: str,
        seconds: float,
        reason: str,
        size: int | None = None,
    ) -> None:
        """For the profile: what was done, under the name of the card that it was about."""
        card = next((d for d in (target, origin) if d.startswith("cuda:")), "")
        self._manager.records.moved(
            MoveRecord(
                at=time.time(),
                model=self._key,
                device_name=self._card_name(card),
                kind=kind,
                from_device=origin,
                to_device=target,
                seconds=seconds,
                bytes=self._measured_bytes or 0 if size is None else size,
                reason=reason,
            )
        )

    def _card_name(self, device: str) -> str:
        """``RTX 4070``, or ``CPU``; a scripted rig's cards are called simulated."""
        snapshot = self._manager.snapshot
        if not device.startswith("cuda:") or snapshot is None:
            return CPU
        card = snapshot.device(device_index(device))
        name = card.name if card is not None else device
        if snapshot.simulated:
            return name + SIMULATED
        return name + REHEARSED if self._rehearsed else name

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


def _size(placed: Placed) -> int:
    return placed.weights_bytes + (placed.activations_bytes or 0)


def _kind(origin: str, target: str) -> MoveKind:
    """What going from one device to another is called."""
    if not target.startswith("cuda:"):
        return "offload"
    return "move" if origin.startswith("cuda:") else "restore"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
