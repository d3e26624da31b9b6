"""Admission: who gets a card, who waits, who has to leave, who may return.

Driven by readings, requests and a clock that come from outside: by the manager in real time, by
the simulator in virtual time. No I/O, no tasks; everything happens within a call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from danzar_gpu import advice
from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Ledger, Request
from danzar_gpu.memory import GIB, MemorySnapshot, gib
from danzar_gpu.placement import Placement, place
from danzar_gpu.rebalance import cooling, rebalance
from danzar_gpu.room import Room, fits, rooms, want_on
from danzar_gpu.trust import STALE_SECONDS, Outlook, Skeptic

Policy = Literal["cpu", "wait", "fail"]
Facts = Mapping[str, object]
"""The figures behind a decision, by name, for programs that read the log."""
Note = Callable[[str, str, int, Facts], None]
"""Told of each decision: its kind, its words, how grave it is (``logging``'s levels), its facts."""
Cause = Literal["pressure", "priority", "return", "by hand"]
"""Why a model moves, of few words: memory is short, a more important one comes, a better card has
room again, somebody wants it."""

CPU_CHECK_SECONDS = 2.0
"""How often cards are looked at while a model waits on the CPU for one of them."""
CARD_CHECK_SECONDS = 5.0
"""How often while models are on cards: what a game that starts lacks so long, they hold."""
GREW_BYTES = GIB // 16
"""A holder that has so much more than it was leased is resized."""
SETTLE_SECONDS = 10.0
"""How long memory is watched closely after it changed hands, and how long a model with policy
``cpu`` waits for less important ones to leave its card."""
CLOSED = "the manager is closed"


@dataclass(frozen=True, slots=True)
class Claim:
    """What others are vacating on a card for one that waits."""

    uuid: str
    size_bytes: int
    at: float


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way to a lease. ``record`` or ``refused`` is set when it is settled."""

    request: Request
    policy: Policy
    settled: Callable[[Ticket], None]
    """Called once, when there is an answer."""
    arrived: int = 0
    patience: float | None = None
    """Seconds after which whoever drives this calls ``give_up``; ``None``: never."""
    record: LeaseRecord | None = None
    refused: Placement | None = None
    claim: Claim | None = None

    @property
    def open(self) -> bool:
        return self.record is None and self.refused is None


@dataclass(slots=True)
class Admission:
    """The decisions of the manager. ``revoke`` is told of each lease that has to go elsewhere."""

    config: GPUMemoryConfig
    note: Note
    revoke: Callable[[LeaseRecord], None]
    ledger: Ledger = field(default_factory=Ledger)
    snapshot: MemorySnapshot | None = None
    """The newest reading, with our own models in it."""
    reservation_bytes: int | None = None
    """The LLM's reservation where it is learned; ``None``: the configured one."""
    _queue: list[Ticket] = field(default_factory=list[Ticket])
    _vacated: dict[int, Claim] = field(default_factory=dict[int, Claim])
    """By lease without a card: what others are leaving for it."""
    _arrivals: int = 0
    _watch_until: float = 0.0
    _skeptic: Skeptic = field(default_factory=Skeptic)
    _quiet: tuple[object, ...] | None = None
    """What was looked at last when there was nothing to do."""
    _short_when_quiet: bool | None = None

    def use(self, config: GPUMemoryConfig) -> None:
        """Decide by another configuration from now on."""
        self.config = config
        self._quiet = None  # the same figures may mean something else now

    # Readings

    def observe(
        self,
        snapshot: MemorySnapshot,
        now: float,
        *,
        may_move: bool = True,
        llm_unheard: bool = False,
    ) -> None:
        """A new reading: relieve cards that are short, let models return, serve the queue.

        ``llm_unheard``: only the LLM's server could say what the LLM holds, and does not.
        """
        self.snapshot = snapshot
        self._skeptic.look(snapshot, self.ledger, self.config, now, llm_unheard=llm_unheard)
        state = self._state(snapshot, now) if may_move else None
        if state is not None and state == self._quiet:
            return  # the same figures, and nothing that time alone would change
        self._short_when_quiet = None
        self._reconcile(snapshot, now)
        if may_move:
            self._rebalance(snapshot, now)
        self._forget_claims(now)
        self._serve(now, may_evict=may_move)
        self._quiet = self._state(snapshot, now) if may_move else None

    def _state(self, snapshot: MemorySnapshot, now: float) -> tuple[object, ...] | None:
        """All that decisions depend on; ``None`` while they depend on time as well."""
        ledger = self.ledger
        if self._queue or self._vacated:
            return None
        if not self._skeptic.is_settled(now) or not ledger.settled(now):
            return None
        if any(r.moving or r.better_since is not None for r in ledger):
            return None
        # Somebody off the cards may take a place as soon as another has been there for long
        # enough, or as soon as it may return itself.
        least = self.config.min_residency_seconds
        if any(r.uuid is None for r in ledger) and any(
            now - r.landed_at < least or cooling(r, self.config, now) for r in ledger
        ):
            return None
        figures = [(d.uuid, d.free_bytes, d.total_bytes, d.processes) for d in snapshot.devices]
        return ledger.version, self.reservation_bytes, (*ledger.kept_off,), snapshot.faults, figures

    def interval(self, now: float) -> float:
        """Seconds to the next reading: short while something is tight, pending or moving."""
        if self.is_tense(now):
            return self.config.pressure_check_interval
        devices = self.snapshot.devices if self.snapshot is not None else ()
        if any(self.ledger.may_come_to(r, d.uuid) for r in self.ledger for d in devices):
            eager = CPU_CHECK_SECONDS
        elif any(r.uuid is not None for r in self.ledger):
            eager = CARD_CHECK_SECONDS
        else:
            return self.config.memory_check_interval
        eager = max(self.config.pressure_check_interval, eager)
        return min(self.config.memory_check_interval, eager)

    def is_tense(self, now: float) -> bool:
        """Whether memory has to be watched closely."""
        if self._queue or now < self._watch_until:
            return True
        if any(r.moving or r.grew or r.better_since is not None for r in self.ledger):
            return True
        if self._quiet is None or self._quiet[0] != self.ledger.version:
            return self._is_short(now)
        if self._short_when_quiet is None:
            self._short_when_quiet = self._is_short(now)
        return self._short_when_quiet

    def _is_short(self, now: float) -> bool:
        """Whether memory is near the point where somebody has to leave."""
        all_rooms = self.rooms(now)
        # Beside memory that the LLM may claim at any moment nothing may go unseen.
        llm = all_rooms.get(self.config.main_llm_index)
        if llm is not None and llm.vision_leased and llm.outstanding:
            return True
        return advice.is_near_pressure(all_rooms.values(), self.config)

    def rooms(self, now: float) -> dict[int, Room]:
        """Each card's arithmetic by index."""
        if self.snapshot is None:
            return {}
        return rooms(self.snapshot, self.ledger, self.config, now, self._outlook(None))

    def _outlook(
        self,
        max_age: float | None = STALE_SECONDS,
        asking: Ticket | None = None,
        *,
        leases: bool = True,
    ) -> Outlook:
        # To show where a model would go the last reading will do; to send it there it won't.
        counted = [t.claim for t in self._queue if t.claim is not None and t is not asking]
        if leases:  # among themselves their order counts
            counted += self._vacated.values()
        claims: dict[str, int] = {}
        for claim in counted:
            claims[claim.uuid] = claims.get(claim.uuid, 0) + claim.size_bytes
        return Outlook(
            self.reservation_bytes, self._skeptic.doubts, self._skeptic.llm_likely, claims, max_age
        )

    def place(self, request: Request, now: float) -> Placement:
        """Where a request would go now, by the newest reading. Changes nothing."""
        outlook = self._outlook(None)
        return place(
            request, self.snapshot, self.ledger, self.config, now, outlook=outlook, may_evict=False
        )

    def _admit(self, ticket: Ticket, now: float, *, may_evict: bool = False) -> Placement:
        """Where a request goes now: only a fresh reading admits anything to a card."""
        outlook = self._outlook(asking=ticket)
        return place(
            ticket.request,
            self.snapshot,
            self.ledger,
            self.config,
            now,
            outlook=outlook,
            may_evict=may_evict,
        )

    # Requests

    def ask(
        self,
        request: Request,
        policy: Policy,
        now: float,
        settled: Callable[[Ticket], None],
        patience: float | None = None,
    ) -> Ticket:
        """Admit, queue or refuse. The ticket may be settled before this returns."""
        ticket = Ticket(request, policy, settled, patience=patience)
        if (why := self.ledger.kept_off.get(request.name)) is not None:
            self._grant(ticket, Placement("cpu", why), now)
            return ticket
        placement = self._admit(ticket, now, may_evict=True)
        behind = placement.uuid is not None and self._behind_whom(request, placement.uuid, now)
        if placement.evictions and not behind:
            if policy != "wait":
                ticket.patience = SETTLE_SECONDS
            self._make_room(ticket, placement, now)
            self._enqueue(ticket, now)
        elif placement.uuid is not None and not behind:
            self._grant(ticket, placement, now)
        elif policy == "wait":
            self._enqueue(ticket, now)
        else:
            self._settle_at_once(ticket, placement, now)
        return ticket

    def give_up(self, ticket: Ticket, now: float) -> None:
        """Its patience is over: the CPU where the policy has it, else a refusal."""
        if ticket.open:
            self._leave_queue(ticket)
            self._settle_at_once(ticket, self._admit(ticket, now), now)

    def close(self) -> None:
        """Refuse whoever waits."""
        for ticket in tuple(self._queue):
            self._leave_queue(ticket)
            self._refuse(ticket, Placement(None, CLOSED))

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Nobody wants it any more; a lease that it got in the meantime is released."""
        self._leave_queue(ticket)
        if ticket.record is not None:
            self.release(ticket.record, now)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Who waits for a card, the next one first."""
        return tuple(ticket.request.name for ticket in self._queue)

    def _behind_whom(self, request: Request, uuid: str, now: float) -> str | None:
        """Who waits for this card and comes before it; ``None``: nobody."""
        for ticket in self._queue:
            # What is vacated for a ticket is counted as its own: it needs no further precedence.
            first = ticket.claim is None and ticket.request.priority >= request.priority
            if first and uuid in self._waits_for(ticket.request, now):
                return ticket.request.name
        return None

    def _enqueue(self, ticket: Ticket, now: float) -> None:
        self._arrivals += 1
        ticket.arrived = self._arrivals
        self._queue.append(ticket)
        self._queue.sort(key=lambda t: (-t.request.priority, t.arrived))
        self._watch(now)

    def _leave_queue(self, ticket: Ticket) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)

    def _serve(self, now: float, *, may_evict: bool = False) -> None:
        """Grant in order; whoever is first and doesn't fit holds up the rest, so none starves.

        But only on cards where it would fit if our models that are no more important were not
        there: for another one it does not wait, and where others are in its way nobody helps it by
        waiting. And for whom others made room, that one is not held up: the room may be what the
        first lacks, and both would wait for ever.
        """
        held_up: set[str] = set()
        for ticket in tuple(self._queue):
            could_use = self._could_use(ticket.request)
            if not ticket.open or (ticket.claim is None and could_use and could_use <= held_up):
                continue
            if ticket.claim is not None and self._has_lapsed(ticket.claim, now):
                ticket.claim = None
            placement = self._admit(ticket, now, may_evict=may_evict and ticket.claim is None)
            uuid = placement.uuid
            if uuid is None or placement.evictions:
                may = uuid is not None and uuid not in held_up
                held_up |= self._waits_for(ticket.request, now)
                if may and self._may_displace(ticket.request, placement, now):
                    self._make_room(ticket, placement, now)
            elif ticket.claim is not None or placement.uuid not in held_up:
                self._leave_queue(ticket)
                self._grant(ticket, placement, now)

    def _could_use(self, request: Request) -> set[str]:
        """Cards (UUIDs) that are large enough for it with what vision may take there, and don't
        refuse it."""
        barred = self.ledger.barred(request)
        return {
            d.uuid
            for d in (self.snapshot.devices if self.snapshot is not None else ())
            if d.uuid not in barred
            and self.ledger.expected(request, d.uuid).model_bytes
            <= self.config.vision_limit_bytes(d.total_bytes)
        }

    def _waits_for(self, request: Request, now: float) -> set[str]:
        """Of the cards that it could use those where it would fit once all of ours had left that
        are no more important."""
        could_use = self._could_use(request)
        found: set[str] = set()
        for room in self.rooms(now).values():
            uuid = room.device.uuid
            ours = room.departing + room.claimed
            for record in self.ledger:
                if uuid in (record.uuid, record.target_uuid):
                    more_important = record.request.priority > request.priority
                    ours += 0 if more_important else record.request.need.model_bytes
            want = want_on(request, uuid, self.ledger, self.config)
            if uuid in could_use and fits(room, want, ours):
                found.add(uuid)
        return found

    def _may_displace(self, request: Request, placement: Placement, now: float) -> bool:
        """Whether those that would leave for it have been there for long enough, and no lease
        without a card is to come there before it."""
        least = self.config.min_residency_seconds
        for record in self.ledger:
            if record.lease_id in placement.evictions and now - record.landed_at < least:
                return False
            comes = record.uuid is None and not record.moving and record.better_since is not None
            first = comes and record.request.priority >= request.priority
            if first and placement.uuid in self._waits_for(record.request, now):
                return False
        return True

    def _has_lapsed(self, claim: Claim, now: float) -> bool:
        """What others vacated is kept for a while only: somebody else may have taken it."""
        if now - claim.at < SETTLE_SECONDS:
            return False
        return not any(r.moving and r.uuid == claim.uuid != r.target_uuid for r in self.ledger)

    def _grant(self, ticket: Ticket, placement: Placement, now: float) -> None:
        request = ticket.request
        device = placement.device or "cpu"
        ticket.record = self.ledger.grant(request, placement.uuid, device, placement.reason, now)
        facts = {"model": request.name, "device": device, "need_bytes": request.need.total_bytes}
        text = f"{request.name} goes to {device}: {placement.reason}"
        self.note("placed", text, logging.INFO, facts)
        self._watch(now)
        ticket.settled(ticket)

    def _settle_at_once(self, ticket: Ticket, placement: Placement, now: float) -> None:
        """A card if it is its turn, else the CPU where the policy has it, else a refusal."""
        uuid = placement.uuid
        first = self._behind_whom(ticket.request, uuid, now) if uuid is not None else None
        if first is not None:
            reason = f"{first} waits for the room on {placement.device}"
            device = "cpu" if self.config.fallback_to_cpu else None
            placement = Placement(device, reason)
        if ticket.policy == "cpu" and placement.device is not None:
            self._grant(ticket, placement, now)
            return
        if ticket.policy == "wait" and ticket.patience is not None:
            reason = f"no card had room within {ticket.patience:g} s; {placement.reason}"
            placement = replace(placement, reason=reason)
        self._refuse(ticket, placement)

    def _refuse(self, ticket: Ticket, placement: Placement) -> None:
        ticket.refused = replace(placement, device=None, uuid=None)
        request = ticket.request
        facts = {"model": request.name, "need_bytes": request.need.total_bytes}
        text = f"{request.name} was refused: {placement.reason}"
        self.note("refused", text, logging.WARNING, facts)
        ticket.settled(ticket)

    # Moves

    def _reconcile(self, snapshot: MemorySnapshot, now: float) -> None:
        """Whoever takes more than its lease is resized, so that nobody else is promised that."""
        for device in snapshot.devices:
            if device.uuid in self._skeptic.doubts:
                continue
            for holder, (models, context) in self.ledger.tally(device.uuid).landed.items():
                theirs = [r for r in self.ledger if r.holder == holder and r.occupies(device.uuid)]
                # Whoever is on the way here or away may have its memory here or not.
                if any(r.moving for r in theirs) or self.ledger.is_departing(
                    device.uuid, holder, now
                ):
                    continue
                # The allocator's own word leaves no doubt about what is the context's.
                allocated = self.ledger.allocator_bytes(device.index, holder)
                held = self.ledger.held_bytes(device, holder) - context
                more = (allocated or held) - models
                if more > GREW_BYTES and theirs:
                    self._enlarge(theirs, more, device.label)

    def _enlarge(self, here: list[LeaseRecord], more: int, label: str) -> None:
        # Whoever has not said yet what it takes is the one that surprises, and of several the one
        # that has not surprised before: what it took was counted then.
        unsaid = [r for r in here if not r.measured]
        records = [r for r in unsaid if not r.grew] or unsaid or here
        total = sum(r.request.need.model_bytes for r in records)
        for record in records:
            need = record.request.need
            share = need.model_bytes / total if total else 1 / len(records)
            activations = need.activations_bytes + int(more * share)
            record.grew = True
            self.ledger.resize(record, replace(need, activations_bytes=activations))
        names = " and ".join(record.request.name for record in records)
        text = f"{names} took {gib(more):.1f}GB more on {label} than leased"
        self.note("resized", text, logging.INFO, {"models": names, "more_bytes": more})

    def _rebalance(self, snapshot: MemorySnapshot, now: float) -> None:
        outlook = self._outlook(leases=False)
        plan = rebalance(snapshot, self.ledger, self.config, now, outlook=outlook)
        for record in self.ledger:
            if record.lease_id not in plan.waiting_to_return:
                record.better_since = None
            elif record.better_since is None:
                record.better_since = now
            if record.lease_id not in plan.roomy:
                record.roomy_since = None
            elif record.roomy_since is None:
                record.roomy_since = now
        for move in plan.moves:
            record = self.ledger.get(move.lease_id)
            if record is not None and not record.moving:
                cause = "pressure" if move.forced else "return"
                self._begin_move(record, move.placement, now, cause)
        if plan.vacated is not None:
            lease_id, uuid = plan.vacated
            if (record := self.ledger.get(lease_id)) is not None:
                self._vacated[lease_id] = self._claim(record.request, uuid, now)
        if plan.pressure:
            self._watch(now)

    def _forget_claims(self, now: float) -> None:
        """Of leases that are on their way, or gone, and those that nobody came to use."""
        for lease_id, claim in tuple(self._vacated.items()):
            record = self.ledger.get(lease_id)
            waits = record is not None and record.uuid is None and not record.moving
            if not waits or self._has_lapsed(claim, now):
                del self._vacated[lease_id]

    def _claim(self, request: Request, uuid: str, now: float) -> Claim:
        return Claim(uuid, want_on(request, uuid, self.ledger, self.config).need, now)

    def _make_room(self, ticket: Ticket, placement: Placement, now: float) -> None:
        """Ask less important leases to leave a card for it; what they give up is kept for it."""
        assert placement.uuid is not None
        request = ticket.request
        ticket.claim = self._claim(request, placement.uuid, now)
        for lease_id in placement.evictions:
            victim = self.ledger.get(lease_id)
            if victim is None or victim.moving or victim.uuid is None:
                continue
            elsewhere = place(
                victim.request,
                self.snapshot,
                self.ledger,
                self.config,
                now,
                outlook=self._outlook(),
                exclude={victim.uuid, *cooling(victim, self.config, now)},
                may_evict=False,
            )
            reason = f"{request.name} is more important; {elsewhere.reason}"
            self._begin_move(victim, replace(elsewhere, reason=reason), now, "priority")

    def keep_off(self, name: str, why: str, now: float) -> None:
        """A model leaves its card for the CPU and stays there until ``let_back``."""
        self.ledger.kept_off[name] = why
        for record in self.ledger:
            if record.request.name == name:
                self._send_off(record, now)

    def _send_off(self, record: LeaseRecord, now: float) -> None:
        """To the CPU, if it is kept off the cards. Who is on the way arrives first: its holder
        follows one order after another, and a lease that is rewritten meanwhile would not say
        where it is."""
        why = self.ledger.kept_off.get(record.request.name)
        if why is not None and record.uuid is not None and not record.moving:
            self._begin_move(record, Placement("cpu", why), now, "by hand")

    def let_back(self, name: str, now: float) -> list[Placement]:
        """It may be on a card again, and goes there at once if one has room for it.

        Returns where each lease of that name goes, or why it stays on the CPU.
        """
        self.ledger.kept_off.pop(name, None)
        self.ledger.unbar(name)
        found: list[Placement] = []
        for record in self.ledger:
            if record.request.name == name and record.uuid is None and not record.moving:
                placement = self.place(record.request, now)
                found.append(placement)
                if placement.uuid is not None:
                    self._begin_move(record, placement, now, "by hand")
        return found

    def _begin_move(
        self, record: LeaseRecord, placement: Placement, now: float, cause: Cause
    ) -> None:
        where = placement.device or "none"
        forced = cause in ("pressure", "priority")
        facts = {
            "model": record.request.name,
            "from": record.device,
            "to": where,
            "cause": cause,
            "need_bytes": record.request.need.total_bytes,
        }
        self.ledger.begin_move(
            record, placement.uuid, where, placement.reason, now=now, forced=forced
        )
        self.note(
            "revoked",
            f"{record.request.name} leaves {record.device} for "
            f"{placement.device or 'nothing'}: {placement.reason}",
            logging.INFO,
            facts,
        )
        self._watch(now)
        self.revoke(record)

    def landed(self, record: LeaseRecord, now: float, held_bytes: int | None = None) -> None:
        """A lease that was told to move has arrived, and takes ``held_bytes`` there."""
        if record.target_device is None:
            return
        origin = record.device
        self.ledger.land(record, now)
        need = record.request.need
        if held_bytes is not None and record.uuid is not None and held_bytes > need.model_bytes:
            extra = held_bytes - need.model_bytes
            self.ledger.resize(
                record, replace(need, activations_bytes=need.activations_bytes + extra)
            )
        name = record.request.name
        facts = {"model": name, "from": origin, "to": record.device}
        self.note("moved", f"{name} moved from {origin} to {record.device}", logging.INFO, facts)
        self._send_off(record, now)
        self._serve(now)
        self._watch(now)

    def ran_out(self, record: LeaseRecord, uuid: str, needed_bytes: int) -> Footprint | None:
        """A model found no room for ``needed_bytes`` (without the context) on a card: ask for that
        much there from now on. ``None``: no less was asked for, so that somebody else took it."""
        need = self.ledger.expected(record.request, uuid)
        if needed_bytes <= need.model_bytes:
            return None
        more = replace(need, activations_bytes=needed_bytes - need.weights_bytes)
        self.ledger.learn(record.request.name, uuid, more)
        return more

    def move_failed(self, record: LeaseRecord, why: str, now: float) -> None:
        """It could not get there and is unloaded: it falls to the CPU."""
        wanted = record.target_device or record.device
        reason = f"{wanted} failed: {why}"
        self.ledger.begin_move(record, None, "cpu", reason, now=now, forced=True)
        self.ledger.land(record, now)
        facts = {"model": record.request.name, "from": wanted, "to": "cpu", "cause": "failed"}
        text = f"{record.request.name} falls to the CPU: {reason}"
        self.note("move-failed", text, logging.WARNING, facts)
        self._serve(now)

    # Holders

    def measured(self, record: LeaseRecord, footprint: Footprint, now: float) -> None:
        """What a model really takes replaces what was expected."""
        record.measured = True
        self.ledger.resize(record, footprint)
        self._serve(now)

    def release(self, record: LeaseRecord, now: float) -> None:
        """A lease is given back. Idempotent."""
        if self.ledger.release(record.lease_id, now) is not None:
            name = record.request.name
            facts = {"model": name, "device": record.device}
            self.note("released", f"{name} gave back {record.device}", logging.INFO, facts)
            self._watch(now)
            self._serve(now)

    def holder_memory(self, holder: str, memory: HolderMemory) -> None:
        """What a holder's allocator says of itself."""
        self.ledger.set_holder(holder, memory)

    def holder_gone(self, holder: str, why: str, now: float) -> list[LeaseRecord]:
        """A process is dead: its leases end at once."""
        gone = self.ledger.drop_holder(holder, now)
        if gone:
            names = ", ".join(record.request.name for record in gone)
            text = f"{holder} is gone ({why}): {names} released"
            self.note("holder-gone", text, logging.WARNING, {"holder": holder, "models": names})
            self._watch(now)
            self._serve(now)
        return gone

    def _watch(self, now: float) -> None:
        self._watch_until = now + SETTLE_SECONDS
