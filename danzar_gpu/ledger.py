"""Who holds what: the only state that admission changes. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, KeysView, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from danzar_gpu.memory import GIB, DeviceMemory

RESIDUE_STEP_BYTES = 16 * 1024**2
"""Smaller changes of a context are nobody's news."""
SETTLED_SECONDS = 60.0
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
    predicted: Footprint | None = None
    """What was predicted, where ``need`` is what was measured in earlier runs."""


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
    """When it last left a card, by UUID: the cooldown counts from there."""
    short_stays: set[str] = field(default_factory=set[str])
    """Cards from which it was last sent away soon after it came."""
    bounces: set[str] = field(default_factory=set[str])
    """Those of them to which it had come back."""
    better_since: float | None = None
    """Since when a better device than the present one has had room."""
    roomy_since: float | None = None
    """The same, with the margin for a return beyond its need."""
    measured: bool = False
    """Whether it said what it takes since it came to where it is."""
    grew: bool = False
    """It was seen to take more than it was leased: it is watched closely."""

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
    contexts: Mapping[int, int] = field(default_factory=dict[int, int])
    """Its CUDA contexts by its own word, for drivers that keep no accounts of processes."""


@dataclass(slots=True)
class CardTally:
    """What is leased on one card, by process: (models, context) bytes."""

    leased: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    landed: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Without those on their way here."""

    leased_bytes: int = 0
    """All of ``leased``."""
    model_bytes: int = 0
    """The same without contexts."""


NOTHING = CardTally()


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
        self._heard: dict[str, int] = {}
        self._departures: list[Departure] = []
        self._ids = count(1)
        self._learned: dict[str, dict[str, Footprint]] = {}
        self._contexts: dict[tuple[str, str], int] = {}
        """Measured contexts by holder and card (UUID)."""
        self._residues: dict[tuple[str, str], int] = {}
        """What a process was last seen to hold on a card without a model of ours there."""
        self._tallies: dict[str, CardTally] | None = None
        self.version = 0
        """Another number after each change."""
        self.kept_off: dict[str, str] = {}
        """Names of models that stay on the CPU until somebody says otherwise, and why."""
        self._barred: dict[tuple[str, str], dict[str, str]] = {}

    def __iter__(self) -> Iterator[LeaseRecord]:
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def copy(self) -> Ledger:
        """The same leases, to plan with: changes to it change nothing here."""
        twin = Ledger()
        twin._leases = {
            key: replace(
                r, left_at=dict(r.left_at), short_stays=set(r.short_stays), bounces=set(r.bounces)
            )
            for key, r in self._leases.items()
        }
        twin._contexts = dict(self._contexts)
        twin._residues = dict(self._residues)
        twin._learned = {name: dict(by_card) for name, by_card in self._learned.items()}
        twin._holders = dict(self._holders)
        twin._departures = list(self._departures)
        twin.kept_off = dict(self.kept_off)
        twin._barred = {key: dict(cards) for key, cards in self._barred.items()}
        return twin

    def get(self, lease_id: int) -> LeaseRecord | None:
        return self._leases.get(lease_id)

    def grant(
        self, request: Request, uuid: str | None, device: str, reason: str, now: float
    ) -> LeaseRecord:
        if uuid is not None:
            request = replace(request, need=self.expected(request, uuid))
        record = LeaseRecord(next(self._ids), request, uuid, device, reason, now)
        self._leases[record.lease_id] = record
        self._changed()
        return record

    def release(self, lease_id: int, now: float) -> LeaseRecord | None:
        """Forget a lease; what it held departs. ``None`` if it was gone already."""
        record = self._leases.pop(lease_id, None)
        if record is not None and not record.holder:
            # Nobody will tell of its process's end.
            self._barred.pop(("", record.request.name), None)
        self._changed()
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
        record.better_since = record.roomy_since = None
        self._changed()
        if record.uuid is None:
            return
        if forced:
            soon = now - record.landed_at < SETTLED_SECONDS
            before = record.left_at.get(record.uuid)
            bounced = soon and before is not None and before < record.landed_at
            (record.short_stays.add if soon else record.short_stays.discard)(record.uuid)
            (record.bounces.add if bounced else record.bounces.discard)(record.uuid)
        record.left_at[record.uuid] = now

    def cancel_move(self, record: LeaseRecord) -> None:
        record.target_uuid, record.target_device, record.target_reason = None, None, ""
        self._changed()

    def land(self, record: LeaseRecord, now: float) -> None:
        """It has arrived where it was told to go."""
        if record.target_device is None:
            return
        if record.uuid is not None and record.uuid != record.target_uuid:
            self._depart(record, record.uuid, now)
            record.left_at[record.uuid] = now
        record.uuid, record.device = record.target_uuid, record.target_device
        if record.uuid is not None:
            need = self.expected(record.request, record.uuid)
            record.request = replace(record.request, need=need)
        record.reason = record.target_reason
        record.landed_at = now
        record.measured = False
        self.cancel_move(record)

    def resize(self, record: LeaseRecord, need: Footprint) -> None:
        """The holder measured what it really takes; on a card that is learned."""
        record.request = replace(record.request, need=need)
        self._changed()
        if record.uuid is not None:
            self._learned.setdefault(record.request.name, {})[record.uuid] = need
            if record.holder:
                self._contexts[record.holder, record.uuid] = need.context_bytes

    def learn(self, name: str, uuid: str, need: Footprint) -> None:
        """What an earlier run measured on a card of this kind."""
        self._learned.setdefault(name, {})[uuid] = need
        self._changed()

    def is_learned(self, name: str) -> bool:
        """Whether a model of this name was ever measured on a card."""
        return name in self._learned

    def expected(self, request: Request, uuid: str) -> Footprint:
        """What a request will take on a card: as measured there, else elsewhere, else as asked."""
        by_card = self._learned.get(request.name)
        if not by_card:
            need = request.need
        elif uuid in by_card:
            return by_card[uuid]
        else:
            need = max(by_card.values(), key=lambda need: need.total_bytes)
        context = self._contexts.get((request.holder, uuid))
        return need if context is None else replace(need, context_bytes=context)

    def set_holder(self, holder: str, memory: HolderMemory) -> None:
        if self._holders.get(holder) != memory:
            self.version += 1
        self._holders[holder] = memory
        self._heard[holder] = self.heard(holder) + 1

    def heard(self, holder: str) -> int:
        """How often a holder has told what it holds."""
        return self._heard.get(holder, 0)

    def bar(self, request: Request, uuid: str, why: str) -> None:
        """A model can't use a card in its holder's process, whatever room there is."""
        self._barred.setdefault((request.holder, request.name), {})[uuid] = why
        self.version += 1

    def barred(self, request: Request) -> Mapping[str, str]:
        """Cards (UUIDs) that a model can't use, and why."""
        return self._barred.get((request.holder, request.name), {})

    def may_come_to(self, record: LeaseRecord, uuid: str) -> bool:
        """Whether a lease is on the CPU and a card could be its, given room."""
        kept_off = record.request.name in self.kept_off
        return record.uuid is None and not kept_off and uuid not in self.barred(record.request)

    def unbar(self, name: str) -> None:
        """A model may try all cards again."""
        for key in [key for key in self._barred if key[1] == name]:
            del self._barred[key]
        self.version += 1

    def reached(self, record: LeaseRecord) -> None:
        """A model is on a card: what refused others of its process there may be over."""
        for (holder, _), cards in self._barred.items():
            if holder == record.holder and cards.pop(record.uuid or "", None) is not None:
                self.version += 1

    def drop_holder(self, holder: str, now: float) -> list[LeaseRecord]:
        """The process is gone: so are its leases and its context. Another one may be able to use
        cards that it could not."""
        self._holders.pop(holder, None)
        for key in [key for key in self._residues if key[0] == holder]:
            del self._residues[key]
        for key in [key for key in self._barred if key[0] == holder]:
            del self._barred[key]
        gone = [r for r in self if r.holder == holder]
        for record in gone:
            self.release(record.lease_id, now)
        return gone

    def holder_of(self, pid: int) -> str | None:
        return next((name for name, held in self._holders.items() if held.pid == pid), None)

    def holder_memory(self, holder: str) -> HolderMemory | None:
        return self._holders.get(holder)

    def holders_on(self, uuid: str) -> KeysView[str]:
        """Who has leases on a card, or on their way there; each without a name counts by itself."""
        return self.tally(uuid).leased.keys()

    def known_holders(self, uuid: str) -> Collection[str]:
        """Who has leases on a card, and every process of ours that may hold a context there."""
        return self.holders_on(uuid) | self._holders.keys()

    def leased_bytes(self, uuid: str, holder: str | None = None) -> int:
        """What is promised to leases on a card: models, and a context for each holder."""
        tally = self.tally(uuid)
        if holder is None:
            return tally.leased_bytes
        return sum(tally.leased.get(holder, (0, 0)))

    def landed_bytes(self, uuid: str, holder: str) -> int:
        """The same for the leases that are there already, without those on their way."""
        return sum(self.tally(uuid).landed.get(holder, (0, 0)))

    def tally(self, uuid: str) -> CardTally:
        """Sums of one card; kept until a lease changes."""
        if self._tallies is None:
            self._tallies = self._counted()
        return self._tallies.get(uuid, NOTHING)

    def _changed(self) -> None:
        self._tallies = None
        self.version += 1

    def _counted(self) -> dict[str, CardTally]:
        found: dict[str, CardTally] = {}
        for record in self._leases.values():
            need = record.request.need
            # Holders without a name are processes of their own, each with its own context.
            key = record.request.holder or f"#{record.lease_id}"
            size = need.weights_bytes + need.activations_bytes
            for uuid, landed in ((record.uuid, True), (record.target_uuid, False)):
                if uuid is None or (not landed and uuid == record.uuid):
                    continue
                tally = found.get(uuid)
                if tally is None:
                    tally = found[uuid] = CardTally()
                _add(tally.leased, key, size, need.context_bytes)
                if landed:
                    _add(tally.landed, key, size, need.context_bytes)
        for tally in found.values():
            tally.leased_bytes = sum(map(sum, tally.leased.values()))
            tally.model_bytes = sum(models for models, _ in tally.leased.values())
        return found

    def context_bytes(self, uuid: str, holder: str) -> int:
        """The context of a named holder that is already counted on a card, or still held there."""
        if not holder:
            return 0
        counted = self.tally(uuid).leased.get(holder, (0, 0))[1]
        return max(counted, self._residues.get((holder, uuid), 0))

    def residue(self, holder: str, uuid: str) -> int:
        """The size of a process's CUDA context on a card, if it was ever seen alone; else 0."""
        return self._residues.get((holder, uuid), 0)

    def idle_contexts(self, holder: str) -> dict[str, int]:
        """What a process's CUDA contexts hold on cards without a lease of its, by UUID."""
        return {
            uuid: size
            for (name, uuid), size in self._residues.items()
            if name == holder and size and holder not in self.holders_on(uuid)
        }

    def see_residues(self, device: DeviceMemory) -> None:
        """A process keeps its CUDA context on a card when its models have left: see how large."""
        used = {p.pid: p.used_bytes for p in device.processes or ()}
        for holder, memory in self._holders.items():
            if holder in self.holders_on(device.uuid):
                continue
            size = used.get(memory.pid)
            if size is not None:
                alone = max(0, size - memory.by_index.get(device.index, (0, 0))[0])
            else:
                # WDDM and WSL keep no accounts; in a container the driver has another pid.
                alone = memory.contexts.get(device.index, 0)
            if abs(alone - self._residues.get((holder, device.uuid), 0)) > RESIDUE_STEP_BYTES:
                self._residues[holder, device.uuid] = alone
                self.version += 1

    def held_bytes(self, device: DeviceMemory, holder: str) -> int:
        """What a holder already has on a card: the driver's word, else its allocator's."""
        memory = self._holders.get(holder)
        if memory is None:
            return 0
        told = _told_bytes(device, memory)
        if told is not None:
            return told
        reserved, _ = memory.by_index.get(device.index, (0, 0))
        if not reserved:
            return self.residue(holder, device.uuid)
        return reserved + self._known_context(device.uuid, holder)

    def held_context_bytes(self, device: DeviceMemory, holder: str) -> int:
        """How much of that is its CUDA context: what the driver knows and its allocator doesn't."""
        memory, reserved = self._holders.get(holder), self.allocator_bytes(device.index, holder)
        told = _told_bytes(device, memory) if memory is not None else None
        if told is not None and reserved:
            return max(0, told - reserved)
        return min(self._known_context(device.uuid, holder), self.held_bytes(device, holder))

    def _known_context(self, uuid: str, holder: str) -> int:
        """The size of a process's CUDA context: measured, else as predicted."""
        context = self._contexts.get((holder, uuid))
        return self.context_bytes(uuid, holder) if context is None else context

    def allocator_bytes(self, index: int, holder: str) -> int:
        """What a holder's own allocator says that it has on a card; 0 if it says nothing."""
        memory = self._holders.get(holder)
        return memory.by_index.get(index, (0, 0))[0] if memory else 0

    def pending_bytes(self, device: DeviceMemory) -> int:
        """Leased on this card but not yet allocated, so the driver still calls it free."""
        pending = 0
        for holder, (models, context) in self.tally(device.uuid).leased.items():
            pending += max(0, models + context - self.held_bytes(device, holder))
        return pending

    def departing_bytes(self, device: DeviceMemory, now: float, patience: float) -> int:
        """Given up in the last ``patience`` seconds and not yet shown as free by the driver."""
        if not self._departures:
            return 0
        self._departures = [d for d in self._departures if now - d.at < 60.0]
        total = 0
        for holder in {d.holder for d in self._departures if d.uuid == device.uuid}:
            recent = sum(
                d.size_bytes
                for d in self._departures
                if d.uuid == device.uuid and d.holder == holder and now - d.at < patience
            )
            stays = self.leased_bytes(device.uuid, holder) or self.residue(holder, device.uuid)
            surplus = self.held_bytes(device, holder) - stays
            total += min(recent, max(0, surplus))
        return total

    def settled(self, now: float, patience: float = 10.0) -> bool:
        """Whether nobody gave up memory so recently that the driver may not show it yet."""
        return all(now - d.at >= patience for d in self._departures)

    def is_departing(self, uuid: str, holder: str, now: float, patience: float = 10.0) -> bool:
        """Whether a holder gave up memory on a card so recently that it may still be shown."""
        return any(
            d.uuid == uuid and d.holder == holder and now - d.at < patience
            for d in self._departures
        )

    def _depart(self, record: LeaseRecord, uuid: str, now: float) -> None:
        self._departures.append(
            Departure(uuid, record.holder, record.request.need.model_bytes, now)
        )


def _told_bytes(device: DeviceMemory, memory: HolderMemory) -> int | None:
    """What the driver says that a process holds on a card; ``None`` if it does not."""
    sizes = (p.used_bytes for p in device.processes or () if p.pid == memory.pid)
    return next((size for size in sizes if size is not None), None)


def _add(sums: dict[str, tuple[int, int]], key: str, models: int, context: int) -> None:
    before, widest = sums.get(key, (0, 0))
    sums[key] = (before + models, max(widest, context))
