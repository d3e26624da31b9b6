"""GPUMemoryManager: the guide's API in front of probe, ledger, placement and poller.

Everything here runs on one event loop; only the probe's reads happen elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from danzar_gpu import advice, report
from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.history import Event
from danzar_gpu.lease import AdmissionRefused, Lease
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Ledger, Request
from danzar_gpu.memory import DeviceMemory, GpuProcess, MemorySnapshot, gib
from danzar_gpu.monitor import MemoryMonitor, ProbeReader
from danzar_gpu.placement import Placement, Room, can_use, place, rebalance, rooms
from danzar_gpu.probes import MemoryProbe, ProbeError

log = logging.getLogger(__name__)

Policy = Literal["cpu", "wait", "fail"]
SETTLE_SECONDS = 10.0
"""How long a model with policy ``cpu`` waits for less important ones to leave its card."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that has to wait for room."""

    request: Request
    arrived: int
    granted: asyncio.Future[Lease]


class GPUMemoryManager:
    """Sees what every process holds, keeps the main LLM's reservation free, places models.

    ``clock`` gives monotonic seconds, ``wall`` Unix time; both are injected so that tests and the
    simulator own time.
    """

    def __init__(
        self,
        config: GPUMemoryConfig,
        probe: MemoryProbe,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.history: deque[MemorySnapshot] = deque(maxlen=config.history_samples)
        self.events: deque[Event] = deque(maxlen=500)
        self.last_error: str | None = None
        self._probe = probe
        self._clock = clock
        self._wall = wall
        self._reader = ProbeReader(probe, clock, config.probe_timeout_seconds)
        self._monitor = MemoryMonitor(self._poll, self._interval)
        self._ledger = Ledger()
        self._leases: dict[int, Lease] = {}
        self._waiters: list[_Waiter] = []
        self._arrivals = 0
        self._raw: MemorySnapshot | None = None
        self._reading: asyncio.Task[MemorySnapshot] | None = None
        self._subscribers: list[Callable[[MemorySnapshot], None]] = []
        self._alerts: set[str] = set()
        self._urgent_until = 0.0
        self._closed = False

    # Life

    async def start(self) -> None:
        """Take the first reading and begin polling, if the configuration says so."""
        with contextlib.suppress(ProbeError):  # noted as an event; the poller tries again
            await self.refresh(max_age=0)
        if self.config.enable_memory_monitoring:
            self._monitor.start()

    async def close(self) -> None:
        """Stop polling and release every lease. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._monitor.stop()
        for lease in tuple(self._leases.values()):
            self.release(lease)
        for waiter in self._waiters:
            waiter.granted.cancel()
        self._waiters.clear()
        self._reader.close()

    @property
    def monitoring_enabled(self) -> bool:
        """Whether the poller runs."""
        return self._monitor.running

    def start_monitoring(self) -> None:
        """Begin polling on the running event loop. Idempotent."""
        if not self._monitor.running:
            self._monitor.start()
            self._note(
                "monitoring",
                f"monitoring is on: every {self.config.memory_check_interval:g} seconds, "
                f"every {self.config.pressure_check_interval:g} when memory is tight",
            )

    def stop_monitoring(self) -> None:
        """Stop polling. Leases and admission go on; nobody is moved any more. Idempotent."""
        if self._monitor.running:
            self._monitor.stop()
            self._note("monitoring", "monitoring is off: models stay where they are")

    # Readings

    @property
    def source(self) -> str:
        """``nvml``, ``torch``, ``simulated`` or ``none``."""
        return self._probe.source

    @property
    def snapshot(self) -> MemorySnapshot | None:
        """The newest reading, with our own models in it, aged as of now."""
        if self._raw is None:
            return None
        return self._with_ours(self._raw).aged(self._clock())

    async def refresh(self, max_age: float = 1.0) -> MemorySnapshot:
        """A reading no older than ``max_age`` seconds; concurrent callers share one.

        Raises:
            ProbeError: it could not be read. The last one stays in ``snapshot`` with its age.
        """
        newest = self.snapshot
        if newest is not None and self._clock() - newest.taken_at < max_age:
            return newest
        return await self._shared_read(processes=True)

    async def _shared_read(self, *, processes: bool) -> MemorySnapshot:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(processes=processes), name="gpu-read")
        # One caller's cancellation must not cost the others their reading.
        return await asyncio.shield(self._reading)

    async def _poll(self) -> None:
        await self._shared_read(processes=self._processes_due())

    def _processes_due(self) -> bool:
        """Lists are costly: each minute, under pressure, and (in the probe) when memory moved."""
        newest = self._raw
        if newest is None or newest.processes_read_at is None:
            return True
        return self._urgent() or self._clock() - newest.processes_read_at >= 60.0

    async def _read(self, *, processes: bool) -> MemorySnapshot:
        try:
            raw = await self._reader.read(processes=processes)
        except ProbeError as error:
            if self.last_error != error.cause:
                self._note("reading-failed", f"GPU memory can't be read: {error}", logging.WARNING)
            self.last_error = error.cause
            raise
        if self.last_error is not None:
            self.last_error = None
            self._note("reading-back", "GPU memory is read again")
        return self._accept(raw)

    def _accept(self, raw: MemorySnapshot) -> MemorySnapshot:
        self._raw = raw
        snapshot = self._with_ours(raw)
        self.history.append(snapshot)
        for alert in advice.utilization_alerts(self._alerts, snapshot, self.config):
            if alert.raised:
                self._alerts.add(alert.key)
                self._note("high-utilization", alert.text, logging.WARNING)
            else:
                self._alerts.discard(alert.key)
                self._note("utilization-normal", alert.text)
        if self._monitor.running:
            self._rebalance(snapshot)
        self._serve_waiters()
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(snapshot)
            except Exception:
                log.exception("a subscriber of GPU readings failed; the others go on")
        return snapshot

    def subscribe(self, callback: Callable[[MemorySnapshot], None]) -> Callable[[], None]:
        """Call ``callback`` with each new reading, on the event loop; returns the way out."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def _interval(self) -> float:
        """Seconds to the next reading: short while something is tight, pending or moving."""
        if self._urgent():
            return self.config.pressure_check_interval
        return self.config.memory_check_interval

    def _urgent(self) -> bool:
        if self._waiters or self._clock() < self._urgent_until:
            return True
        if any(record.moving or record.better_since is not None for record in self._ledger):
            return True
        newest = self.snapshot
        if newest is None or not len(self._ledger):
            return False
        return advice.is_near_pressure(self._rooms(newest).values(), self.config)

    def _hurry(self) -> None:
        """Watch closely for a while: memory is about to change hands."""
        self._urgent_until = self._clock() + SETTLE_SECONDS
        self._monitor.hurry()

    def _with_ours(self, raw: MemorySnapshot) -> MemorySnapshot:
        """Fill in what only we know: our allocators' use, and on a simulated rig our models."""
        if not len(self._ledger):
            return raw
        return replace(raw, devices=tuple(self._own_share(device) for device in raw.devices))

    def _own_share(self, device: DeviceMemory) -> DeviceMemory:
        if device.source == "simulated":
            return self._simulated_share(device)
        processes: list[GpuProcess] = []
        idle = 0
        for process in device.processes or ():
            holder = self._ledger.holder_of(process.pid)
            memory = self._ledger.holder_memory(holder) if holder is not None else None
            reserved, active = memory.by_index.get(device.index, (0, 0)) if memory else (0, 0)
            if process.used_bytes is not None and reserved > active:
                unused = min(reserved - active, process.used_bytes)
                process = replace(process, active_bytes=process.used_bytes - unused)
                idle += unused
            processes.append(process)
        if not idle:
            return device
        return replace(
            device,
            processes=tuple(processes),
            allocated_bytes=max(0, device.allocated_bytes - idle),
        )

    def _simulated_share(self, device: DeviceMemory) -> DeviceMemory:
        held: list[GpuProcess] = []
        for holder in sorted(self._ledger.holders_on(device.uuid)):
            memory = self._ledger.holder_memory(holder)
            size = self._ledger.landed_bytes(device.uuid, holder)
            if memory is not None and size:
                held.append(GpuProcess(memory.pid, holder, size))
        ours = sum(p.used_bytes or 0 for p in held)
        if not ours:
            return device
        ours = min(ours, device.free_bytes)
        return replace(
            device,
            free_bytes=device.free_bytes - ours,
            allocated_bytes=device.allocated_bytes + ours,
            processes=(*(device.processes or ()), *held),
        )

    # The guide's API: each answers at once, from the newest reading

    def get_all_devices_memory_info(self) -> dict[int, DeviceMemory]:
        """Every card by its CUDA index, with the age of the reading."""
        snapshot = self._newest()
        return {d.index: d for d in snapshot.devices} if snapshot else {}

    def get_device_memory_info(self, device_id: int) -> DeviceMemory | None:
        """One card; ``None`` if there is no such card."""
        return self.get_all_devices_memory_info().get(device_id)

    def get_best_vision_device(self) -> tuple[str | None, str]:
        """(``"cuda:N"`` or ``"cpu"``, why); ``None`` where nothing may be used."""
        best = self._best()
        return best.device, best.reason

    def can_use_device_for_vision(self, device_id: int) -> tuple[bool, str]:
        """Whether vision may use this card now, and why (not)."""
        snapshot = self._newest()
        if snapshot is None:
            return False, "No reading of the GPUs yet"
        room = self._rooms(snapshot).get(device_id)
        if room is None:
            known = ", ".join(str(d.index) for d in snapshot.devices) or "none"
            return False, f"Device {device_id} does not exist (devices here: {known})"
        return can_use(room, self.config)

    def get_memory_recommendations(self) -> list[str]:
        """What a person should know or do, in words."""
        snapshot = self._newest()
        found = advice.recommendations(
            snapshot, self._rooms(snapshot) if snapshot else {}, self._best(), self.config
        )
        if self.last_error is None:
            return found
        kept = [line for line in found if line != advice.ALL_WELL]
        return [f"GPU memory can't be read now: {self.last_error}", *kept]

    def log_memory_status(self) -> None:
        """Write the status to the log, as ``!gpu status`` shows it."""
        snapshot = self._newest()
        devices = snapshot.devices if snapshot else ()
        text = report.status_text(
            devices,
            self.get_memory_recommendations(),
            self.source == "simulated",
            report.stale_note(devices),
        )
        log.info("%s", text)

    def rooms(self) -> dict[int, Room]:
        """Each card's arithmetic: what is promised, to whom, and what is left."""
        snapshot = self._newest()
        return self._rooms(snapshot) if snapshot else {}

    def _newest(self) -> MemorySnapshot | None:
        if self._raw is None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                # A plain script without an event loop: nothing to block.
                with contextlib.suppress(ProbeError):
                    self._raw = self._probe.read(self._clock(), processes=True)
        return self.snapshot

    def _best(self) -> Placement:
        # Asked for no model in particular: the guide's threshold alone decides.
        return self._place(Request("vision", Footprint()), may_evict=False)

    def _rooms(self, snapshot: MemorySnapshot) -> dict[int, Room]:
        return rooms(snapshot, self._ledger, self.config, self._clock())

    def _place(self, request: Request, *, may_evict: bool) -> Placement:
        return place(
            request, self._newest(), self._ledger, self.config, self._clock(), may_evict=may_evict
        )

    # Leases

    @property
    def leases(self) -> tuple[Lease, ...]:
        """What is granted now."""
        return tuple(self._leases.values())

    @contextlib.asynccontextmanager
    async def lease(
        self,
        name: str,
        need: Footprint,
        *,
        holder: str = "",
        priority: int = 0,
        policy: Policy = "cpu",
        min_residency: float | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Lease]:
        """``acquire`` for the length of an ``async with``."""
        lease = await self.acquire(
            name,
            need,
            holder=holder,
            priority=priority,
            policy=policy,
            min_residency=min_residency,
            timeout=timeout,
        )
        try:
            yield lease
        finally:
            lease.release()

    async def acquire(
        self,
        name: str,
        need: Footprint,
        *,
        holder: str = "",
        priority: int = 0,
        policy: Policy = "cpu",
        min_residency: float | None = None,
        timeout: float | None = None,
    ) -> Lease:
        """Admit a model.

        ``policy``: ``cpu`` takes a card, else the CPU; ``wait`` queues until a card has room, in
        order of priority, then arrival, for at most ``timeout`` seconds; ``fail`` takes a card or
        raises at once.

        Raises:
            AdmissionRefused: no device may be used (or not within ``timeout``), and why.
        """
        request = Request(name, need, holder, priority, min_residency)
        # Decided on a fresh reading: a minute ago the card may have been empty. If it can't be
        # read the old one's age counts against it.
        with contextlib.suppress(ProbeError):
            await self.refresh(max_age=0.5)
        placement = self._place(request, may_evict=True)
        if placement.evictions:
            return await self._after_evictions(request, placement, policy, timeout)
        if placement.uuid is not None and not self._someone_waits_before(request):
            return self._grant(request, placement)
        if policy == "wait":
            return await self._queue(request, timeout)
        if policy == "fail" or placement.device is None:
            self._note("refused", f"{name} was refused: {placement.reason}", logging.WARNING)
            raise AdmissionRefused(name, placement)
        return self._grant(request, placement)

    def _someone_waits_before(self, request: Request) -> bool:
        return any(w.request.priority >= request.priority for w in self._waiters)

    async def _after_evictions(
        self, request: Request, placement: Placement, policy: Policy, timeout: float | None
    ) -> Lease:
        """Ask the less important to leave, and wait until the driver shows their memory."""
        for lease_id in placement.evictions:
            victim = self._ledger.get(lease_id)
            if victim is not None and not victim.moving:
                elsewhere = place(
                    victim.request,
                    self.snapshot,
                    self._ledger,
                    self.config,
                    self._clock(),
                    exclude={victim.uuid} if victim.uuid else (),
                    may_evict=False,
                )
                reason = f"{request.name} is more important; {elsewhere.reason}"
                self._revoke(victim, replace(elsewhere, reason=reason))
        patience = timeout if policy == "wait" else SETTLE_SECONDS
        try:
            return await self._queue(request, patience)
        except AdmissionRefused:
            fallback = self._place(request, may_evict=False)
            if policy == "cpu" and fallback.device is not None:
                return self._grant(request, fallback)
            raise

    async def _queue(self, request: Request, timeout: float | None) -> Lease:
        self._arrivals += 1
        waiter = _Waiter(request, self._arrivals, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._waiters.sort(key=lambda w: (-w.request.priority, w.arrived))
        self._hurry()
        try:
            await asyncio.wait({waiter.granted}, timeout=timeout)
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                waiter.granted.result().release()  # nobody is there to take it any more
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if not waiter.granted.done():
                waiter.granted.cancel()
        if not waiter.granted.cancelled():
            return waiter.granted.result()
        if self._closed:
            raise AdmissionRefused(request.name, Placement(None, "the manager is closed"))
        placement = self._place(request, may_evict=False)
        reason = f"no card had room within {timeout or 0:g} s; {placement.reason}"
        raise AdmissionRefused(request.name, Placement(None, reason))

    def _serve_waiters(self) -> None:
        """Grant in order; whoever is first and doesn't fit holds up the rest, so none starves."""
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.granted.done():
                self._waiters.pop(0)
                continue
            placement = self._place(waiter.request, may_evict=False)
            if placement.uuid is None:
                return
            self._waiters.pop(0)
            waiter.granted.set_result(self._grant(waiter.request, placement))

    def _grant(self, request: Request, placement: Placement) -> Lease:
        device = placement.device or "cpu"
        record = self._ledger.grant(
            request, placement.uuid, device, placement.reason, self._clock()
        )
        lease = Lease(self, record)
        self._leases[record.lease_id] = lease
        self._note("placed", f"{request.name} goes to {device}: {placement.reason}")
        self._hurry()
        return lease

    def _rebalance(self, snapshot: MemorySnapshot) -> None:
        now = self._clock()
        plan = rebalance(snapshot, self._ledger, self.config, now)
        for record in self._ledger:
            if record.lease_id not in plan.waiting_to_return:
                record.better_since = None
            elif record.better_since is None:
                record.better_since = now
        for move in plan.moves:
            record = self._ledger.get(move.lease_id)
            if record is not None and not record.moving:
                self._revoke(record, move.placement)
        if plan.pressure:
            self._hurry()

    def _revoke(self, record: LeaseRecord, placement: Placement) -> None:
        where = placement.device or "none"
        if record.uuid is None and placement.uuid is None and placement.device is not None:
            return  # already on the CPU
        self._ledger.begin_move(record, placement.uuid, where, placement.reason, now=self._clock())
        self._note(
            "revoked",
            f"{record.request.name} leaves {record.device} for "
            f"{placement.device or 'nothing'}: {placement.reason}",
        )
        self._leases[record.lease_id].revoked.set()
        self._hurry()

    def landed(self, lease: Lease, held_bytes: int | None) -> None:
        record = self._ledger.get(lease.lease_id)
        if record is None or record.target_device is None:
            return
        origin = record.device
        self._ledger.land(record, self._clock())
        if held_bytes is not None and record.uuid is not None:
            need = record.request.need
            extra = max(0, held_bytes - need.model_bytes)
            grown = replace(need, activations_bytes=need.activations_bytes + extra)
            self._ledger.resize(record, grown)
        lease.revoked.clear()
        self._note("moved", f"{lease.name} moved from {origin} to {record.device}")
        self._serve_waiters()
        self._hurry()

    def move_failed(self, lease: Lease, why: str) -> None:
        record = self._ledger.get(lease.lease_id)
        if record is None:
            return
        wanted = record.target_device or record.device
        reason = f"{wanted} failed: {why}"
        self._ledger.begin_move(record, None, "cpu", reason, now=self._clock())
        self._ledger.land(record, self._clock())
        lease.revoked.clear()
        self._note("move-failed", f"{lease.name} falls to the CPU: {reason}", logging.WARNING)
        self._serve_waiters()

    def measured(self, lease: Lease, footprint: Footprint) -> None:
        record = self._ledger.get(lease.lease_id)
        if record is None:
            return
        before = record.request.need.total_bytes
        self._ledger.resize(record, footprint)
        log.info(
            "%s takes %.2fGB on %s (%.2fGB were expected)",
            lease.name,
            gib(footprint.total_bytes),
            lease.device,
            gib(before),
        )
        self._serve_waiters()

    def release(self, lease: Lease) -> None:
        if lease.released:
            return
        lease.released = True
        self._leases.pop(lease.lease_id, None)
        if self._ledger.release(lease.lease_id, self._clock()) is not None:
            self._note("released", f"{lease.name} gave back {lease.device}")
            self._serve_waiters()
            if not self._closed:
                self._hurry()

    # Holders

    def holder_memory(self, holder: str, pid: int, by_index: Mapping[int, tuple[int, int]]) -> None:
        """What a holder's allocator says: (reserved, active) bytes by CUDA index."""
        self._ledger.set_holder(holder, HolderMemory(pid, dict(by_index)))

    def holder_gone(self, holder: str, why: str) -> None:
        """The process is dead: its leases are released at once."""
        gone = self._ledger.drop_holder(holder, self._clock())
        for record in gone:
            lease = self._leases.pop(record.lease_id, None)
            if lease is not None:
                lease.released = True
                lease.revoked.set()
        if gone:
            names = ", ".join(record.request.name for record in gone)
            self._note("holder-gone", f"{holder} is gone ({why}): {names} released")
            self._serve_waiters()
            self._hurry()

    def _note(self, kind: str, text: str, level: int = logging.INFO) -> None:
        self.events.append(Event(self._wall(), kind, text))
        log.log(level, "%s", text)
