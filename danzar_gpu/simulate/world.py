"""The physical truth of a simulated machine: who really holds what on which card.

No decisions here. Memory that is given up stays unavailable, and is shown as used, for the card's
release lag; a process may take its own back at once. Sizes are bytes, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.learning import PeakRecorder
from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.room import configured_reservation
from danzar_gpu.simulate.trace import Card, SensorFault

SOURCE = "trace"
HOUR_SECONDS = 3600


@dataclass(slots=True)
class Release:
    """Memory on its way back."""

    owner: str
    size: int
    until: float


@dataclass(slots=True)
class CardState:
    """What is held on one card."""

    index: int
    card: Card
    total: int
    context: int
    uuid: str
    llm: int = 0
    """By the main LLM's processes."""
    programs: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes by foreign process, the LLM's included."""
    models: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    """Bytes by holder and model key; a holder that is listed has its context here."""
    releases: list[Release] = field(default_factory=list[Release])
    lost: bool = False
    row: tuple[int, int, tuple[GpuProcess, ...]] | None = None
    """(free, allocated, processes) of the last reading, until something changes."""

    def ours(self, holder: str) -> int:
        """What one of our processes holds, its context included."""
        held = self.models.get(holder)
        return sum(held.values()) + self.context if held is not None else 0

    def settle(self, now: float) -> None:
        """Forget releases that are over."""
        if self.releases:
            kept = [r for r in self.releases if r.until > now + 1e-9]
            if len(kept) != len(self.releases):
                self.releases, self.row = kept, None

    def used(self, now: float) -> int:
        """Everything that can't be had, the driver's share included."""
        self.settle(now)
        return (
            int(self.card.driver_gb * GIB)
            + sum(self.programs.values())
            + sum(self.ours(holder) for holder in self.models)
            + sum(r.size for r in self.releases)
        )

    def free(self, now: float) -> int:
        return max(0, self.total - self.used(now))

    def release(self, owner: str, size: int, now: float) -> None:
        """``owner`` gave up ``size`` bytes."""
        self.row = None
        if size > 0:
            self.releases.append(Release(owner, size, now + self.card.release_lag))

    def reclaim(self, owner: str, wanted: int, now: float) -> int:
        """Bytes of what ``owner`` gave up last that it takes back before they are gone."""
        self.settle(now)
        self.row = None
        taken = 0
        for release in self.releases:
            if release.owner == owner and taken < wanted:
                part = min(release.size, wanted - taken)
                release.size -= part
                taken += part
        return taken

    def room_for(self, owner: str, now: float) -> int:
        """What ``owner`` could take now: free memory, and what it is giving up itself."""
        return self.free(now) + sum(r.size for r in self.releases if r.owner == owner)


class World:
    """All cards, and what a sensor says about them."""

    def __init__(self, cards: tuple[Card, ...], config: GPUMemoryConfig) -> None:
        self.config = config
        self.cards = [
            CardState(i, card, int(card.total_gb * GIB), int(card.context_gb * GIB), f"GPU-{i:08d}")
            for i, card in enumerate(cards)
        ]
        self.faults: list[SensorFault] = []
        """Faults of the sensor that hold now."""
        self.pids: dict[str, int] = {}
        self.reads = 0
        self._last: dict[int, DeviceMemory] = {}
        auto = config.main_llm_memory_reservation_gb == "auto"
        self._learns = auto and config.main_llm_index < len(self.cards)
        self._peaks = PeakRecorder()
        self._learned_at = 0.0
        self._promised: tuple[tuple[int, int], int] = (-1, 0), 0
        """(hour, bytes that the LLM held) when it was last asked what was learned, and that."""

    # Our models

    def load(self, index: int, holder: str, key: int, size: int, now: float) -> bool:
        """Allocate a model, and the holder's context if it is the first; ``False``: no room."""
        card = self.cards[index]
        if card.lost:
            return False
        wanted = size + (0 if holder in card.models else card.context)
        if wanted > card.room_for(holder, now):
            return False
        card.reclaim(holder, wanted, now)
        card.models.setdefault(holder, {})[key] = size
        card.row = None
        return True

    def unload(self, index: int, holder: str, key: int, now: float) -> None:
        """Give a model's memory up; the context goes with a holder's last model, where it isn't
        kept."""
        card = self.cards[index]
        held = card.models.get(holder)
        if held is None or key not in held:
            return
        size = held.pop(key)
        if not held and not card.card.keeps_context:
            del card.models[holder]
            size += card.context
        card.release(holder, size, now)

    def end(self, holder: str, now: float) -> None:
        """A process of ours is over: contexts without a model go, too."""
        for card in self.cards:
            if card.models.get(holder) == {}:
                del card.models[holder]
                card.release(holder, card.context, now)

    def resize(self, index: int, holder: str, key: int, size: int, now: float) -> bool:
        """A model needs another amount; ``False``: there is no room for that."""
        card = self.cards[index]
        held = card.models[holder]
        more = size - held[key]
        if more > 0:
            if more > card.room_for(holder, now):
                return False
            card.reclaim(holder, more, now)
        else:
            card.release(holder, -more, now)
        held[key] = size
        return True

    # Other programs

    def take(self, index: int, process: str, size: int, now: float, *, llm: bool) -> None:
        """A program takes memory that ``room_for`` said is there."""
        self._learn(now)
        card = self.cards[index]
        card.reclaim(process, size, now)
        card.programs[process] = card.programs.get(process, 0) + size
        if llm:
            card.llm += size

    def give(self, index: int, process: str, size: int, now: float, *, llm: bool) -> None:
        """A program gives memory up."""
        self._learn(now)
        card = self.cards[index]
        left = card.programs.get(process, 0) - size
        if left > 0:
            card.programs[process] = left
        else:
            card.programs.pop(process, None)
        if llm:
            card.llm = max(0, card.llm - size)
        card.release(process, size, now)

    def reservation(self, now: float) -> int:
        """What is promised to the LLM on its card: as configured, or (``auto``) as the product
        has learned it by now."""
        if not self._learns:
            return configured_reservation(self.config)
        self._learn(now)
        card = self.cards[self.config.main_llm_index]
        seen = int(now // HOUR_SECONDS), card.llm
        if seen != self._promised[0]:  # to ask costs more than all else in a month of readings
            learned = self._peaks.reservation(self.config, card.total)
            self._promised = seen, learned.size_bytes
        return self._promised[1]

    def _learn(self, now: float) -> None:
        """The LLM has held as much as it does since the last look."""
        if self._learns:
            held = self.cards[self.config.main_llm_index].llm
            for hour in range(int(self._learned_at // HOUR_SECONDS), int(now // HOUR_SECONDS) + 1):
                self._peaks.add(hour * HOUR_SECONDS, held)
            self._learned_at = now

    def outstanding(self, index: int, now: float) -> int:
        """What the LLM may still claim of its reservation on a card."""
        if index != self.config.main_llm_index:
            return 0
        return max(0, self.reservation(now) - self.cards[index].llm)

    # The sensor

    def read(self, now: float) -> MemorySnapshot | None:
        """What the product's probe would say now; ``None``: nothing could be read at all."""
        self.reads += 1
        devices: list[DeviceMemory] = []
        words: list[str] = []
        for card in self.cards:
            kinds = {f.kind: f for f in self.faults if f.device in (None, card.index)}
            label = f"Device {card.index} ({card.card.name})"
            if card.lost or "lost" in kinds:
                words.append(f"{label}: a GPU is lost")
                continue
            if "not_supported" in kinds:
                words.append(f"{label}: the driver answered: Not Supported")
                continue
            if "stale" in kinds:
                if card.index in self._last:
                    devices.append(self._last[card.index])
                continue
            device = self._device(card, now)
            if "no_processes" in kinds:
                device = replace(device, processes=None, allocated_bytes=device.reserved_bytes)
            if (fault := kinds.get("zero")) is not None:
                device = _zeroed(device, fault)
            self._last[card.index] = device
            devices.append(device)
        if not devices:
            return None
        return MemorySnapshot(now, SOURCE, tuple(devices), now, tuple(words))

    def _device(self, card: CardState, now: float) -> DeviceMemory:
        card.settle(now)
        if card.row is None:
            free = card.free(now)
            held = dict(card.programs)
            for holder in card.models:
                held[holder] = card.ours(holder)
            for release in card.releases:
                if release.owner in held:
                    held[release.owner] += release.size
            rows = tuple(GpuProcess(self.pid(name), name, size) for name, size in held.items())
            card.row = free, min(sum(held.values()), card.total - free), rows
        free, allocated, rows = card.row
        return DeviceMemory(
            index=card.index,
            uuid=card.uuid,
            name=card.card.name,
            total_bytes=card.total,
            free_bytes=free,
            allocated_bytes=allocated,
            processes=rows,
            compute_capability=(8, round(card.card.speed * 10)),
            source=SOURCE,
            read_at=now,
        )

    def pid(self, name: str) -> int:
        """The process id of a program or of one of our holders."""
        return self.pids.setdefault(name, 1000 + len(self.pids))


def _zeroed(device: DeviceMemory, fault: SensorFault) -> DeviceMemory:
    if fault.field == "total":
        return replace(device, total_bytes=0)
    if fault.field == "free":
        return replace(device, free_bytes=0)
    if fault.field == "used":
        return replace(device, free_bytes=device.total_bytes, allocated_bytes=0)
    return replace(device, total_bytes=0, free_bytes=0, allocated_bytes=0)
