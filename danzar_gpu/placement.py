"""Where a model goes, and who has to move: pure functions of a snapshot, the ledger and the
configuration. Every answer carries its reason in words; chat, log and history repeat them.

The order is the guide's: the vision device, the LLM's device only beyond its reservation, any
other card, the CPU. The arithmetic of one card is a ``Room``::

    available = free - leased but not yet allocated - the LLM's outstanding reservation
    fits      = available >= threshold and available - need >= headroom and within vision's limit
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import LeaseRecord, Ledger, Request
from danzar_gpu.memory import GIB, DeviceMemory, MemorySnapshot, gib

NO_DEVICE = "No GPU devices available with sufficient memory"
RELEASE_PATIENCE_SECONDS = 5.0
"""How long the driver may take to show memory that was given up: 0.5 to 1.5 s is typical."""
NEAR_TIE_BYTES = GIB // 4
"""Differences in free memory below this don't decide between two cards."""


@dataclass(frozen=True, slots=True)
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
    vision_limit: int
    doubtful: str = ""
    """Why this reading must not be used to admit anything; empty when it may."""

    @property
    def available(self) -> int:
        """What may be handed out: free now, less what is promised. May be negative."""
        return self.device.free_bytes - self.pending - self.outstanding


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes. ``device`` is ``None`` where it is refused."""

    device: str | None
    reason: str
    uuid: str | None = None
    evictions: tuple[int, ...] = ()
    """Leases that have to leave first."""


@dataclass(frozen=True, slots=True)
class Move:
    """A lease that should be elsewhere."""

    lease_id: int
    placement: Placement
    forced: bool
    """Whether it has to leave; else it may return to a better device."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a new reading asks for."""

    moves: tuple[Move, ...] = ()
    waiting_to_return: tuple[int, ...] = ()
    """Leases for which a better device has room: their dwell runs."""
    pressure: tuple[tuple[int, int], ...] = ()
    """(device index, missing bytes) of every card with less free than promised."""


def llm_held_bytes(device: DeviceMemory, config: GPUMemoryConfig) -> int:
    """What recognised LLM processes hold on a card. Unknown holders never count."""
    return sum(
        process.used_bytes or 0
        for process in device.processes or ()
        if config.is_llm_process(process.name)
    )


def room_of(
    device: DeviceMemory, ledger: Ledger, config: GPUMemoryConfig, now: float, reservation: int
) -> Room:
    """One card's arithmetic; ``reservation`` is the LLM's, in bytes, 0 on other cards."""
    held = llm_held_bytes(device, config)
    leased = ledger.leased_bytes(device.uuid)
    return Room(
        device=device,
        pending=ledger.pending_bytes(device),
        outstanding=max(0, reservation - held),
        llm_held=held,
        departing=ledger.departing_bytes(device, now, RELEASE_PATIENCE_SECONDS),
        vision_leased=leased,
        vision_limit=config.vision_limit_bytes(device.total_bytes),
        doubtful=_doubt(device, config, now),
    )


def _doubt(device: DeviceMemory, config: GPUMemoryConfig, now: float) -> str:
    age = max(device.age_seconds, now - device.read_at)
    if age > max(2.5 * config.memory_check_interval, 3.0 * config.probe_timeout_seconds):
        return f"its last reading is {age:.0f} s old"
    if device.total_bytes <= 0 or not 0 <= device.free_bytes <= device.total_bytes:
        return "the driver's figures for it make no sense"
    known = sum(p.used_bytes or 0 for p in device.processes or ())
    # The driver's own share is in `reserved`, never in the processes': less is impossible.
    if known > device.reserved_bytes + GIB // 2:
        return "its processes hold more than the driver says is used"
    return ""


def rooms(
    snapshot: MemorySnapshot,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    reservation_bytes: int | None = None,
) -> dict[int, Room]:
    """Every card's arithmetic by index.

    ``reservation_bytes`` replaces the configured reservation where it is learned (``auto``).
    """
    if reservation_bytes is None:
        reservation_bytes = configured_reservation(config)
    return {
        d.index: room_of(
            d, ledger, config, now, reservation_bytes if d.index == config.main_llm_index else 0
        )
        for d in snapshot.devices
    }


def configured_reservation(config: GPUMemoryConfig) -> int:
    """The LLM's reservation in bytes; ``auto`` starts from the guide's 8 GiB."""
    size = config.main_llm_memory_reservation_gb
    return int((8.0 if size == "auto" else size) * GIB)


def need_on(request: Request, uuid: str, ledger: Ledger) -> int:
    """Bytes that a request adds on a card: of its context only what its holder lacks there."""
    return request.need.model_bytes + max(
        0, request.need.context_bytes - ledger.context_bytes(uuid, request.holder)
    )


def shortage(room: Room, need: int, config: GPUMemoryConfig, margin_bytes: int = 0) -> str | None:
    """Why ``need`` bytes (and a margin) don't fit on a card, in words; ``None`` when they do."""
    device = room.device
    if room.doubtful:
        return f"{device.label} is left alone: {room.doubtful}"
    headroom = int(config.headroom_gb * GIB) if need else 0
    wanted = max(int(config.cpu_fallback_threshold_gb * GIB), need + headroom + margin_bytes)
    if device.index == config.main_llm_index and room.available < wanted:
        return (
            f"Device {device.index} reserved for main LLM "
            f"({gib(device.free_bytes):.1f}GB free, {gib(room.outstanding):.1f}GB still promised "
            f"to it)"
        )
    if need and room.vision_leased + need > room.vision_limit:
        return (
            f"{device.label} would exceed vision's limit of {gib(room.vision_limit):.1f}GB "
            f"({gib(room.vision_leased):.1f}GB leased, {gib(need):.1f}GB asked)"
        )
    if room.available < wanted:
        return (
            f"{device.label} has {gib(max(0, room.available)):.1f}GB available, "
            f"{gib(wanted):.1f}GB needed{_holders(device)}"
        )
    return None


def _holders(device: DeviceMemory) -> str:
    """The largest holders, for the arithmetic in a refusal."""
    held = sorted(
        ((p.used_bytes or 0, p.name or f"pid {p.pid}") for p in device.processes or ()),
        reverse=True,
    )
    named = ", ".join(f"{name} {gib(size):.1f}" for size, name in held[:3] if size)
    return f"; held by {named}" if named else ""


def order(devices: Iterable[DeviceMemory], config: GPUMemoryConfig) -> list[DeviceMemory]:
    """The guide's order; among other cards the faster first, near ties by best fit."""

    def rank(device: DeviceMemory) -> tuple[int, tuple[int, int], int, int]:
        major, minor = device.compute_capability or (0, 0)
        place = (
            0
            if device.index == config.vision_index
            else 1
            if device.index == config.main_llm_index
            else 2
        )
        return (
            place,
            (-major, -minor),
            device.free_bytes // NEAR_TIE_BYTES,
            device.index,
        )

    return sorted(devices, key=rank)


def available_words(room: Room) -> str:
    """The guide's sentence for a card that will do."""
    device = room.device
    words = f"{device.label} available with {device.free_gb:.1f}GB free"
    promised = room.pending + room.outstanding
    if promised >= GIB // 20:
        beyond = gib(device.free_bytes - promised)
        words += f", {beyond:.1f}GB of it beyond what is promised"
    return words


def place(
    request: Request,
    snapshot: MemorySnapshot | None,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    *,
    reservation_bytes: int | None = None,
    exclude: Collection[str] = (),
    may_evict: bool = True,
    margin_bytes: int = 0,
) -> Placement:
    """Choose a device for ``request``.

    ``exclude`` names cards (UUIDs) that are out; ``margin_bytes`` must stay free beyond need and
    headroom.
    """
    if snapshot is None:
        return _no_card(["no reading of the GPUs yet"], config)
    all_rooms = rooms(snapshot, ledger, config, now, reservation_bytes)
    why: list[str] = []
    ordered = order((d for d in snapshot.devices if d.uuid not in exclude), config)
    for device in ordered:
        room = all_rooms[device.index]
        problem = shortage(room, need_on(request, device.uuid, ledger), config, margin_bytes)
        if problem is None:
            return Placement(device.device, available_words(room), device.uuid)
        why.append(problem)
    if may_evict:
        for device in ordered:
            room = all_rooms[device.index]
            if victims := _victims_for(request, room, ledger, config):
                names = ", ".join(v.request.name for v in victims)
                return Placement(
                    device.device,
                    f"{device.label} after {names} left for the more important {request.name}",
                    device.uuid,
                    tuple(v.lease_id for v in victims),
                )
    if not snapshot.devices:
        why.append("no NVIDIA GPU was found")
    return _no_card(why, config)


def _no_card(why: list[str], config: GPUMemoryConfig) -> Placement:
    reason = f"{NO_DEVICE}: {'; '.join(why)}" if why else NO_DEVICE
    if config.fallback_to_cpu:
        return Placement("cpu", reason)
    return Placement(None, f"{reason}; fallback_to_cpu is off")


def _victims_for(
    request: Request, room: Room, ledger: Ledger, config: GPUMemoryConfig
) -> tuple[LeaseRecord, ...]:
    """The fewest, least important leases whose leaving makes the request fit; else none."""
    uuid = room.device.uuid
    need = need_on(request, uuid, ledger)
    candidates = sorted(
        (
            r
            for r in ledger
            if r.uuid == uuid and not r.moving and r.request.priority < request.priority
        ),
        key=lambda r: (r.request.priority, -r.request.need.model_bytes),
    )
    chosen: list[LeaseRecord] = []
    freed = 0
    for record in candidates:
        chosen.append(record)
        freed += record.request.need.model_bytes
        relieved = replace(
            room,
            device=replace(
                room.device, free_bytes=min(room.device.total_bytes, room.device.free_bytes + freed)
            ),
            vision_leased=max(0, room.vision_leased - freed),
        )
        if shortage(relieved, need, config) is None:
            return tuple(chosen)
    return ()


def can_use(room: Room, config: GPUMemoryConfig) -> tuple[bool, str]:
    """Whether vision may use a card at all, and why (not)."""
    problem = shortage(room, 0, config)
    return (False, problem) if problem else (True, available_words(room))


def rebalance(
    snapshot: MemorySnapshot,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    *,
    reservation_bytes: int | None = None,
) -> Rebalance:
    """Who has to leave a card that is short, and who may return to a better one."""
    all_rooms = rooms(snapshot, ledger, config, now, reservation_bytes)
    by_uuid = {room.device.uuid: room for room in all_rooms.values()}
    ledger = ledger.copy()  # moves count against each other before anybody makes them
    moves: list[Move] = []
    pressure: list[tuple[int, int]] = []
    for room in all_rooms.values():
        missing = _deficit(room, config)
        if missing > 0:
            pressure.append((room.device.index, missing))
            moves += _relieve(room, missing, snapshot, ledger, config, now, reservation_bytes)
    for record in ledger:
        lost = record.uuid is not None and record.uuid not in by_uuid
        if lost and not record.moving:
            placement = place(
                record.request,
                snapshot,
                ledger,
                config,
                now,
                reservation_bytes=reservation_bytes,
                may_evict=False,
            )
            reason = f"its card is gone; {placement.reason}"
            moves.append(_plan(record, placement, reason, ledger, now))
    waiting: list[int] = []
    if not pressure:
        for record in sorted(ledger, key=lambda r: (-r.request.priority, r.lease_id)):
            better = _better(record, snapshot, ledger, config, now, reservation_bytes)
            if better is None:
                continue
            waiting.append(record.lease_id)
            since = record.better_since
            settled = since is not None and now - since >= config.return_dwell_seconds
            if settled and not moves:
                # One return at a time: the next reading shows what it really took.
                moves.append(Move(record.lease_id, better, forced=False))
    return Rebalance(tuple(moves), tuple(waiting), tuple(pressure))


def _deficit(room: Room, config: GPUMemoryConfig) -> int:
    """Bytes that are promised or must stay free, and aren't; 0 on a card without our leases."""
    if room.doubtful or not room.vision_leased:
        return 0
    floor = int(config.pressure_gb * GIB)
    return max(0, floor - room.available - room.departing)


def _relieve(
    room: Room,
    missing: int,
    snapshot: MemorySnapshot,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    reservation_bytes: int | None,
) -> list[Move]:
    """Evict just the deficit: the least important first, among equals the largest relief."""
    uuid = room.device.uuid
    missing -= sum(
        r.request.need.model_bytes
        for r in ledger
        if r.uuid == uuid and r.moving and r.target_uuid != uuid
    )
    moves: list[Move] = []
    candidates = sorted(
        (r for r in ledger if r.uuid == uuid and not r.moving),
        key=lambda r: (r.request.priority, -r.request.need.model_bytes, r.lease_id),
    )
    chosen = _just_enough(candidates, missing)
    for record in chosen:
        placement = place(
            record.request,
            snapshot,
            ledger,
            config,
            now,
            reservation_bytes=reservation_bytes,
            exclude={uuid},
            may_evict=False,
        )
        reason = (
            f"{room.device.label} is short of {gib(missing):.1f}GB"
            f"{_whose(room)}; {placement.reason}"
        )
        moves.append(_plan(record, placement, reason, ledger, now))
    return moves


def _just_enough(candidates: list[LeaseRecord], missing: int) -> list[LeaseRecord]:
    if missing <= 0:
        return []
    chosen: list[LeaseRecord] = []
    freed = 0
    for record in candidates:
        if freed >= missing:
            break
        chosen.append(record)
        freed += record.request.need.model_bytes
    # Whoever was taken before a larger one made it needless may stay.
    for record in list(chosen):
        if freed - record.request.need.model_bytes >= missing:
            chosen.remove(record)
            freed -= record.request.need.model_bytes
    return chosen


def _whose(room: Room) -> str:
    if room.outstanding > 0:
        return f" for the main LLM ({gib(room.outstanding):.1f}GB still promised to it)"
    return ""


def _plan(
    record: LeaseRecord, placement: Placement, reason: str, ledger: Ledger, now: float
) -> Move:
    """Whoever must leave may: with no card and the CPU off (device ``None``) it is unloaded."""
    ledger.begin_move(
        record, placement.uuid, placement.device or "none", reason, now=now, forced=True
    )
    return Move(record.lease_id, replace(placement, reason=reason, evictions=()), forced=True)


def cooldown(expulsions: int, config: GPUMemoryConfig) -> float:
    """Seconds before a return to a card that it had to leave so many times in a row."""
    return config.move_cooldown_seconds * 2 ** min(expulsions - 1, 5)


def _better(
    record: LeaseRecord,
    snapshot: MemorySnapshot,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    reservation_bytes: int | None,
) -> Placement | None:
    """A device that is worth a move back: off the CPU, or off the LLM's card to vision's own."""
    on_llm_card = record.device == config.main_llm_device != config.vision_device
    if record.moving or not (record.uuid is None or on_llm_card):
        return None
    if record.request.name in ledger.kept_off:
        return None
    residency = record.request.min_residency
    if residency is None:
        residency = config.min_residency_seconds
    if now - record.landed_at < residency:
        return None
    cooling = {
        uuid
        for uuid, left in record.left_at.items()
        if now - left < cooldown(record.expulsions.get(uuid, 1), config)
    }
    exclude = {*cooling, record.uuid} if record.uuid else cooling
    found = place(
        record.request,
        snapshot,
        ledger,
        config,
        now,
        reservation_bytes=reservation_bytes,
        exclude=exclude,
        may_evict=False,
        margin_bytes=int(config.return_margin_gb * GIB),
    )
    if found.uuid is None or (on_llm_card and found.device != config.vision_device):
        return None
    return replace(found, reason=f"room again: {found.reason}")
