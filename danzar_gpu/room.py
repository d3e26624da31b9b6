"""The arithmetic of one card: what may be handed out there, and whether a model fits. Pure.

    available = free - leased but not yet allocated - the LLM's outstanding reservation
    fits      = available >= threshold and available - need >= headroom and within vision's limit

A model that was never measured may take 30 % more than predicted, the headroom included. Vision's
limit counts models, as the cap in the worker does; a process's CUDA context comes on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger, Request
from danzar_gpu.memory import GIB, DeviceMemory, MemorySnapshot, gib
from danzar_gpu.trust import PLAIN, Outlook

RELEASE_PATIENCE_SECONDS = 5.0
"""How long the driver may take to show memory that was given up: 0.5 to 1.5 s is typical."""
NEAR_TIE_BYTES = GIB // 4
"""Differences in free memory below this don't decide between two cards."""
SURPRISE_SHARE = 0.3
"""How much more than predicted a model may take that was never measured."""


# One is made for every card at every decision. To make a frozen one takes four times as long, so
# these two are frozen for the type checker alone; nobody changes them after they are made.
@dataclass(frozen=TYPE_CHECKING, slots=True)
class Room:
    """One card's arithmetic, in bytes."""

    device: DeviceMemory
    pending: int
    """Leased here but not yet allocated."""
    outstanding: int
    """What the main LLM may still claim of its reservation."""
    llm_held: int
    departing: int
    """Given up and not yet shown as free."""
    vision_leased: int
    """Our models here, without the contexts of their processes."""
    vision_limit: int
    doubtful: str = ""
    """Why this reading must not be used to admit anything; empty when it may."""
    for_llm: bool = False
    """Whether it is the main LLM's card."""
    claimed: int = 0
    """Being vacated for somebody who waits for it."""
    unlisted_llm: int = 0
    """What the LLM probably holds of ``outstanding``, though no list of processes says so."""

    @property
    def available(self) -> int:
        """What may be handed out: free now, less what is promised. May be negative."""
        return self.device.free_bytes - self.pending - self.outstanding

    @property
    def likely_available(self) -> int:
        """The same where only the processes' list is missing: who is there may stay."""
        return self.available + self.unlisted_llm


@dataclass(frozen=TYPE_CHECKING, slots=True)
class Want:
    """What a request asks of one card, in bytes."""

    model: int
    need: int
    """The model, and of a context what its holder lacks there."""
    available: int
    """What has to be available there, so that it fits."""


def llm_held_bytes(device: DeviceMemory, config: GPUMemoryConfig) -> int:
    """What recognised LLM processes hold on a card. Unknown holders never count."""
    return sum(
        process.used_bytes or 0
        for process in device.processes or ()
        if config.is_llm_process(process.name)
    )


def configured_reservation(config: GPUMemoryConfig) -> int:
    """The LLM's reservation in bytes; ``auto`` starts from the guide's 8 GiB."""
    size = config.main_llm_memory_reservation_gb
    return int((8.0 if size == "auto" else size) * GIB)


def rooms(
    snapshot: MemorySnapshot,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    outlook: Outlook = PLAIN,
) -> dict[int, Room]:
    """Every card's arithmetic by index."""
    llm_index = config.main_llm_index
    max_age = outlook.max_age
    if max_age is None:
        max_age = max(2.5 * config.memory_check_interval, 3.0 * config.probe_timeout_seconds)
    found: dict[int, Room] = {}
    for device in snapshot.devices:
        uuid = device.uuid
        held = outstanding = unlisted = 0
        for_llm = device.index == llm_index
        if for_llm:
            reserved = outlook.reservation_bytes
            if reserved is None:
                reserved = configured_reservation(config)
            held = llm_held_bytes(device, config)
            outstanding = max(0, reserved - held)
            unlisted = min(outstanding, max(0, outlook.llm_likely.get(uuid, 0) - held))
        found[device.index] = Room(
            device,
            ledger.pending_bytes(device),
            outstanding,
            held,
            ledger.departing_bytes(device, now, RELEASE_PATIENCE_SECONDS),
            ledger.tally(uuid).model_bytes,
            config.vision_limit_bytes(device.total_bytes),
            outlook.doubts.get(uuid) or _doubt(device, now, max_age),
            for_llm,
            outlook.claims.get(uuid, 0),
            unlisted,
        )
    return found


def _doubt(device: DeviceMemory, now: float, max_age: float) -> str:
    age = max(device.age_seconds, now - device.read_at)
    if age > max_age:
        return f"its last reading is {age:.0f} s old"
    if device.total_bytes <= 0 or not 0 <= device.free_bytes <= device.total_bytes:
        return "the driver's figures for it make no sense"
    known = 0
    for process in device.processes or ():
        known += process.used_bytes or 0
    # The driver's own share is in `reserved`, never in the processes': less is impossible.
    if known > device.reserved_bytes + GIB // 2:
        return "its processes hold more than the driver says is used"
    return ""


def want_on(
    request: Request, uuid: str, ledger: Ledger, config: GPUMemoryConfig, margin_bytes: int = 0
) -> Want:
    """What a request asks of a card: of its context only what its holder lacks there."""
    return next(_wants(request, (uuid,), ledger, config, margin_bytes))


def wants(
    request: Request,
    rooms: Sequence[Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    margin_bytes: int = 0,
) -> list[tuple[Room, Want]]:
    """``want_on`` for many cards."""
    uuids = [room.device.uuid for room in rooms]
    return list(zip(rooms, _wants(request, uuids, ledger, config, margin_bytes), strict=True))


def _wants(
    request: Request,
    uuids: Sequence[str],
    ledger: Ledger,
    config: GPUMemoryConfig,
    margin_bytes: int,
) -> Iterator[Want]:
    least = int(config.cpu_fallback_threshold_gb * GIB)
    beyond = max(int(config.headroom_gb * GIB), surprise_of(request, ledger)) + margin_bytes
    holder = request.holder
    for uuid in uuids:
        expected = ledger.expected(request, uuid)
        model = need = expected.weights_bytes + expected.activations_bytes
        lacking = expected.context_bytes - ledger.context_bytes(uuid, holder)
        if lacking > 0:
            need += lacking
        wanted = need + beyond if need else margin_bytes
        yield Want(model, need, wanted if wanted > least else least)


def surprise_of(request: Request, ledger: Ledger) -> int:
    """Bytes by which a model that was never measured may exceed what is expected of it."""
    if request.predicted is not None or ledger.is_learned(request.name):
        return 0
    return int(SURPRISE_SHARE * request.need.model_bytes)


def fits(room: Room, want: Want, freed_bytes: int = 0) -> bool:
    """Whether a model fits on a card once ``freed_bytes`` of our models left it."""
    if room.doubtful:
        return False
    spare = room.device.free_bytes - room.pending - room.outstanding - room.claimed
    if spare + freed_bytes < want.available:
        return False
    leased = room.vision_leased + room.claimed - freed_bytes
    return not want.need or leased + want.model <= room.vision_limit


def shortage(room: Room, want: Want) -> str | None:
    """Why it does not fit, in words; ``None`` when it does."""
    if fits(room, want):
        return None
    device = room.device
    if room.doubtful:
        return f"{device.label} is left alone: {room.doubtful}"
    available = room.available - room.claimed
    leased = room.vision_leased + room.claimed
    if room.for_llm and available < want.available:
        parts = [f"{gib(device.free_bytes):.1f}GB free"]
        if room.outstanding:
            parts.append(f"{gib(room.outstanding):.1f}GB still promised to it")
        if (leased_here := room.pending + room.claimed) >= GIB // 20:
            parts.append(f"{gib(leased_here):.1f}GB leased")
        parts.append(f"{gib(want.available):.1f}GB needed")
        return f"Device {device.index} reserved for main LLM ({', '.join(parts)})"
    if want.need and leased + want.model > room.vision_limit:
        return (
            f"{device.label} would exceed vision's limit of {gib(room.vision_limit):.1f}GB "
            f"({gib(leased):.1f}GB leased, {gib(want.model):.1f}GB asked)"
        )
    return (
        f"{device.label} has {gib(max(0, available)):.1f}GB available, "
        f"{gib(want.available):.1f}GB needed{_holders(device)}"
    )


def _holders(device: DeviceMemory) -> str:
    """The largest holders, for the arithmetic in a refusal."""
    rows = device.processes or ()
    held = sorted([(p.used_bytes, p.name, p.pid) for p in rows if p.used_bytes], reverse=True)
    named = ", ".join([f"{name or f'pid {pid}'} {size / GIB:.1f}" for size, name, pid in held[:3]])
    return f"; held by {named}" if named else ""


def order(devices: Iterable[DeviceMemory], config: GPUMemoryConfig) -> list[DeviceMemory]:
    """The guide's order; among other cards the faster first, near ties by best fit."""
    vision, llm = config.vision_index, config.main_llm_index

    def rank(device: DeviceMemory) -> tuple[int, ...]:
        index = device.index
        major, minor = device.compute_capability or (0, 0)
        place = 0 if index == vision else 1 if index == llm else 2
        cores = device.cores or 0
        return place, -major, -minor, -cores, device.free_bytes // NEAR_TIE_BYTES, index

    return sorted(devices, key=rank)


def can_use(room: Room, config: GPUMemoryConfig) -> tuple[bool, str]:
    """Whether vision may use a card at all, and why (not)."""
    nothing = Want(0, 0, int(config.cpu_fallback_threshold_gb * GIB))
    problem = shortage(room, nothing)
    return (False, problem) if problem else (True, available_words(room))


def available_words(room: Room) -> str:
    """The guide's sentence for a card that will do."""
    device = room.device
    words = f"{device.label} available with {device.free_gb:.1f}GB free"
    promised = room.pending + room.outstanding
    if promised >= GIB // 20:
        beyond = gib(device.free_bytes - promised)
        words += f", {beyond:.1f}GB of it beyond what is promised"
    return words
