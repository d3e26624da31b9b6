"""Any order of requests, releases, programs, faults, deaths and time: what must hold regardless."""

from __future__ import annotations

from itertools import count

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from danzar_gpu.admission import GREW_BYTES, Admission, Ticket
from danzar_gpu.config import GPUMemoryConfig, device_index
from danzar_gpu.ledger import Footprint, HolderMemory, LeaseRecord, Request
from danzar_gpu.memory import GIB
from danzar_gpu.simulate.trace import Card, SensorFault
from danzar_gpu.simulate.world import World

HOLDERS = ("worker-a", "worker-b")
CONTEXT_GB = 0.4
sizes = st.sampled_from([0.2, 0.5, 0.8, 1.2, 1.9])


class AdmissionMachine(RuleBasedStateMachine):
    """Admission on a physical world; models allocate at once when they are sent somewhere."""

    @initialize(
        rig=st.sampled_from([(12.0, 12.0), (24.0, 8.0), (8.0,), (24.0, 24.0, 24.0, 24.0)]),
        fallback=st.booleans(),
    )
    def start(self, rig: tuple[float, ...], fallback: bool) -> None:
        self.config = GPUMemoryConfig(
            main_llm_memory_reservation_gb=rig[0] * 0.6, fallback_to_cpu=fallback
        )
        cards = tuple(
            Card(name=f"card {i}", total_gb=size, context_gb=CONTEXT_GB, release_lag=1.0)
            for i, size in enumerate(rig)
        )
        self.world = World(cards, self.config)
        self.now = 1000.0
        self.admission = Admission(self.config, lambda *_: None, self._revoke)
        self.keys = count()
        self.key_of: dict[int, int] = {}
        self.tickets: list[Ticket] = []
        self.revoked: list[LeaseRecord] = []
        self.dead: set[str] = set()
        self._look()

    # The world behind admission

    def _look(self) -> None:
        snapshot = self.world.read(self.now)
        if snapshot is None:
            return
        for holder in HOLDERS:
            held = {
                c.index: sum(c.models[holder].values())
                for c in self.world.cards
                if holder in c.models
            }
            memory = HolderMemory(self.world.pid(holder), {i: (b, b) for i, b in held.items()})
            self.admission.holder_memory(holder, memory)
        self.admission.observe(snapshot, self.now)

    def _revoke(self, record: LeaseRecord) -> None:
        assert record.moving
        if record.target_uuid is not None:
            self._check_admitted(record.target_uuid)
        self.revoked.append(record)

    def _settled(self, ticket: Ticket) -> None:
        record = ticket.record
        if record is None:
            assert ticket.refused is not None
            assert ticket.refused.reason
            return
        key = self.key_of[record.lease_id] = next(self.keys)
        if record.uuid is None:
            return
        self._check_admitted(record.uuid)
        size = record.request.need.model_bytes
        loaded = self.world.load(device_index(record.device), record.holder, key, size, self.now)
        # A reading that a fault froze in this very instant can't be told from a fresh one.
        assert loaded or self.world.faults, f"{record.request.name} has no room"
        if not loaded:
            self.admission.move_failed(record, "out of memory", self.now)

    def _check_admitted(self, uuid: str) -> None:
        """What is leased stays within what is free less what is promised."""
        room = next(r for r in self.admission.rooms(self.now).values() if r.device.uuid == uuid)
        assert not room.doubtful
        assert room.available >= 0
        assert room.vision_leased <= room.vision_limit

    def _unload(self, record: LeaseRecord) -> None:
        if record.uuid is not None:
            key = self.key_of[record.lease_id]
            self.world.unload(device_index(record.device), record.holder, key, self.now)

    def _move(self, record: LeaseRecord) -> None:
        """The holder follows its lease."""
        if self.admission.ledger.get(record.lease_id) is None or not record.moving:
            return
        self._unload(record)
        target = record.target_device or "cpu"
        if record.target_uuid is not None:
            size = self.admission.ledger.expected(record.request, record.target_uuid).model_bytes
            key = self.key_of[record.lease_id]
            index = device_index(target)
            if not self.world.load(index, record.holder, key, size, self.now):
                self.admission.move_failed(record, "out of memory", self.now)
                return
        self.admission.landed(record, self.now)

    # What may happen

    @rule(
        name=st.sampled_from(["yolo", "clip", "ocr", "depth"]),
        gb=sizes,
        priority=st.integers(0, 3),
        policy=st.sampled_from(["cpu", "wait", "fail"]),
        holder=st.sampled_from(HOLDERS),
    )
    def ask(self, name: str, gb: float, priority: int, policy: str, holder: str) -> None:
        if len(self.admission.ledger) > 12:
            return
        self._look()
        need = Footprint(int(gb * GIB), 0, int(CONTEXT_GB * GIB))
        request = Request(f"{name} {gb}", need, holder, priority)
        ticket = self.admission.ask(request, policy, self.now, self._settled)  # pyright: ignore[reportArgumentType]
        self.tickets.append(ticket)

    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        records = list(self.admission.ledger)
        if records:
            record = records[pick % len(records)]
            self._unload(record)
            self.admission.release(record, self.now)

    @rule(pick=st.integers(0, 99))
    def give_up(self, pick: int) -> None:
        waiting = [t for t in self.tickets if t.open]
        if waiting:
            ticket = waiting[pick % len(waiting)]
            self._look()
            self.admission.give_up(ticket, self.now)
            assert not ticket.open

    @precondition(lambda self: self.revoked)
    @rule(fails=st.booleans())
    def follow(self, fails: bool) -> None:
        record = self.revoked.pop(0)
        if fails and self.admission.ledger.get(record.lease_id) is not None and record.moving:
            self._unload(record)
            self.admission.move_failed(record, "it broke", self.now)
            assert record.uuid is None
        else:
            self._move(record)

    @rule(pick=st.integers(0, 99), gb=st.sampled_from([0.05, 0.2, 0.6]))
    def grow(self, pick: int, gb: float) -> None:
        """A model takes more than it was leased, if there is anything to take."""
        landed = [r for r in self.admission.ledger if r.uuid is not None]
        if not landed:
            return
        record = landed[pick % len(landed)]
        index, key = device_index(record.device), self.key_of[record.lease_id]
        held = self.world.cards[index].models.get(record.holder, {})
        if key in held:
            more = held[key] + int(gb * GIB)
            self.world.resize(index, record.holder, key, more, self.now)
        self._look()

    @rule(holder=st.sampled_from(HOLDERS))
    def die(self, holder: str) -> None:
        doomed = [r for r in self.admission.ledger if r.holder == holder]
        for record in doomed:
            self._unload(record)
        self.admission.holder_gone(holder, "killed", self.now)
        # Whoever waits in its name may be granted what it left: for the next process.
        assert all(self.admission.ledger.get(r.lease_id) is None for r in doomed)

    @rule(index=st.integers(0, 3), gb=st.floats(0, 24), llm=st.booleans())
    def program(self, index: int, gb: float, llm: bool) -> None:
        """A program comes, grows, shrinks or goes; it takes what is there."""
        card = self.world.cards[index % len(self.world.cards)]
        name = "ollama" if llm else "game.exe"
        held = card.programs.get(name, 0)
        wanted = int(gb * GIB)
        if wanted < held:
            self.world.give(card.index, name, held - wanted, self.now, llm=llm)
        else:
            more = min(wanted - held, card.room_for(name, self.now))
            if more > 0:
                self.world.take(card.index, name, more, self.now, llm=llm)

    @rule(
        kind=st.sampled_from(["stale", "not_supported", "zero", "no_processes"]),
        index=st.integers(0, 3),
    )
    def fault(self, kind: str, index: int) -> None:
        device = index % len(self.world.cards)
        if len(self.world.faults) < 2:
            fault = SensorFault.model_validate({"kind": kind, "device": device})
            self.world.faults.append(fault)

    @rule()
    def mend(self) -> None:
        self.world.faults.clear()

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 30.0, 90.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._look()

    # What must hold

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "admission"):
            return
        ledger = self.admission.ledger
        for card in self.world.cards:
            leased = sum(r.request.need.model_bytes for r in ledger if r.occupies(card.uuid))
            counted = sum(models for models, _ in ledger.tally(card.uuid).leased.values())
            assert leased == counted
        for ticket in self.tickets:
            assert not (ticket.record and ticket.refused)

    def teardown(self) -> None:
        if not hasattr(self, "admission"):
            return
        self._calms_down()
        self._serves_everybody()

    def _calms_down(self) -> None:
        """With nothing going on any more moves end, and no card stays short."""
        self.world.faults.clear()
        moves = 0
        for second in range(900):
            self.now += 1.0
            self._look()
            while self.revoked:
                self._move(self.revoked.pop(0))
                moves = moves + 1 if second > 700 else 0
        assert moves == 0, "models still move after ten quiet minutes"
        for card in self.world.cards:
            for holder in HOLDERS:
                held = sum(card.models.get(holder, {}).values())
                leased, _ = self.admission.ledger.tally(card.uuid).landed.get(holder, (0, 0))
                assert held <= leased + GREW_BYTES, "somebody holds more than was leased"
        for room in self.admission.rooms(self.now).values():
            if room.vision_leased:
                floor = self.config.pressure_gb * GIB
                assert room.available >= floor

    def _serves_everybody(self) -> None:
        """Once there is room nobody who waits is left behind."""
        for card in self.world.cards:
            for name, size in list(card.programs.items()):
                self.world.give(card.index, name, size, self.now, llm=name == "ollama")
        # By what they were seen to take: who outgrew vision's limit waits rightly.
        expected = self.admission.ledger.expected
        fitting = [
            t
            for t in self.tickets
            if all(expected(t.request, c.uuid).total_bytes <= 2 * GIB for c in self.world.cards)
        ]
        for _ in range(60):
            if not any(t.open for t in fitting):
                return
            for record in list(self.admission.ledger):
                self._unload(record)
                self.admission.release(record, self.now)
            self.now += 30.0
            self._look()
        waiting = [t.request.name for t in fitting if t.open]
        assert not waiting, f"{waiting} wait although everything is free"


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
