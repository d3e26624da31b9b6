"""Where a model goes, and who has to move: pure functions of a snapshot, the ledger and the
configuration. Every answer carries its reason in words; chat, log and history repeat them.

The order is the guide's: the vision device, the LLM's device only beyond its reservation, any
other card, the CPU. The arithmetic of one card is a ``Room``::

    available = free - leased but not yet allocated - the LLM's outstanding reservation
    fits      = available >= threshold and available - need >= headroom and within vision's limit

A model that was never measured may take 30 % more than predicted, the headroom included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import LeaseRecord, Ledger, Request
from danzar_gpu.memory import GIB, DeviceMemory, MemorySnapshot, gib
from danzar_gpu.trust import PLAIN, Outlook

NO_DEVICE = "No GPU devices available with sufficient memory"
RELEASE_PATIENCE_SECONDS = 5.0
"""How long the driver may take to show memory that was given up: 0.5 to 1.5 s is typical."""
NEAR_TIE_BYTES = GIB // 4
"""Differences in free memory below this don't decide between two cards."""
SURPRISE_SHARE = 0.3
"""How much more than predicted a model may take that was never measured."""
LIMIT_TOLERANCE_BYTES = GIB // 4
"""A measured model may be so much over vision's limit before it has to leave."""
FIRST_DWELL_SECONDS = 3.0
"""A model that never had to leave a card goes there when it has had room for so long."""
FORGIVEN_SECONDS = 600.0
"""So long after a model left a card it is as if it never had."""
TIGHT_DWELL_FACTOR = 4
"""A card without the margin for a return must have had room so many times longer."""
_LOST = re.compile(r"\blost\b|fallen off|not found", re.IGNORECASE)


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
    roomy: tuple[int, ...] = ()
    """Those of them for which it has the margin for a return, too."""
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
    device: DeviceMemory,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    reservation: int | None,
    outlook: Outlook = PLAIN,
) -> Room:
    """One card's arithmetic; ``reservation`` is the LLM's, in bytes, ``None`` on other cards."""
    held = outstanding = unlisted = 0
    if reservation is not None:
        held = llm_held_bytes(device, config)
        outstanding = max(0, reservation - held)
        unlisted = outlook.llm_likely.get(device.uuid, 0)
    return Room(
        device=device,
        pending=ledger.pending_bytes(device),
        outstanding=outstanding,
        llm_held=held,
        departing=ledger.departing_bytes(device, now, RELEASE_PATIENCE_SECONDS),
        vision_leased=ledger.leased_bytes(device.uuid),
        vision_limit=config.vision_limit_bytes(device.total_bytes),
        doubtful=outlook.doubts.get(device.uuid) or _doubt(device, config, now, outlook.max_age),
        for_llm=reservation is not None,
        claimed=outlook.claims.get(device.uuid, 0),
        unlisted_llm=min(outstanding, max(0, unlisted - held)),
    )


def _doubt(device: DeviceMemory, config: GPUMemoryConfig, now: float, max_age: float | None) -> str:
    age = max(device.age_seconds, now - device.read_at)
    if max_age is None:
        max_age = max(2.5 * config.memory_check_interval, 3.0 * config.probe_timeout_seconds)
    if age > max_age:
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
    outlook: Outlook = PLAIN,
) -> dict[int, Room]:
    """Every card's arithmetic by index."""
    reservation = outlook.reservation_bytes
    if reservation is None:
        reservation = configured_reservation(config)
    llm_index = config.main_llm_index
    return {
        d.index: room_of(
            d, ledger, config, now, reservation if d.index == llm_index else None, outlook
        )
        for d in snapshot.devices
    }


def configured_reservation(config: GPUMemoryConfig) -> int:
    """The LLM's reservation in bytes; ``auto`` starts from the guide's 8 GiB."""
    size = config.main_llm_memory_reservation_gb
    return int((8.0 if size == "auto" else size) * GIB)


def need_on(request: Request, uuid: str, ledger: Ledger) -> int:
    """Bytes that a request adds on a card: of its context only what its holder lacks there."""
    need = ledger.expected(request, uuid)
    return need.model_bytes + max(
        0, need.context_bytes - ledger.context_bytes(uuid, request.holder)
    )


def surprise_on(request: Request, ledger: Ledger) -> int:
    """Bytes by which a model that was never measured may exceed what is expected of it."""
    if ledger.is_learned(request.name):
        return 0
    return int(SURPRISE_SHARE * request.need.model_bytes)


def _wanted(need: int, config: GPUMemoryConfig, margin_bytes: int, surprise_bytes: int) -> int:
    """What has to be available on a card so that it can take ``need``."""
    headroom = max(int(config.headroom_gb * GIB), surprise_bytes) if need else 0
    return max(int(config.cpu_fallback_threshold_gb * GIB), need + headroom + margin_bytes)


def fits(
    room: Room,
    need: int,
    config: GPUMemoryConfig,
    margin_bytes: int = 0,
    surprise_bytes: int = 0,
    freed_bytes: int = 0,
) -> bool:
    """Whether ``need`` bytes (and a margin) fit on a card once ``freed_bytes`` of ours left it.

    ``surprise_bytes`` may come on top; the headroom absorbs it as far as it goes.
    """
    if room.doubtful:
        return False
    available = room.available - room.claimed + freed_bytes
    if available < _wanted(need, config, margin_bytes, surprise_bytes):
        return False
    return not need or room.vision_leased + room.claimed - freed_bytes + need <= room.vision_limit


def shortage(
    room: Room,
    need: int,
    config: GPUMemoryConfig,
    margin_bytes: int = 0,
    surprise_bytes: int = 0,
) -> str | None:
    """Why it does not fit, in words; ``None`` when it does."""
    if fits(room, need, config, margin_bytes, surprise_bytes):
        return None
    device = room.device
    if room.doubtful:
        return f"{device.label} is left alone: {room.doubtful}"
    available = room.available - room.claimed
    leased = room.vision_leased + room.claimed
    wanted = _wanted(need, config, margin_bytes, surprise_bytes)
    if room.for_llm and available < wanted:
        return (
            f"Device {device.index} reserved for main LLM "
            f"({gib(device.free_bytes):.1f}GB free, {gib(room.outstanding):.1f}GB still promised "
            f"to it)"
        )
    if need and leased + need > room.vision_limit:
        return (
            f"{device.label} would exceed vision's limit of {gib(room.vision_limit):.1f}GB "
            f"({gib(leased):.1f}GB leased, {gib(need):.1f}GB asked)"
        )
    return (
        f"{device.label} has {gib(max(0, available)):.1f}GB available, "
        f"{gib(wanted):.1f}GB needed{_holders(device)}"
    )


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
    vision, llm = config.vision_index, config.main_llm_index

    def rank(device: DeviceMemory) -> tuple[int, int, int, int, int]:
        index = device.index
        major, minor = device.compute_capability or (0, 0)
        place = 0 if index == vision else 1 if index == llm else 2
        return place, -major, -minor, device.free_bytes // NEAR_TIE_BYTES, index

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
    outlook: Outlook = PLAIN,
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
    all_rooms = rooms(snapshot, ledger, config, now, outlook)
    return _choose(request, all_rooms, ledger, config, exclude, may_evict, margin_bytes)


def _choose(
    request: Request,
    all_rooms: Mapping[int, Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    exclude: Collection[str] = (),
    may_evict: bool = False,
    margin_bytes: int = 0,
) -> Placement:
    surprise = surprise_on(request, ledger)
    room = _first_fit(request, all_rooms, ledger, config, exclude, margin_bytes)
    if room is not None:
        return Placement(room.device.device, available_words(room), room.device.uuid)
    ordered = order((r.device for r in all_rooms.values() if r.device.uuid not in exclude), config)
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
    why: list[str] = []
    for device in ordered:
        need = need_on(request, device.uuid, ledger)
        problem = shortage(all_rooms[device.index], need, config, margin_bytes, surprise)
        if problem is not None:
            why.append(problem)
    if not all_rooms:
        why.append("no NVIDIA GPU was found")
    return _no_card(why, config)


def _first_fit(
    request: Request,
    all_rooms: Mapping[int, Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    exclude: Collection[str] = (),
    margin_bytes: int = 0,
) -> Room | None:
    """The first card in the guide's order that has room."""
    surprise = surprise_on(request, ledger)
    fitting = [
        room
        for room in all_rooms.values()
        if room.device.uuid not in exclude
        and fits(room, need_on(request, room.device.uuid, ledger), config, margin_bytes, surprise)
    ]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return all_rooms[order((room.device for room in fitting), config)[0].index]


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
    surprise = surprise_on(request, ledger)
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

    def enough_is(relief: int) -> bool:
        return fits(room, need, config, surprise_bytes=surprise, freed_bytes=relief)

    for record in candidates:
        chosen.append(record)
        freed += record.request.need.model_bytes
        if enough_is(freed):
            break
    else:
        return ()
    enough = [
        r
        for r in candidates
        if r.request.priority <= chosen[0].request.priority
        and enough_is(r.request.need.model_bytes)
    ]
    if enough:  # of the least important the smallest whose leaving will do
        return (min(enough, key=lambda r: r.request.need.model_bytes),)
    for record in tuple(chosen):
        if enough_is(freed - record.request.need.model_bytes):
            chosen.remove(record)
            freed -= record.request.need.model_bytes
    return tuple(chosen)


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
    outlook: Outlook = PLAIN,
) -> Rebalance:
    """Who has to leave a card that is short, and who may return to a better one."""
    planner = _Planner(snapshot, ledger, config, now, outlook)
    pressure: list[tuple[int, int]] = []
    for room in tuple(planner.rooms.values()):
        missing = _deficit(room, config)
        if missing > 0:
            pressure.append((room.device.index, missing))
        excess = 0 if room.doubtful else room.vision_leased - room.vision_limit
        if missing > 0 or excess > LIMIT_TOLERANCE_BYTES:
            planner.relieve(room, missing, excess)
    planner.rescue()
    waiting: list[int] = []
    roomy: list[int] = []
    for record in sorted(ledger, key=lambda r: (-r.request.priority, r.lease_id)):
        better = planner.better(record) or planner.after_a_shift(record)
        if better is None:
            continue
        waiting.append(record.lease_id)
        if better.roomy:
            roomy.append(record.lease_id)
        if better.ready and not planner.moves:
            # One return at a time: the next reading shows what it really took.
            planner.moves.append(Move(better.mover, better.placement, forced=False))
    return Rebalance(tuple(planner.moves), tuple(waiting), tuple(roomy), tuple(pressure))


def _deficit(room: Room, config: GPUMemoryConfig) -> int:
    """Bytes that are promised or must stay free, and aren't; 0 on a card without our leases."""
    if room.doubtful or not room.vision_leased:
        return 0
    floor = int(config.pressure_gb * GIB)
    return max(0, floor - room.likely_available - room.departing)


@dataclass(frozen=True, slots=True)
class _Better:
    """A device that is worth a move."""

    mover: int
    """The lease that moves: the one that gains, or one that makes room for it."""
    placement: Placement
    roomy: bool
    """It has the margin for a return beyond the need."""
    ready: bool
    """It has had room for long enough, and the model may move."""


class _Planner:
    """One rebalancing: moves count against each other before anybody makes them."""

    def __init__(
        self,
        snapshot: MemorySnapshot,
        ledger: Ledger,
        config: GPUMemoryConfig,
        now: float,
        outlook: Outlook,
    ) -> None:
        self.moves: list[Move] = []
        self.rooms = rooms(snapshot, ledger, config, now, outlook)
        self._snapshot = snapshot
        self._original = ledger
        self._ledger = ledger
        self._config = config
        self._now = now
        self._outlook = outlook

    def relieve(self, room: Room, missing: int, excess: int) -> None:
        """Evict just the deficit: the least important first, among equals the largest relief."""
        uuid = room.device.uuid
        leaving = sum(
            r.request.need.model_bytes
            for r in self._ledger
            if r.uuid == uuid and r.moving and r.target_uuid != uuid
        )
        candidates = sorted(
            (r for r in self._ledger if r.uuid == uuid and not r.moving),
            key=lambda r: (r.request.priority, -r.request.need.model_bytes, r.lease_id),
        )
        for record in _just_enough(candidates, max(missing, excess) - leaving):
            if missing > 0:
                why = f"{room.device.label} is short of {gib(missing):.1f}GB{_whose(room)}"
            else:
                why = (
                    f"{room.device.label} holds {gib(excess):.1f}GB more for vision than the "
                    f"{gib(room.vision_limit):.1f}GB allowed"
                )
            self._expel(record, why, {uuid})

    def rescue(self) -> None:
        """Whoever was on a card that is gone has to be elsewhere."""
        present = {room.device.uuid for room in self.rooms.values()}
        for record in self._ledger:
            if record.uuid is None or record.uuid in present or record.moving:
                continue
            if not _unreadable(record.device, self._snapshot.faults):
                self._expel(record, "its card is gone", set())

    def _expel(self, record: LeaseRecord, why: str, exclude: set[str]) -> None:
        away = exclude | cooling(record, self._config, self._now)
        found = _choose(record.request, self.rooms, self._ledger, self._config, away)
        placement = replace(found, reason=f"{why}; {found.reason}", evictions=())
        if self._ledger is self._original:
            self._ledger = self._original.copy()
        twin = self._ledger.get(record.lease_id) or record
        # Whoever must leave may: with no card and the CPU off (device None) it is unloaded.
        self._ledger.begin_move(
            twin, found.uuid, found.device or "none", why, now=self._now, forced=True
        )
        self.rooms = rooms(self._snapshot, self._ledger, self._config, self._now, self._outlook)
        self.moves.append(Move(record.lease_id, placement, forced=True))

    def better(self, record: LeaseRecord) -> _Better | None:
        """Off the CPU, or off the LLM's card to vision's own."""
        config, now = self._config, self._now
        on_llm_card = record.device == config.main_llm_device != config.vision_device
        if record.moving or not (record.uuid is None or on_llm_card):
            return None
        if record.request.name in self._ledger.kept_off:
            return None
        if on_llm_card and any(r.uuid is None for r in self._ledger):
            return None  # whoever is on the CPU needs vision's card more
        cold = cooling(record, config, now)
        found = self._choice(record, cold)
        ready = found is not None and now - record.landed_at >= _residency(record, config)
        if found is None and cold:
            found = self._choice(record, set())
        if found is None or found.uuid is None:
            return None
        if on_llm_card and found.device != config.vision_device:
            return None
        room = next(r for r in self.rooms.values() if r.device.uuid == found.uuid)
        need = need_on(record.request, found.uuid, self._ledger)
        margin = int(config.return_margin_gb * GIB)
        surprise = surprise_on(record.request, self._ledger)
        roomy = fits(room, need, config, margin, surprise)
        ready = ready and _waited(record, found.uuid, roomy, on_llm_card, config, now)
        placement = replace(found, reason=f"room again: {found.reason}")
        return _Better(record.lease_id, placement, roomy, ready)

    def after_a_shift(self, record: LeaseRecord) -> _Better | None:
        """Off the CPU once another model moved over to another card where it fits as well."""
        config, now = self._config, self._now
        if record.uuid is not None or record.moving or record.request.name in self._ledger.kept_off:
            return None
        cold = cooling(record, config, now)
        surprise = surprise_on(record.request, self._ledger)
        for room in self.rooms.values():
            uuid = room.device.uuid
            if room.doubtful or uuid in cold:
                continue
            need = need_on(record.request, uuid, self._ledger)
            for other in self._ledger:
                if other.uuid != uuid or other.moving:
                    continue
                if now - other.landed_at < config.min_residency_seconds:
                    continue
                freed = other.request.need.model_bytes
                if not fits(room, need, config, 0, surprise, freed):
                    continue
                target = self._choice(other, cooling(other, config, now))
                if target is None:
                    continue
                ready = now - record.landed_at >= _residency(record, config)
                ready = ready and _waited(record, uuid, True, False, config, now)
                reason = f"makes room for {record.request.name}: {target.reason}"
                return _Better(other.lease_id, replace(target, reason=reason), True, ready)
        return None

    def _choice(self, record: LeaseRecord, exclude: set[str]) -> Placement | None:
        if record.uuid is not None:
            exclude = {*exclude, record.uuid}
        room = _first_fit(record.request, self.rooms, self._ledger, self._config, exclude)
        if room is None:
            return None
        return Placement(room.device.device, available_words(room), room.device.uuid)


def _unreadable(device: str, faults: Iterable[str]) -> bool:
    """Whether a card is missing from a reading only because the driver would not answer."""
    label = f"Device {device.removeprefix('cuda:')} ("
    return any(fault.startswith(label) and not _LOST.search(fault) for fault in faults)


def _residency(record: LeaseRecord, config: GPUMemoryConfig) -> float:
    if record.request.min_residency is not None:
        return record.request.min_residency
    # Whoever only ever was on the CPU was not moved: nothing can bounce.
    return config.min_residency_seconds if record.left_at else 0.0


def _waited(
    record: LeaseRecord,
    uuid: str,
    roomy: bool,
    on_llm_card: bool,
    config: GPUMemoryConfig,
    now: float,
) -> bool:
    """Whether a card has had room for long enough for this model.

    Where it never had to leave a moment will do. A model that had stayed for long before it had
    to leave returns soon; one that was sent away soon after it came waits longer each time.
    """
    dwell = config.return_dwell_seconds
    left = record.left_at.get(uuid)
    fresh = left is None or now - left >= FORGIVEN_SECONDS
    if on_llm_card:
        patience = dwell
    elif fresh:
        patience = min(FIRST_DWELL_SECONDS, dwell)
    elif uuid in record.short_stays:
        patience = dwell * 2 ** min(record.expulsions.get(uuid, 1) - 1, 5)
    else:
        patience = dwell / 3
    if (fresh or roomy) and not on_llm_card:
        since = record.better_since if fresh else record.roomy_since
    else:
        since = record.roomy_since if on_llm_card else record.better_since
        patience *= 1 if on_llm_card else TIGHT_DWELL_FACTOR
    return since is not None and now - since >= patience


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
    least = candidates[0].request.priority if candidates else 0
    enough = [
        r
        for r in candidates
        if r.request.priority == least and r.request.need.model_bytes >= missing
    ]
    if enough:
        return [min(enough, key=lambda r: r.request.need.model_bytes)]
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


def cooldown(expulsions: int, config: GPUMemoryConfig) -> float:
    """Seconds before a return to a card that it had to leave so many times in a row."""
    return config.move_cooldown_seconds * 2 ** min(expulsions - 1, 5)


def cooling(record: LeaseRecord, config: GPUMemoryConfig, now: float) -> set[str]:
    """Cards (UUIDs) that a lease left too recently to go back there."""
    return {
        uuid
        for uuid, left in record.left_at.items()
        if now - left < cooldown(max(1, record.expulsions.get(uuid, 1)), config)
    }
