"""Who has to move: a card is short, or a better one has room. Pure.

The order and the arithmetic are those of ``placement.py`` and ``room.py``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import LeaseRecord, Ledger
from danzar_gpu.memory import GIB, MemorySnapshot, gib
from danzar_gpu.placement import Placement, choose, first_fit, victims_for
from danzar_gpu.room import Room, Want, available_words, fits, order, rooms, want_on
from danzar_gpu.trust import PLAIN, Outlook

LIMIT_TOLERANCE_BYTES = GIB // 16
"""A measured model may be so much over vision's limit before it has to leave."""
FIRST_DWELL_SECONDS = 3.0
"""A model that never had to leave a card goes there when it has had room for so long."""
FORGIVEN_SECONDS = 600.0
"""So long after a model left a card it is as if it never had."""
CALM_DWELLS = 6
"""So many dwells vision's own card must have had room before a model that is well on the LLM's card
moves over: for a minute it can't go back, and has only the CPU if the room does not last."""
SOON_SECONDS = 5.0
"""Room that a model will take so soon is not given to a less important one."""
_LOST = re.compile(r"\blost\b|fallen off|not found", re.IGNORECASE)


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
    vacated: tuple[int, str] | None = None
    """(lease, card's UUID): for whom others leave which card."""


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
    vacated: tuple[int, str] | None = None
    for record in planner.candidates():
        better = planner.better(record)
        if record.uuid is None and (better is None or better.wait == math.inf):
            shift = planner.after_a_shift(record, of_several=better is None)
            better = shift or planner.in_place_of(record) or better
        if better is None:
            continue
        waiting.append(record.lease_id)
        if better.roomy:
            roomy.append(record.lease_id)
        if better.wait <= 0 and not planner.moves:
            # One return at a time: the next reading shows what it really took.
            planner.moves += better.moves
            if all(move.lease_id != record.lease_id for move in better.moves):
                vacated = record.lease_id, better.room.device.uuid
        elif better.wait <= SOON_SECONDS:
            planner.keep(better.room, record)
    return Rebalance(tuple(planner.moves), tuple(waiting), tuple(roomy), tuple(pressure), vacated)


def _deficit(room: Room, config: GPUMemoryConfig) -> int:
    """Bytes that are promised or must stay free, and aren't; 0 on a card without our leases."""
    if room.doubtful or not room.vision_leased:
        return 0
    floor = int(config.pressure_gb * GIB)
    return max(0, floor - room.likely_available - room.departing)


@dataclass(frozen=True, slots=True)
class _Better:
    """A device that is worth a move."""

    room: Room
    moves: tuple[Move, ...]
    """Of the lease that gains, or of those that make room for it."""
    roomy: bool
    """It has the margin for a return beyond the need."""
    wait: float
    """Seconds until it has had room for long enough; infinite while it has to stay away."""


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
        """Evict just the deficit: the least important first, among equals the largest relief.

        Unless others, who have room on another card, will do: a move takes a moment, the CPU
        takes long.
        """
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
        short = max(missing, excess) - leaving
        chosen = _just_enough(candidates, short)
        if not all(map(self._may_move_over, chosen)):
            movable = [r for r in candidates if self._may_move_over(r)]
            instead = _just_enough(movable, short)
            if sum(r.request.need.model_bytes for r in instead) >= short:
                chosen = instead
        for record in chosen:
            if missing > 0:
                why = f"{room.device.label} is short of {gib(missing):.1f}GB{_whose(room)}"
            else:
                why = (
                    f"{room.device.label} holds {gib(excess):.1f}GB more for vision than the "
                    f"{gib(room.vision_limit):.1f}GB allowed"
                )
            self._expel(record, why, {uuid})

    def _may_move_over(self, record: LeaseRecord) -> bool:
        """Whether another card has room for it."""
        return self._choice(record, cooling(record, self._config, self._now)) is not None

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
        found = choose(record.request, self.rooms, self._ledger, self._config, away)
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

    def candidates(self) -> list[LeaseRecord]:
        """Who may go elsewhere of its own accord, the most important first: off the CPU, and if
        nobody there could take vision's own card, off the LLM's card to it."""
        config = self._config
        still = [r for r in self._ledger if not r.moving]
        kept_off = self._ledger.kept_off
        found = [r for r in still if r.uuid is None and r.request.name not in kept_off]
        vision, llm = self.rooms.get(config.vision_index), config.main_llm_device
        if (
            vision is not None
            and llm != config.vision_device
            and not vision.doubtful
            # Whoever is on the CPU and could be on vision's card needs it more.
            and not any(self._ledger.may_come_to(r, vision.device.uuid) for r in self._ledger)
        ):
            found += [r for r in still if r.device == llm and r.request.name not in kept_off]
        found.sort(key=lambda r: (-r.request.priority, r.lease_id))
        return found

    def better(self, record: LeaseRecord) -> _Better | None:
        """Off the CPU, or off the LLM's card to vision's own."""
        config, now = self._config, self._now
        on_llm_card = record.uuid is not None
        cold = cooling(record, config, now)
        choice = self._visions if on_llm_card else self._choice
        room = choice(record, cold)
        rested = room is not None and now - record.landed_at >= _residency(record, config)
        if room is None and cold:
            room = choice(record, set())
        if room is None:
            return None
        uuid = room.device.uuid
        margin = int(config.return_margin_gb * GIB)
        roomy = fits(room, want_on(record.request, uuid, self._ledger, config, margin))
        wait = _wait(record, uuid, roomy, on_llm_card, config, now) if rested else math.inf
        placement = _to(room, f"room again: {available_words(room)}")
        return _Better(room, (Move(record.lease_id, placement, forced=False),), roomy, wait)

    def keep(self, room: Room, record: LeaseRecord) -> None:
        """Others find a card without what this one is about to take."""
        uuid = room.device.uuid
        want = want_on(record.request, uuid, self._ledger, self._config)
        index = room.device.index
        self.rooms[index] = replace(room, claimed=room.claimed + want.need)

    def after_a_shift(self, record: LeaseRecord, *, of_several: bool) -> _Better | None:
        """Off the CPU once another model, or several, moved to cards where they fit as well."""
        why = f"makes room for {record.request.name}"
        for room in self._rooms_but(cooling(record, self._config, self._now), record):
            want = want_on(record.request, room.device.uuid, self._ledger, self._config)
            resident = self._resident(room)
            for other in resident:
                if fits(room, want, other.request.need.model_bytes):
                    with self._supposed():
                        move = self._over(other, why)
                    if move is not None:
                        return self._once_left(record, room, (move,))
            if of_several:
                no_more = [r for r in resident if r.request.priority <= record.request.priority]
                if moves := self._several_over(no_more, room, want, why):
                    return self._once_left(record, room, moves)
        return None

    def _several_over(
        self, resident: list[LeaseRecord], room: Room, want: Want, why: str
    ) -> tuple[Move, ...]:
        """As many of them, the largest first, as make room together; none if they can't."""
        if not fits(room, want, sum(r.request.need.model_bytes for r in resident)):
            return ()
        moves: list[Move] = []
        freed = 0
        with self._supposed():
            for other in sorted(resident, key=lambda r: -r.request.need.model_bytes):
                if (move := self._over(other, why)) is None:
                    continue
                moves.append(move)
                freed += other.request.need.model_bytes
                if fits(room, want, freed):
                    return tuple(moves)
        return ()

    def in_place_of(self, record: LeaseRecord) -> _Better | None:
        """Off the CPU in the place of less important models, or of an equally important one that
        leaves room for two."""
        for room in self._rooms_but(cooling(record, self._config, self._now), record):
            resident = self._resident(room)
            victims = victims_for(record.request, room, self._ledger, self._config)
            if victims and all(victim in resident for victim in victims):
                why = f"{record.request.name} is more important"
                return self._once_left(record, room, self._away(victims, why))
            for victim in resident if self._config.fallback_to_cpu else ():
                if victim.request.priority != record.request.priority:
                    continue
                if (second := self._beside(record, victim, room)) is not None:
                    why = f"makes room for {record.request.name} and {second.request.name}"
                    return self._once_left(record, room, self._away((victim,), why))
        return None

    def _beside(self, record: LeaseRecord, victim: LeaseRecord, room: Room) -> LeaseRecord | None:
        """Who else would fit in the place of ``victim``, after ``record``."""
        ledger, config = self._ledger, self._config
        uuid, freed = room.device.uuid, victim.request.need.model_bytes
        want = want_on(record.request, uuid, ledger, config)
        if want.model >= freed or not fits(room, want, freed):
            return None
        with_record = replace(room, claimed=room.claimed + want.model)
        for other in ledger:
            if other is record or not self._waits(other):
                continue
            if uuid in cooling(other, config, self._now) or uuid in ledger.barred(other.request):
                continue
            if fits(with_record, want_on(other.request, uuid, ledger, config), freed):
                return other
        return None

    def _away(self, victims: Iterable[LeaseRecord], why: str) -> tuple[Move, ...]:
        """Each to another card that has room beside those before it, else to the CPU."""
        nowhere = Placement("cpu" if self._config.fallback_to_cpu else None, why)
        with self._supposed():
            return tuple(
                self._over(victim, why) or Move(victim.lease_id, nowhere, forced=False)
                for victim in victims
            )

    def _over(self, record: LeaseRecord, why: str) -> Move | None:
        """To another card that has room, which has less for those after it."""
        room = self._choice(record, cooling(record, self._config, self._now))
        if room is None:
            return None
        self.keep(room, record)
        placement = _to(room, f"{why}; {available_words(room)}")
        return Move(record.lease_id, placement, forced=False)

    @contextlib.contextmanager
    def _supposed(self) -> Generator[None]:
        """What is kept meanwhile is given back at the end."""
        before = self.rooms.copy()
        try:
            yield
        finally:
            self.rooms = before

    def _once_left(self, record: LeaseRecord, room: Room, moves: tuple[Move, ...]) -> _Better:
        config, now = self._config, self._now
        rested = now - record.landed_at >= _residency(record, config)
        uuid = room.device.uuid
        wait = _wait(record, uuid, True, False, config, now) if rested else math.inf
        return _Better(room, moves, roomy=True, wait=wait)

    def _waits(self, record: LeaseRecord) -> bool:
        """Whether it is on the CPU and may leave it."""
        kept_off = record.request.name in self._ledger.kept_off
        return record.uuid is None and not record.moving and not kept_off

    def _rooms_but(self, cold: set[str], record: LeaseRecord) -> list[Room]:
        """The cards that may be used, the preferred ones first."""
        out = cold.union(self._ledger.barred(record.request))
        usable = {
            r.device.uuid: r
            for r in self.rooms.values()
            if not r.doubtful and r.device.uuid not in out
        }
        return [usable[d.uuid] for d in order((r.device for r in usable.values()), self._config)]

    def _resident(self, room: Room) -> list[LeaseRecord]:
        """Who has been on a card for long enough to be asked to leave it."""
        least = self._config.min_residency_seconds
        return [
            r
            for r in self._ledger
            if r.uuid == room.device.uuid and not r.moving and self._now - r.landed_at >= least
        ]

    def _choice(self, record: LeaseRecord, exclude: set[str]) -> Room | None:
        if record.uuid is not None:
            exclude = {*exclude, record.uuid}
        return first_fit(record.request, self.rooms, self._ledger, self._config, exclude)

    def _visions(self, record: LeaseRecord, cold: set[str]) -> Room | None:
        """Vision's own card, if it has room."""
        room = self.rooms[self._config.vision_index]
        uuid = room.device.uuid
        if uuid == record.uuid or uuid in cold or uuid in self._ledger.barred(record.request):
            return None
        want = want_on(record.request, uuid, self._ledger, self._config)
        return room if fits(room, want) else None


def _to(room: Room, reason: str) -> Placement:
    return Placement(room.device.device, reason, room.device.uuid)


def _unreadable(device: str, faults: Iterable[str]) -> bool:
    """Whether a card is missing from a reading only because the driver would not answer."""
    label = f"Device {device.removeprefix('cuda:')} ("
    return any(fault.startswith(label) and not _LOST.search(fault) for fault in faults)


def _residency(record: LeaseRecord, config: GPUMemoryConfig) -> float:
    if record.request.min_residency is not None:
        return record.request.min_residency
    # Whoever only ever was on the CPU was not moved: nothing can bounce.
    return config.min_residency_seconds if record.left_at else 0.0


def _wait(
    record: LeaseRecord,
    uuid: str,
    roomy: bool,
    on_llm_card: bool,
    config: GPUMemoryConfig,
    now: float,
) -> float:
    """Seconds until a card has had room for long enough for this model; 0 or less: it has.

    Where it never had to leave a moment will do. A model that had stayed for long before it had
    to leave returns soon, if there is a margin; one that was sent away soon after it came waits
    for the whole dwell. Who is well on the LLM's card leaves it only for a card that was calm for
    long, and not for one from which it was sent away soon after it came back.
    """
    dwell = config.return_dwell_seconds
    left = record.left_at.get(uuid)
    fresh = left is None or now - left >= FORGIVEN_SECONDS
    hurried = not fresh and uuid in record.short_stays
    since = record.better_since
    if on_llm_card:
        if left is not None and not fresh and uuid in record.bounces:
            return FORGIVEN_SECONDS - (now - left)
        patience, since = CALM_DWELLS * dwell, record.roomy_since
    elif fresh:
        patience = min(FIRST_DWELL_SECONDS, dwell)
    elif roomy and not hurried:
        patience, since = dwell / 3, record.roomy_since
    else:
        patience = dwell
    return patience if since is None else patience - (now - since)


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


def cooling(record: LeaseRecord, config: GPUMemoryConfig, now: float) -> set[str]:
    """Cards (UUIDs) that a lease left too recently to go back there."""
    cooldown = config.move_cooldown_seconds
    return {uuid for uuid, left in record.left_at.items() if now - left < cooldown}
