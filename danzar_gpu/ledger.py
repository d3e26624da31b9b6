"""Who holds what: the only state that admission changes. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from danzar_gpu.memory import GIB, DeviceMemory

SETTLED_SECONDS = 600.0
"""Whoever stayed this long on a card was not sent away "soon after it came"."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model needs on a device, in bytes."""

    weights_bytes: int = 0
    activations_bytes: int = 0
    """Peak beyond the weights while it runs."""
    context_bytes: int = 0
    """The CUDA context and its kernels: once for a process and a device, not once a model."""

    @property
    def model_bytes(self) -> int:
        return self.weights_bytes + self.activations_bytes

    @property
    def total_bytes(self) -> int:
        return self.model_bytes + self.context_bytes

    @classmethod
    def of_gb(cls, size_gb: float) -> Footprint:
        """A model of ``size_gb`` GiB in all."""
        return cls(weights_bytes=int(size_gb * GIB))


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to put on a device."""

    name: str
    need: Footprint
    holder: str = ""
    """The process that will hold the memory; its CUDA context is counted once a device."""
    priority: int = 0
    """The higher, the longer it stays."""
    min_residency: float | None = None
    """Seconds; ``None`` takes the configured value."""


@dataclass(slots=True)
class LeaseRecord:
    """One granted lease. ``uuid`` is ``None`` on the CPU."""

    lease_id: int
    request: Request
    uuid: str | None
    device: str
    reason: str
    landed_at: float
    target_uuid: str | None = None
    target_device: str | None = None
    target_reason: str = ""
    left_at: dict[str, float] = field(default_factory=dict[str, float])
    """When it last had to leave a card, by UUID: the cooldown counts from there."""
    expulsions: dict[str, int] = field(default_factory=dict[str, int])
    """How often in a row it had to leave a card soon after it came: the cooldown doubles."""
    better_since: float | None = None
    """Since when a better device than the present one has had room."""

    @property
    def holder(self) -> str:
        return self.request.holder

    @property
    def moving(self) -> bool:
        return self.target_device is not None

    def occupies(self, uuid: str) -> bool:
        """Whether it counts on this card: where it is, and where it is going."""
        return uuid in (self.uuid, self.target_uuid)


@dataclass(frozen=True, slots=True)
class HolderMemory:
    """What a holder's own allocator says it holds, by CUDA index: (reserved, active) bytes."""

    pid: int
    by_index: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Departure:
    """Bytes on their way back to the driver, which shows them late."""

    uuid: str
    holder: str
    size_bytes: int
    at: float


class Ledger:
    """Leases and holders. The manager alone changes it, on the event loop."""

    def __init__(self) -> None:
        self._leases: dict[int, LeaseRecord] = {}
        self._holders: dict[str, HolderMemory] = {}
        self._departures: list[Departure] = []
        self._ids = count(1)
        self.kept_off: dict[str, str] = {}
        """Names of models that stay on the CPU until somebody says otherwise, and why."""

    def __iter__(self) -> Iterator[LeaseRecord]:
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def copy(self) -> Ledger:
        """The same leases, to plan with: changes to it change nothing here."""
        twin = Ledger()
        twin._leases = {
            key: replace(r, left_at=dict(r.left_at), expulsions=dict(r.expulsions))
            for key, r in self._leases.items()
        }
        twin._holders = dict(self._holders)
        twin._departures = list(self._departures)
        twin.kept_off = dict(self.kept_off)
        return twin

    def get(self, lease_id: int) -> LeaseRecord | None:
        return self._leases.get(lease_id)

    def grant(
        self, request: Request, uuid: str | None, device: str, reason: str, now: float
    ) -> LeaseRecord:
        record = LeaseRecord(next(self._ids), request, uuid, device, reason, now)
        self._leases[record.lease_id] = record
        return record

    def release(self, lease_id: int, now: float) -> LeaseRecord | None:
        """Forget a lease; what it held departs. ``None`` if it was gone already."""
        record = self._leases.pop(lease_id, None)
        if record is not None and record.uuid is not None:
            self._depart(record, record.uuid, now)
        return record

    def begin_move(
        self,
        record: LeaseRecord,
        uuid: str | None,
        device: str,
        reason: str,
        *,
        now: float,
        forced: bool,
    ) -> None:
        """It counts on both devices until it landed. ``forced``: it had no choice."""
        record.target_uuid, record.target_device, record.target_reason = uuid, device, reason
        record.better_since = None
        if record.uuid is not None and forced:
            soon = now - record.landed_at < SETTLED_SECONDS
            before = record.expulsions.get(record.uuid, 0) if soon else 0
            record.expulsions[record.uuid] = before + 1
            record.left_at[record.uuid] = now

    def cancel_move(self, record: LeaseRecord) -> None:
        record.target_uuid, record.target_device, record.target_reason = None, None, ""

    def land(self, record: LeaseRecord, now: float) -> None:
        """It has arrived where it was told to go."""
        if record.target_device is None:
            return
        if record.uuid is not None and record.uuid != record.target_uuid:
            self._depart(record, record.uuid, now)
        record.uuid, record.device = record.target_uuid, record.target_device
        record.reason = record.target_reason
        record.landed_at = now
        self.cancel_move(record)

    def resize(self, record: LeaseRecord, need: Footprint) -> None:
        """The holder measured what it really takes."""
        record.request = replace(record.request, need=need)

    def set_holder(self, holder: str, memory: HolderMemory) -> None:
        self._holders[holder] = memory

    def drop_holder(self, holder: str, now: float) -> list[LeaseRecord]:
        """The process is gone: so are its leases and its context."""
        self._holders.pop(holder, None)
        gone = [r for r in self if r.holder == holder]
        for record in gone:
            self.release(record.lease_id, now)
        return gone

    def holder_of(self, pid: int) -> str | None:
        return next((name for name, held in self._holders.items() if held.pid == pid), None)

    def holder_memory(self, holder: str) -> HolderMemory | None:
        return self._holders.get(holder)

    def holders_on(self, uuid: str) -> set[str]:
        return {r.holder for r in self if r.occupies(uuid)}

    def leased_bytes(self, uuid: str, holder: str | None = None) -> int:
        """What is promised to leases on a card: models, and a context for each holder."""
        return self._promised(r for r in self if r.occupies(uuid) and holder in (None, r.holder))

    def landed_bytes(self, uuid: str, holder: str) -> int:
        """The same for the leases that are there already, without those on their way."""
        return self._promised(r for r in self if r.uuid == uuid and r.holder == holder)

    @staticmethod
    def _promised(records: Iterable[LeaseRecord]) -> int:
        models: dict[str, int] = {}
        contexts: dict[str, int] = {}
        for record in records:
            # Holders without a name are processes of their own, each with its own context.
            key = record.holder or f"#{record.lease_id}"
            models[key] = models.get(key, 0) + record.request.need.model_bytes
            contexts[key] = max(contexts.get(key, 0), record.request.need.context_bytes)
        return sum(models.values()) + sum(contexts.values())

    def context_bytes(self, uuid: str, holder: str) -> int:
        """The context that is already counted for a named holder on a card."""
        if not holder:
            return 0
        here = (r for r in self if r.holder == holder and r.occupies(uuid))
        return max((r.request.need.context_bytes for r in here), default=0)

    def held_bytes(self, device: DeviceMemory, holder: str) -> int:
        """What a holder already has on a card: the driver's word, else its allocator's."""
        memory = self._holders.get(holder)
        if memory is None:
            return 0
        for process in device.processes or ():
            if process.pid == memory.pid and process.used_bytes is not None:
                return process.used_bytes
        reserved, _ = memory.by_index.get(device.index, (0, 0))
        if not reserved:
            return 0
        context = max((r.request.need.context_bytes for r in self if r.holder == holder), default=0)
        return reserved + context

    def pending_bytes(self, device: DeviceMemory) -> int:
        """Leased on this card but not yet allocated, so the driver still calls it free."""
        return sum(
            max(0, self.leased_bytes(device.uuid, holder) - self.held_bytes(device, holder))
            for holder in self.holders_on(device.uuid)
        )

    def departing_bytes(self, device: DeviceMemory, now: float, patience: float) -> int:
        """Given up in the last ``patience`` seconds and not yet shown as free by the driver."""
        self._departures = [d for d in self._departures if now - d.at < 60.0]
        total = 0
        for holder in {d.holder for d in self._departures if d.uuid == device.uuid}:
            recent = sum(
                d.size_bytes
                for d in self._departures
                if d.uuid == device.uuid and d.holder == holder and now - d.at < patience
            )
            surplus = self.held_bytes(device, holder) - self.leased_bytes(device.uuid, holder)
            total += min(recent, max(0, surplus))
        return total

    def _depart(self, record: LeaseRecord, uuid: str, now: float) -> None:
        self._departures.append(
            Departure(uuid, record.holder, record.request.need.model_bytes, now)
        )
