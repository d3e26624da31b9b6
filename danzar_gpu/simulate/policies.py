"""The product as a policy, and the controls beside it."""

from __future__ import annotations

from danzar_gpu.admission import Admission, Ticket
from danzar_gpu.config import device_index
from danzar_gpu.idle_context import DWELL_SECONDS, ContextGuard
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Request
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.monitor import pause_seconds
from danzar_gpu.room import RELEASE_PATIENCE_SECONDS
from danzar_gpu.simulate.engine import Desk, Job, PolicyBase, Timer

RESTART_SECONDS = 3.0
"""From the end of a process of ours until the next one has imported torch and asks for models."""
CONTEXT_BYTES = 450 << 20
"""What the product expects of a CUDA context before the driver showed one."""


class DanzarPolicy(PolicyBase):
    """The product: its ``Admission``, fed as ``GPUMemoryManager`` feeds it, in virtual time."""

    name = "danzar"

    def start(self, desk: Desk) -> None:
        super().start(desk)
        self._admission = Admission(desk.config, self._note, self._revoke)
        self._records: dict[int, LeaseRecord] = {}
        self._tickets: dict[int, Ticket] = {}
        self._jobs: dict[int, Job] = {}
        self._poll_timer: Timer | None = None
        self._failures = 0
        self._guards: dict[str, ContextGuard] = {}
        self._guarding: Timer | None = None
        self._read()
        self._schedule(desk.now + self._admission.interval(desk.now))

    # Readings, as the monitor and the manager take them

    def _poll(self) -> None:
        self._poll_timer = None
        self._read()
        interval = self._admission.interval(self.desk.now)
        self._schedule(self.desk.now + pause_seconds(interval, self._failures))

    def _read(self) -> MemorySnapshot | None:
        snapshot = self.desk.read()
        if snapshot is None:
            self._failures += 1
            return None
        self._failures = 0
        for holder in {job.holder for job in self._jobs.values()}:
            held = self.desk.allocator(holder)
            memory = HolderMemory(self.desk.pid(holder), {i: (b, b) for i, b in held.items()})
            self._admission.holder_memory(holder, memory)
        self._admission.reservation_bytes = self.desk.reservation
        monitoring = self.desk.config.enable_memory_monitoring
        ledger = self._admission.ledger
        for device in snapshot.devices:
            if not ledger.departing_bytes(device, self.desk.now, RELEASE_PATIENCE_SECONDS):
                ledger.see_residues(device)
        self._admission.observe(snapshot, self.desk.now, may_move=monitoring)
        self._guard_contexts()
        return snapshot

    def _guard_contexts(self) -> None:
        """As the watchdog does: end a process for a context that nobody needs."""
        if self._guarding is not None:
            return
        watched = False
        for holder in {job.holder for job in self._jobs.values()}:
            contexts = self._admission.ledger.idle_contexts(holder)
            watched = watched or bool(contexts)
            if any(j.holder == holder and j.state != "running" for j in self._jobs.values()):
                continue
            guard = self._guards.setdefault(holder, ContextGuard())
            now = self.desk.now
            rooms = self._admission.rooms(now) if contexts else {}
            why = guard.due(contexts, rooms, self.desk.config, now)
            if why is not None:
                self._restart(holder, why)
        if watched:
            self._guarding = self.desk.call_at(self.desk.now + DWELL_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._guarding = None
        self._guard_contexts()

    def _restart(self, holder: str, why: str) -> None:
        self.desk.note(why)
        self.desk.restart(holder)
        gone = self._admission.holder_gone(holder, why, self.desk.now)
        for key, record in tuple(self._records.items()):
            if record in gone:
                del self._records[key]
        self.desk.call_at(self.desk.now + RESTART_SECONDS, lambda: self._ask_again(holder))

    def _ask_again(self, holder: str) -> None:
        self._read()
        for job in [job for job in self._jobs.values() if job.holder == holder]:
            if job.key not in self._tickets and job.key not in self._records:
                self._request(job)

    def _schedule(self, at: float) -> None:
        if not self.desk.config.enable_memory_monitoring:
            return
        if self._poll_timer is not None:
            if self._poll_timer.at <= at:
                return
            self._poll_timer.cancel()
        self._poll_timer = self.desk.call_at(at, self._poll)

    def _hurry(self) -> None:
        self._schedule(self.desk.now + self._admission.interval(self.desk.now))

    # What happens to models

    def asked(self, job: Job) -> None:
        self._jobs[job.key] = job
        self._read()
        self._request(job)

    def _request(self, job: Job) -> None:
        need = Footprint(weights_bytes=job.need_bytes, context_bytes=CONTEXT_BYTES)
        request = Request(job.name, need, job.holder, job.priority)
        ticket = self._admission.ask(
            request, "cpu", self.desk.now, lambda ticket: self._settled(job, ticket)
        )
        self._wait(job, ticket)
        self._hurry()

    def _wait(self, job: Job, ticket: Ticket) -> None:
        if ticket.open:
            self._tickets[job.key] = ticket
            if ticket.patience is not None:
                at = self.desk.now + ticket.patience
                self.desk.call_at(at, lambda: self._give_up(ticket))

    def _give_up(self, ticket: Ticket) -> None:
        if ticket.open:
            self._admission.give_up(ticket, self.desk.now)
            self._hurry()

    def _settled(self, job: Job, ticket: Ticket) -> None:
        self._tickets.pop(job.key, None)
        record = ticket.record
        if record is not None:
            self._records[job.key] = record
            self.desk.place(job, _card(record.device))
            return
        # The CPU is not allowed: as the services do, wait for a card.
        waiting = self._admission.ask(
            ticket.request, "wait", self.desk.now, lambda ticket: self._settled(job, ticket)
        )
        self._wait(job, waiting)

    def _revoke(self, record: LeaseRecord) -> None:
        for key, held in self._records.items():
            if held is record:
                self.desk.place(self._jobs[key], _card(record.target_device or "cpu"))
                self._hurry()
                return

    def landed(self, job: Job) -> None:
        record = self._records.get(job.key)
        if record is None:
            return
        now = self.desk.now
        if record.target_device is not None and _card(record.target_device) == job.device:
            held = job.measured.model_bytes if job.measured and job.device is not None else None
            self._admission.landed(record, now, held)
        if job.device is not None and job.measured is not None and not record.moving:
            self._admission.measured(record, job.measured, now)
        self._hurry()

    def failed(self, job: Job, why: str) -> None:
        record = self._records.get(job.key)
        if record is not None:
            snapshot = self._admission.snapshot
            if job.lacked is not None and snapshot is not None:
                index, needed = job.lacked
                if (card := snapshot.device(index)) is not None:
                    self._admission.ran_out(record, card.uuid, needed)
            self._admission.move_failed(record, why, self.desk.now)
            self._hurry()

    def ended(self, job: Job) -> None:
        self._jobs.pop(job.key, None)
        if (ticket := self._tickets.pop(job.key, None)) is not None:
            self._admission.withdraw(ticket, self.desk.now)
        if (record := self._records.pop(job.key, None)) is not None:
            self._admission.release(record, self.desk.now)
        self._hurry()

    def _note(self, kind: str, text: str, level: int, facts: object) -> None:
        if kind in ("placed", "revoked", "move-failed", "refused"):
            self.desk.note(text)


class StaticPolicy(PolicyBase):
    """A control: the configured ``vision_device``, whatever else is there. Never moves."""

    name = "static"

    def asked(self, job: Job) -> None:
        self.desk.place(job, self.desk.config.vision_index)


class CpuPolicy(PolicyBase):
    """A control: no card is ever used."""

    name = "cpu"


def _card(device: str) -> int | None:
    return device_index(device) if device.startswith("cuda:") else None
