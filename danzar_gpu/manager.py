"""GPUMemoryManager: the guide's API in front of probe, ledger, placement and poller.

Everything here runs on one event loop; only the probe's reads happen elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar, get_args

from danzar_gpu import advice, report
from danzar_gpu.admission import CLOSED, Admission, Facts, Policy, Ticket
from danzar_gpu.card_news import card_news
from danzar_gpu.choices import Choices
from danzar_gpu.config import GPUMemoryConfig, device_index
from danzar_gpu.fit import Fit, fit
from danzar_gpu.history import (
    Event,
    HistoryStore,
    Measurement,
    MoveRecord,
    Remembered,
    Sample,
)
from danzar_gpu.holders import Holding, Shares, holdings_of, shares_of
from danzar_gpu.learning import FootprintBook, LearnedReservation, PeakRecorder
from danzar_gpu.lease import AdmissionRefused, Lease
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Request
from danzar_gpu.llm_server import LlmServer, LlmServerState, with_servers_word
from danzar_gpu.memory import DeviceMemory, MemorySnapshot, gib
from danzar_gpu.monitor import MemoryMonitor, ProbeReader
from danzar_gpu.own_share import with_ours
from danzar_gpu.placement import Placement
from danzar_gpu.probes import MemoryProbe, ProbeError
from danzar_gpu.records import Records
from danzar_gpu.room import Room, can_use, configured_reservation, llm_held_bytes
from danzar_gpu.settling import LIMIT_SECONDS, Settled, Settlings

log = logging.getLogger(__name__)

Dated = TypeVar("Dated", Sample, Event)

CALM_LISTS_SECONDS = 60.0
TENSE_LISTS_SECONDS = 5.0
STORED_EVERY_SECONDS = 10.0
"""Under pressure readings come each second; the file needs fewer."""
PICTURE_POINTS = 600
"""A longer history is thinned out before it is read; the fullest readings stay."""
HISTORY_DAMAGED = "history-damaged"
"""The kind of event that tells what was lost with a damaged file."""
NOT_KEPT = (
    "The data folder can't be written: history and settings are kept in memory only; "
    "the log says why"
)
RELEARNED_BYTES = 256 * 1024**2
"""A learned reservation that changes by less is not worth a word."""


class GPUMemoryManager:
    """Sees what every process holds, keeps the main LLM's reservation free, places models.

    ``clock`` gives monotonic seconds, ``wall`` Unix time; both are injected so that tests and the
    simulator own time. ``store`` keeps history and learned footprints on disk.
    """

    def __init__(
        self,
        config: GPUMemoryConfig,
        probe: MemoryProbe,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        store: HistoryStore | None = None,
    ) -> None:
        self.config = config
        self.history: deque[MemorySnapshot] = deque(maxlen=config.history_samples)
        self.events: deque[Event] = deque(maxlen=500)
        self.last_error: str | None = None
        self._llm_server = LlmServer()
        self._llm_unheard = False
        """Whether only the LLM's server could say what the LLM holds, and does not."""
        self.learned_reservation: LearnedReservation | None = None
        """With ``main_llm_memory_reservation_gb: auto``: what was learned, and why."""
        self._store = store
        self._stored_at = float("-inf")
        self._configured = config
        self.choices = Choices(self, store, wall)
        """What people decided in chat; outlives a restart."""
        self._book = FootprintBook()
        self.records = Records(None if probe.source == "simulated" else store, wall)
        """Footprints, moves and latencies: what profiles are made of."""
        self._predicted: dict[str, int] = {}
        """What was last predicted for a model, in bytes."""
        self._peaks = PeakRecorder()
        self._samples: deque[Sample] = deque(maxlen=4 * config.history_samples)
        self._probe = probe
        self._clock = clock
        self._wall = wall
        self._reader = ProbeReader(probe, clock, config.probe_timeout_seconds)
        self._monitor = MemoryMonitor(self._poll, self._interval)
        self._admission = Admission(config, self._note, self._revoke)
        self._ledger = self._admission.ledger
        self._settlings = Settlings(self._ledger, self._told_settled)
        self._leases: dict[int, Lease] = {}
        self._raw: MemorySnapshot | None = None
        self._reading: asyncio.Task[MemorySnapshot] | None = None
        self._subscribers: list[Callable[[MemorySnapshot], None]] = []
        self._listeners: list[Callable[[Event], None]] = []
        self.failed_readings = 0
        """How often the probe could not be read since the start."""
        self.out_of_memory: Counter[str] = Counter()
        """By model, how often it ran out of memory on a card since the start."""
        self._alerts: set[str] = set()
        self._closed = False

    # Life

    async def start(self) -> None:
        """Take the first reading and begin polling, if the configuration says so."""
        if self._store is not None:
            self.remember(await asyncio.to_thread(self._store.open))
        with contextlib.suppress(ProbeError):  # noted as an event; the poller tries again
            await self.refresh(max_age=0)
        if self.config.enable_memory_monitoring:
            self._monitor.start()

    def remember(self, known: Remembered) -> None:
        """Go on from what an earlier run left behind; before the first reading."""
        self._book = FootprintBook(known.measurements)
        self._peaks = PeakRecorder(known.llm_peaks)
        self.choices.recall(known.choices)

    async def close(self) -> None:
        """Stop polling, refuse whoever waits and release every lease. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._monitor.stop()
        self._llm_server.forget()
        self._admission.close()
        for lease in tuple(self._leases.values()):
            self.release(lease)
        self._reader.close()
        self.records.flush()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

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
                "sooner while models are on cards, "
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
        return with_ours(self._raw, self._ledger).aged(self._clock())

    @property
    def reading_age(self) -> float | None:
        """Seconds since the newest reading; ``None`` before the first."""
        return None if self._raw is None else max(0.0, self._clock() - self._raw.taken_at)

    @property
    def llm_server(self) -> LlmServerState | None:
        """What the LLM's server last said, where ``main_llm_endpoint`` is set."""
        return self._llm_server.state

    @property
    def storage_trouble(self) -> str | None:
        """Why nothing is kept on disk at present; ``None``: all is well, or nothing shall be."""
        return self._store.trouble if self._store is not None else None

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

    def _interval(self) -> float:
        now = self._clock()
        calm = self._admission.interval(now)
        soon = self._settlings.poll_seconds(now)
        return calm if soon is None else min(calm, soon)

    async def _poll(self) -> None:
        await self._shared_read(processes=self._processes_due())

    def _processes_due(self) -> bool:
        """Lists are costly: rarely, and (in the probe) whenever a card's memory moved."""
        newest = self._raw
        if newest is None or newest.processes_read_at is None or self._settlings.open:
            return True
        now = self._clock()
        rarely = TENSE_LISTS_SECONDS if self._admission.is_tense(now) else CALM_LISTS_SECONDS
        return now - newest.processes_read_at >= rarely

    async def _read(self, *, processes: bool) -> MemorySnapshot:
        try:
            raw = await self._reader.read(processes=processes)
        except ProbeError as error:
            self.failed_readings += 1
            if self.last_error != error.cause:
                self._note("reading-failed", f"GPU memory can't be read: {error}", logging.WARNING)
            self.last_error = error.cause
            raise
        if self.last_error is not None:
            self.last_error = None
            self._note("reading-back", "GPU memory is read again")
        return self._accept(await self._with_servers_word(raw))

    def _accept(self, raw: MemorySnapshot) -> MemorySnapshot:
        for kind, text in card_news(self._raw, raw):
            self._note(kind, text, logging.WARNING if kind == "card-trouble" else logging.INFO)
        for text in self._store.news() if self._store is not None else ():
            self._note(HISTORY_DAMAGED, text, logging.DEBUG)  # the log has it already
        self._raw = raw
        snapshot = with_ours(raw, self._ledger)
        self.history.append(snapshot)
        self._learn(snapshot)
        for alert in advice.utilization_alerts(self._alerts, snapshot, self.config):
            if alert.raised:
                self._alerts.add(alert.key)
                self._note("high-utilization", alert.text, logging.WARNING)
            else:
                self._alerts.discard(alert.key)
                self._note("utilization-normal", alert.text)
        self._settlings.look(snapshot, self._clock())
        self._see_residues(snapshot)
        self._admission.observe(
            snapshot,
            self._clock(),
            may_move=self._monitor.running,
            llm_unheard=self._llm_unheard,
        )
        for lease in self.leases:
            if (need := lease.resized()) is not None:
                self._keep_footprint(lease, need, self._card_of(lease))
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(snapshot)
            except Exception:
                log.exception("a subscriber of GPU readings failed; the others go on")
        return snapshot

    async def _with_servers_word(self, raw: MemorySnapshot) -> MemorySnapshot:
        """Where the driver names no processes, what the LLM's server says it holds."""
        endpoint = self.config.main_llm_endpoint
        self._llm_unheard = False
        if endpoint is None:
            return raw
        known = await self._llm_server.hear(endpoint, self._clock())
        told, self._llm_unheard = with_servers_word(raw, known, self.config, self._ledger)
        return told

    def _learn(self, snapshot: MemorySnapshot) -> None:
        """Remember the LLM's peak; with ``auto`` its reservation follows."""
        device = snapshot.device(self.config.main_llm_index)
        held = llm_held_bytes(device, self.config) if device is not None else 0
        self._peaks.add(self._wall(), held)
        if device is not None and self.config.main_llm_memory_reservation_gb == "auto":
            before = self.learned_reservation
            learned = self._peaks.reservation(self.config, device.total_bytes)
            self.learned_reservation = learned
            self._admission.reservation_bytes = learned.size_bytes
            if before is None or abs(learned.size_bytes - before.size_bytes) >= RELEARNED_BYTES:
                self._note("reservation", f"kept free for the main LLM: {learned.reason}")
        samples = [
            Sample(
                self._wall(),
                d.uuid,
                d.total_bytes,
                d.free_bytes,
                d.allocated_bytes,
                held if d is device else 0,
                self.our_bytes(d),
            )
            for d in snapshot.devices
        ]
        self._samples.extend(samples)
        due = snapshot.taken_at - self._stored_at >= STORED_EVERY_SECONDS
        if self._store is not None and due and not snapshot.simulated:
            self._stored_at = snapshot.taken_at
            for sample in samples:
                self._store.sample(sample)

    def subscribe(self, callback: Callable[[MemorySnapshot], None]) -> Callable[[], None]:
        """Call ``callback`` with each new reading, on the event loop; returns the way out."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

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
        room = self.rooms().get(device_id)
        if room is None:
            known = ", ".join(str(d.index) for d in snapshot.devices) or "none"
            return False, f"Device {device_id} does not exist (devices here: {known})"
        return can_use(room, self.config)

    def get_memory_recommendations(self) -> list[str]:
        """What a person should know or do, in words."""
        snapshot = self._newest()
        found = advice.recommendations(snapshot, self.rooms(), self._best(), self.config)
        if self.storage_trouble is not None:
            found.append(NOT_KEPT)
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

    def our_bytes(self, device: DeviceMemory) -> int:
        """What our own workers hold on a card, by the driver's word or their own."""
        holders = self._ledger.known_holders(device.uuid)
        return sum(self._ledger.held_bytes(device, holder) for holder in holders)

    def context_bytes(self, device: DeviceMemory) -> int:
        """What of that is CUDA contexts: one for a process, however many models it has there."""
        holders = self._ledger.known_holders(device.uuid)
        return sum(self._ledger.held_context_bytes(device, holder) for holder in holders)

    def rooms(self) -> dict[int, Room]:
        """Each card's arithmetic: what is promised, to whom, and what is left."""
        self._newest()
        return self._admission.rooms(self._clock())

    @property
    def reservation_bytes(self) -> int:
        """What is kept for the main LLM in all: configured, chosen or learned."""
        learned = self._admission.reservation_bytes
        return configured_reservation(self.config) if learned is None else learned

    def shares(self) -> dict[int, Shares]:
        """Each card's memory split into the LLM's, ours, others' and free, by index."""
        rooms = self.rooms()
        return {i: shares_of(room, self.our_bytes(room.device)) for i, room in rooms.items()}

    def holdings(self) -> list[Holding]:
        """Every process that the driver names, card by card, the largest first."""
        snapshot = self._newest()
        devices = snapshot.devices if snapshot else ()
        return holdings_of(devices, self._ledger, self.config)

    def fit(self, need: Footprint, name: str = "the model", holder: str = "") -> Fit | None:
        """Whether a model would fit, where, and who would have to move; changes nothing.

        ``None`` before the first reading.
        """
        snapshot = self._newest()
        if snapshot is None:
            return None
        request = Request(name, need, holder)
        rooms, now = self.rooms(), self._clock()
        return fit(request, snapshot, rooms, self._ledger, self.config, now, self.reservation_bytes)

    async def samples(self, since: float) -> list[Sample]:
        """Readings since a Unix time, oldest first: from memory, and before that from the file.

        A file that can't be read shortens the answer; the log says why.
        """
        recent = [s for s in self._samples if s.at >= since]
        every = (self._wall() - since) / PICTURE_POINTS
        return await self._after_stored(recent, lambda store: store.samples(since, every))

    async def past_events(self, since: float) -> list[Event]:
        """What happened since a Unix time, oldest first; as ``samples``."""
        recent = [event for event in self.events if event.at >= since]
        return await self._after_stored(recent, lambda store: store.events(since))

    async def _after_stored(
        self, recent: list[Dated], read: Callable[[HistoryStore], list[Dated]]
    ) -> list[Dated]:
        """What memory has, after what the file has from before that."""
        if self._store is None or self.source == "simulated":
            return recent
        began = recent[0].at if recent else self._wall()
        try:
            stored = await asyncio.to_thread(read, self._store)
        except (OSError, sqlite3.Error) as error:
            log.warning("the history on disk can't be read: %s", error)
            stored = []
        return [*(one for one in stored if one.at < began), *recent]

    def parked(self, words: str) -> None:
        """Record that a holder gave memory back because it has nothing to do."""
        self._note("parked", words)

    def idle_contexts(self, holder: str) -> dict[str, int]:
        """Bytes of the CUDA contexts that a process holds on cards without a model, by UUID."""
        return self._ledger.idle_contexts(holder)

    def context_given_up(self, why: str) -> None:
        """Record that a holder's process ends so that its CUDA context goes back."""
        self._note("context-returned", why)

    def trimmed(self, words: str, record: MoveRecord) -> None:
        """Record that a holder gave unused memory back, and what it was worth."""
        self._note("trimmed", words)
        self.records.moved(record)

    def decided(self, words: str) -> None:
        """Record what a person decided, in words that name who."""
        self._note("decided", words)

    def _newest(self) -> MemorySnapshot | None:
        if self._raw is None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                # A plain script without an event loop: nothing to block.
                with contextlib.suppress(ProbeError):
                    self._raw = self._probe.read(self._clock(), processes=True)
                    self._admission.snapshot = self._raw
        return self.snapshot

    def _best(self) -> Placement:
        # Asked for no model in particular: the guide's threshold alone decides.
        return self._admission.place(Request("vision", Footprint()), self._clock())

    # Leases

    @property
    def leases(self) -> tuple[Lease, ...]:
        """What is granted now."""
        return tuple(self._leases.values())

    @property
    def waiting(self) -> tuple[str, ...]:
        """Who waits for a card, the next one first."""
        return self._admission.waiting

    @contextlib.asynccontextmanager
    async def lease(
        self,
        name: str,
        need: Footprint,
        *,
        model: str = "",
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
            model=model,
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
        model: str = "",
        holder: str = "",
        priority: int = 0,
        policy: Policy = "cpu",
        min_residency: float | None = None,
        timeout: float | None = None,
    ) -> Lease:
        """Admit a model.

        ``model`` names weights, precision, batch and image size: what was measured for it before
        replaces ``need``, the prediction.

        ``policy``: ``cpu`` takes a card, else the CPU; ``wait`` queues until a card has room, in
        order of priority, then arrival, for at most ``timeout`` seconds; ``fail`` takes a card or
        raises at once.

        Raises:
            AdmissionRefused: no device may be used (or not within ``timeout``, or the manager is
                closed), and why.
            ValueError: there is no such policy, or a part of ``need`` is negative.
        """
        if policy not in get_args(Policy):
            raise ValueError(f"there is no policy {policy!r}: {', '.join(get_args(Policy))}")
        if min(need.weights_bytes, need.activations_bytes, need.context_bytes) < 0:
            raise ValueError(f"{name} can't need less than nothing: {need}")
        predicted = need
        if model:
            self._predicted[model] = need.model_bytes
            need = self._recall(name, model, need)
        measured = bool(model) and self._book.expected(model) is not None
        request = Request(
            name, need, holder, priority, min_residency, predicted if measured else None
        )
        # Decided on a fresh reading: a minute ago the card may have been empty. If it can't be
        # read the old one's age counts against it.
        if not self._closed:
            with contextlib.suppress(ProbeError):
                await self.refresh(max_age=0.5)
        if self._closed:  # maybe while the cards were read
            raise AdmissionRefused(name, Placement(None, CLOSED))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(ticket: Ticket) -> None:
            if ticket.record is not None:
                self._leases[ticket.record.lease_id] = Lease(self, ticket.record, model)
            if not answer.done():
                answer.set_result(None)

        ticket = self._admission.ask(request, policy, self._clock(), settled, timeout)
        self._monitor.hurry()
        try:
            if ticket.open:
                await asyncio.wait({answer}, timeout=ticket.patience)
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        self._admission.give_up(ticket, self._clock())
        lease = self._leases.get(ticket.record.lease_id) if ticket.record is not None else None
        if lease is None:
            # Granted, and gone before whoever asked heard of it: the manager closed, or the holder
            # died.
            ended = Placement(
                None, CLOSED if self._closed else "it ended as soon as it was granted"
            )
            raise AdmissionRefused(name, ticket.refused or ended)
        return lease

    def expected_footprint(self, model: str, predicted: Footprint) -> Footprint:
        """What was measured for ``model``, a high percentile of it; else the prediction."""
        snapshot = self.snapshot
        device = snapshot.device(self.config.vision_index) if snapshot is not None else None
        return self._book.expected(model, device.name if device else None) or predicted

    def measured_as(self, models: Iterable[str]) -> str | None:
        """Under which of these names a model was measured last; ``None`` if it never was."""
        return self._book.newest_of(models)

    def _recall(self, name: str, model: str, predicted: Footprint) -> Footprint:
        """As ``expected_footprint``, and for each kind of card what was measured on that kind."""
        snapshot = self.snapshot
        for device in snapshot.devices if snapshot is not None else ():
            if self._book.knows(model, device.name):
                need = self._book.expected(model, device.name)
                if need is not None:
                    self._ledger.learn(name, device.uuid, need)
        return self.expected_footprint(model, predicted)

    def _withdraw(self, ticket: Ticket) -> None:
        """Whoever asked is gone: the lease that it may have got meanwhile is given back."""
        self._admission.withdraw(ticket, self._clock())
        if ticket.record is not None and (lease := self._leases.get(ticket.record.lease_id)):
            self.release(lease)

    def _revoke(self, record: LeaseRecord) -> None:
        self._leases[record.lease_id].revoked.set()
        self._monitor.hurry()

    def landed(self, lease: Lease, held_bytes: int | None) -> None:
        """For leases: the holder has arrived."""
        if (record := self._ledger.get(lease.lease_id)) is not None:
            lease.revoked.clear()
            if record.uuid != record.target_uuid:
                self._leaves(record)
            self._admission.landed(record, self._clock(), held_bytes)
            self._monitor.hurry()

    def move_failed(
        self, lease: Lease, why: str, *, unusable: bool, needed_bytes: int | None
    ) -> None:
        """For leases: the holder could not get where it was told to."""
        if (record := self._ledger.get(lease.lease_id)) is not None:
            wanted = record.target_device or record.device
            uuid = record.target_uuid if record.moving else record.uuid
            self._ran_out(lease, record, wanted, needed_bytes)
            if unusable and uuid is not None:
                self._ledger.bar(record.request, uuid, f"{wanted} failed: {why}")
            self._falls(lease, record, why)

    def refused(self, lease: Lease, why: str, *, unusable: bool, needed_bytes: int | None) -> None:
        """For leases: the card where it is won't have the model, which goes elsewhere anyway."""
        if (record := self._ledger.get(lease.lease_id)) is not None:
            self._ran_out(lease, record, record.device, needed_bytes)
            if unusable and record.uuid is not None:
                self._ledger.bar(record.request, record.uuid, f"{record.device} failed: {why}")

    def measured(self, lease: Lease, footprint: Footprint) -> None:
        """For leases: what the model really takes."""
        record = self._ledger.get(lease.lease_id)
        if record is None:
            return
        self._ledger.reached(record)
        log.info(
            "%s takes %.2fGB on %s (%.2fGB were expected)",
            lease.name,
            gib(footprint.total_bytes),
            lease.device,
            gib(record.request.need.total_bytes),
        )
        if record.uuid and (context := self._ledger.residue(lease.holder, record.uuid)):
            footprint = replace(footprint, context_bytes=context)
        device = self._card_of(lease)
        self._keep_footprint(lease, footprint, device)
        known = self._book.expected(lease.model, device.name) if device is not None else None
        # What it takes now may be less than what it has taken before, and will again.
        self._admission.measured(record, known or footprint, self._clock())

    def fell(self, lease: Lease, why: str, needed_bytes: int | None) -> None:
        """For leases: the holder ran out of memory there."""
        record = self._ledger.get(lease.lease_id)
        if record is None:
            return
        self._ran_out(lease, record, record.device, needed_bytes or 0)
        self._falls(lease, record, why)

    def _falls(self, lease: Lease, record: LeaseRecord, why: str) -> None:
        """To the CPU, whatever it was told before."""
        lease.revoked.clear()
        self._leaves(record)
        self._admission.move_failed(record, why, self._clock())

    def _ran_out(
        self, lease: Lease, record: LeaseRecord, where: str, needed_bytes: int | None
    ) -> None:
        """A card had no room for what a model needs: ask for that much from now on."""
        snapshot = self._raw
        if needed_bytes is None or snapshot is None or not where.startswith("cuda:"):
            return
        self.out_of_memory[lease.name] += 1
        device = snapshot.device(device_index(where))
        if device is None:
            return
        before = self._ledger.expected(record.request, device.uuid)
        more = self._admission.ran_out(record, device.uuid, needed_bytes)
        if more is None:
            return
        self._note(
            "footprint",
            f"{lease.name} ran out of memory on {where}: {gib(needed_bytes):.2f}GB are "
            f"asked for from now on, not {gib(before.model_bytes):.2f}GB",
            logging.WARNING,
        )
        self._keep_footprint(lease, more, device, fell=True)

    def _keep_footprint(
        self, lease: Lease, footprint: Footprint, device: DeviceMemory | None, *, fell: bool = False
    ) -> None:
        if device is None or device.source == "simulated" or not lease.model:
            return  # nothing was measured on a card
        predicted = self._predicted.get(lease.model)
        measured = Measurement(
            self._wall(), lease.model, device.name, footprint, predicted, fell=fell
        )
        self._book.add(measured)
        self.records.measured(measured)

    def _card_of(self, lease: Lease) -> DeviceMemory | None:
        """The card that a lease's model really is on, if something is to be learned of it."""
        record = self._ledger.get(lease.lease_id)
        if record is None or record.uuid is None or not lease.model:
            return None
        device = self.get_device_memory_info(device_index(record.device))
        return None if device is None or device.source == "simulated" else device

    def release(self, lease: Lease) -> None:
        """For leases: the right is given back. Idempotent."""
        if lease.released:
            return
        lease.released = True
        lease.revoked.set()  # its holder may be another than who gives it back
        self._leases.pop(lease.lease_id, None)
        if (record := self._ledger.get(lease.lease_id)) is not None:
            self._leaves(record)
            self._admission.release(record, self._clock())
            if not self._closed:
                self._monitor.hurry()

    # Memory on its way back

    def _see_residues(self, snapshot: MemorySnapshot) -> None:
        """What our processes hold where none of their models is any more: their contexts."""
        for device in snapshot.devices:
            coming_back = any(s.uuid == device.uuid for s in self._settlings.open)
            if device.source != "simulated" and not coming_back:
                self._ledger.see_residues(device)

    def _leaves(self, record: LeaseRecord, *, gone: bool = False) -> None:
        """Watch until the driver shows what a model leaves behind on its card."""
        if record.uuid is None or self._closed:
            return
        need = record.request.need
        self._settlings.begin(
            record.request.name,
            record.uuid,
            record.holder,
            need.model_bytes,
            need.context_bytes,
            self._raw,
            self._clock(),
            gone=gone,
        )

    def _told_settled(self, settled: Settled) -> None:
        level = logging.WARNING if settled.kind == "late" else logging.INFO
        self._note("not-returned" if settled.kind == "late" else "returned", settled.words, level)

    async def shown(self, name: str | None = None) -> Settled | None:
        """Wait until the driver shows what a model (or any) gave up; at most some seconds.

        The newest answer about it, ``None`` where there was nothing to wait for.
        """
        began = self._clock()
        while (delay := self._settlings.poll_seconds(self._clock())) is not None:
            if not self._settlings.waits_for(name):
                break
            with contextlib.suppress(ProbeError):
                await self._shared_read(processes=True)
            await asyncio.sleep(delay)
            if self._clock() - began > 2 * LIMIT_SECONDS:
                break
        about = (s for s in reversed(self._settlings.done) if name in (None, s.name))
        return next(about, None)

    # What people decide while it runs (``choices`` keeps it)

    def configure(self, **changes: object) -> None:
        """Use the configured values with these ``changes``; validated as a whole.

        Raises:
            pydantic.ValidationError: a value makes no sense; nothing was changed.
        """
        keys = self._configured.model_fields_set | changes.keys()
        values = {**self._configured.model_dump(include=keys), **changes}
        self.config = GPUMemoryConfig.model_validate(values)
        self._admission.use(self.config)
        if self.config.main_llm_memory_reservation_gb != "auto":
            self._admission.reservation_bytes = self.learned_reservation = None
        self._monitor.hurry()

    def reconfigure(self, config: GPUMemoryConfig) -> None:
        """Use another configuration from now on; what people chose in chat stays on top of it.

        Raises:
            pydantic.ValidationError: both together make no sense; nothing was changed.
        """
        before, self._configured = self._configured, config
        try:
            self.choices.apply()
        except ValueError:
            self._configured = before
            raise
        self._reader.time_limit = config.probe_timeout_seconds
        if config.main_llm_endpoint != before.main_llm_endpoint:
            self._llm_server.forget()
        if config.history_samples != before.history_samples:
            self.history = deque(self.history, maxlen=config.history_samples)
            self._samples = deque(self._samples, maxlen=4 * config.history_samples)
        if config.enable_memory_monitoring and not before.enable_memory_monitoring:
            self.start_monitoring()
        elif before.enable_memory_monitoring and not config.enable_memory_monitoring:
            self.stop_monitoring()

    def offload(self, name: str, why: str) -> None:
        """Send a model to the CPU, where it stays until ``restore``."""
        self._admission.keep_off(name, why, self._clock())
        self._monitor.hurry()

    def restore(self, name: str) -> list[Placement]:
        """Let a model back on a card; where its leases go now, or why they stay on the CPU."""
        found = self._admission.let_back(name, self._clock())
        self._monitor.hurry()
        return found

    # Holders

    def holder_memory(
        self,
        holder: str,
        pid: int,
        by_index: Mapping[int, tuple[int, int]],
        contexts: Mapping[int, int] | None = None,
    ) -> None:
        """What a holder's allocator says: (reserved, active) bytes by CUDA index.

        ``contexts`` has the bytes of its CUDA contexts, as far as it knows them: its word counts
        where the driver keeps no accounts of processes.
        """
        memory = HolderMemory(pid, dict(by_index), dict(contexts or {}))
        self._admission.holder_memory(holder, memory)

    def holder_gone(self, holder: str, why: str) -> None:
        """The process is dead: its leases are released at once."""
        for record in self._ledger:
            if record.holder == holder:
                self._leaves(record, gone=True)
        for record in self._admission.holder_gone(holder, why, self._clock()):
            if (lease := self._leases.pop(record.lease_id, None)) is not None:
                lease.released = True
                lease.revoked.set()
        self._monitor.hurry()

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call ``callback`` with each event from now on, on the event loop."""
        self._listeners.append(callback)

    def _note(
        self, kind: str, text: str, level: int = logging.INFO, facts: Facts | None = None
    ) -> None:
        found = {**facts, **self._free_bytes()} if facts else {}
        event = Event(self._wall(), kind, text, found)
        self.events.append(event)
        if self._store is not None and self.source != "simulated":
            self._store.event(event)
        log.log(level, "%s", text, extra={"event": kind, "facts": found})
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                # In the middle of a decision: a lease would be granted to nobody.
                log.exception("a listener of events failed; the others go on")

    def _free_bytes(self) -> dict[str, object]:
        """What was free on each card when something was decided."""
        devices = self._raw.devices if self._raw is not None else ()
        return {f"free_bytes_{d.index}": d.free_bytes for d in devices}
