"""The discrete events: models that are asked for, programs that come and go, polls, moves.

The engine knows the truth and keeps the score; a policy sees readings and decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Literal, Protocol

from danzar_gpu.config import LLM_PROCESSES, GPUMemoryConfig
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB, MemorySnapshot
from danzar_gpu.simulate.metrics import Score
from danzar_gpu.simulate.trace import Growth, Model, Program, SensorFault, Trace
from danzar_gpu.simulate.world import World

LEAVE_SECONDS = 0.2
"""Frames in hand are finished before a model leaves a card."""
GROWTH_STEP = GIB // 16
MAX_GROWTH_STEPS = 200
THRASH_SECONDS = 60.0

Watch = Callable[[float], None]
"""Is told the time of each event, so that somebody can see how far a run is."""
State = Literal["waiting", "loading", "running", "leaving", "arriving", "gone"]


@dataclass(slots=True, eq=False)
class Job:
    """One of our models while it is wanted, as a policy sees it."""

    key: int
    name: str
    holder: str
    priority: int
    need_bytes: int
    """What is expected of it; what it takes is told when it landed."""
    asked_at: float
    state: State = "waiting"
    device: int | None = None
    """The card that it is on; ``None`` is the CPU."""
    target: int | None = None
    """The card that it is on its way to."""
    measured: Footprint | None = None
    """What it took when it last landed on a card."""
    lacked: tuple[int, int] | None = None
    """Where it last ran out of memory: the card, and the bytes that it needed there."""
    landed_at: float = 0.0

    @property
    def moving(self) -> bool:
        return self.state in ("loading", "leaving", "arriving")


class Policy(Protocol):
    """Decides where models go. Everything but ``name``, ``start`` and ``asked`` may do nothing.

    ``danzar simulate --policy module:Policy`` takes any class of this form without arguments.
    """

    @property
    def name(self) -> str: ...

    def start(self, desk: Desk) -> None:
        """A run begins. Keep the desk: it is what a policy sees and acts through."""

    def asked(self, job: Job) -> None:
        """A model is wanted: call ``desk.place`` now or later; it runs nowhere until then."""

    def landed(self, job: Job) -> None:
        """It runs where it was sent; ``job.measured`` says what it takes there."""

    def failed(self, job: Job, why: str) -> None:
        """It ran out of memory or lost its card, and runs on the CPU now."""

    def ended(self, job: Job) -> None:
        """It is not wanted any more, and unloaded."""

    def llm_asks(self, index: int, size_bytes: int) -> None:
        """The main LLM is about to allocate. Only for policies that manage the LLM, too."""


class PolicyBase:
    """A policy that does nothing but what a subclass says."""

    name = "policy"
    desk: Desk

    def start(self, desk: Desk) -> None:
        self.desk = desk

    def asked(self, job: Job) -> None:
        self.desk.place(job, None)

    def landed(self, job: Job) -> None:
        pass

    def failed(self, job: Job, why: str) -> None:
        pass

    def ended(self, job: Job) -> None:
        pass

    def llm_asks(self, index: int, size_bytes: int) -> None:
        pass


@dataclass(slots=True, eq=False)
class Timer:
    """Something that will be called; ``cancel`` forgets it."""

    at: float
    action: Callable[[], None] | None

    def cancel(self) -> None:
        self.action = None


class Desk(Protocol):
    """What a policy sees, and what it can do."""

    @property
    def now(self) -> float: ...
    @property
    def config(self) -> GPUMemoryConfig: ...
    @property
    def reservation(self) -> int:
        """Bytes that are promised to the main LLM on its card; with ``auto`` as the product has
        learned them by now."""
        ...

    @property
    def jobs(self) -> list[Job]:
        """The models that are wanted now, in the order of asking."""
        ...

    @property
    def trace(self) -> Trace:
        """The whole truth, the future included: for oracles only."""
        ...

    def read(self) -> MemorySnapshot | None:
        """A reading through the sensor, with all its faults; ``None`` when it fails."""
        ...

    def place(self, job: Job, device: int | None) -> None:
        """Load or move a model to a card, or (``None``) to the CPU."""
        ...

    def call_at(self, at: float, action: Callable[[], None]) -> Timer:
        """Call later."""
        ...

    def allocator(self, holder: str) -> dict[int, int]:
        """What a process of ours says of itself: bytes of its models by card."""
        ...

    def pid(self, holder: str) -> int: ...

    def restart(self, holder: str) -> None:
        """End a process of ours, contexts and all: its models wait to be placed again.

        Only while none of them is being loaded or moved.
        """
        ...

    def note(self, text: str) -> None:
        """Words for the plot."""
        ...


@dataclass(slots=True, eq=False)
class _Demand:
    """An allocation of another program."""

    program: Program
    held: int = 0
    wanted: int = 0
    """Asked for and not there yet."""
    starved_since: float | None = None


@dataclass(slots=True, eq=False)
class _Private:
    """What of a model only the engine knows."""

    model: Model
    after: int | None = None
    """Where it has to go once it landed; only with ``again``."""
    again: bool = False
    left_at: dict[int, float] = field(default_factory=dict[int, float])
    landing: Timer | None = None
    """When it arrives where it is on its way to."""


class Engine:
    """One run of one trace through one policy."""

    def __init__(
        self, trace: Trace, policy: Policy, *, record: bool = False, watch: Watch | None = None
    ) -> None:
        self._trace = _with_llm_names(trace)
        self.world = World(trace.rig, self._trace.gpu_memory)
        self.score = Score(record=record)
        self._policy = policy
        self._watch = watch
        self._now = 0.0
        self._end = trace.end
        self._queue: list[tuple[float, int, int, Timer]] = []
        self._sequence = count()
        self._jobs: list[Job] = []
        self._private: dict[int, _Private] = {}
        self._demands: list[_Demand] = []
        self._changed = True
        self._needless: frozenset[int] = frozenset()

    # What policies see

    @property
    def now(self) -> float:
        return self._now

    @property
    def config(self) -> GPUMemoryConfig:
        return self._trace.gpu_memory

    @property
    def reservation(self) -> int:
        return self.world.reservation(self._now)

    @property
    def jobs(self) -> list[Job]:
        return list(self._jobs)

    @property
    def trace(self) -> Trace:
        return self._trace

    def read(self) -> MemorySnapshot | None:
        return self.world.read(self._now)

    def call_at(self, at: float, action: Callable[[], None]) -> Timer:
        return self._at(at, action, order=9)

    def pid(self, holder: str) -> int:
        return self.world.pid(holder)

    def allocator(self, holder: str) -> dict[int, int]:
        return {
            card.index: sum(card.models[holder].values())
            for card in self.world.cards
            if holder in card.models and not card.lost
        }

    def note(self, text: str) -> None:
        self.score.note(self._now, text)

    def restart(self, holder: str) -> None:
        for job in self._jobs:
            if job.holder == holder and job.state != "gone":
                if (card := job.device if job.target is None else job.target) is not None:
                    self._unload(job, card)
                self._private[job.key].again = False
                job.state, job.device, job.target = "waiting", None, None
        self.world.end(holder, self._now)
        self._touch()

    def place(self, job: Job, device: int | None) -> None:
        if device is not None and not 0 <= device < len(self.world.cards):
            device = None
        if job.state == "gone":
            return
        if job.state == "waiting":
            job.state = "loading"
            self._arrive(job, device, self._private[job.key].model.load_seconds)
        elif job.state == "running":
            if device != job.device:
                job.state, job.target = "leaving", device
                self._later(LEAVE_SECONDS, lambda: self._leave(job))
        elif job.state == "loading" and device != job.target:
            self._call_off(job, device)
        elif device != job.target:
            private = self._private[job.key]
            private.after, private.again = device, True

    # The run

    def run(self) -> Score:
        """Play the trace to its end."""
        for key, model in enumerate(self._trace.models):
            if model.plays(self._end):
                self._at(model.at, lambda k=key, m=model: self._ask(k, m), order=4)
        for program in self._trace.foreign:
            if program.plays(self._end):
                self._at(program.at, lambda p=program: self._begin(p), order=3)
        for fault in self._trace.sensor:
            if fault.plays(self._end):
                self._at(fault.at, lambda f=fault: self._fault(f), order=1)
        self._policy.start(self)
        while self._queue:
            at, _, _, timer = heapq.heappop(self._queue)
            if at > self._end:
                break
            if timer.action is None:
                continue
            self._advance(at)
            if self._watch is not None:
                self._watch(at)
            timer.action()
            self._serve_programs()
            if self.score.record:
                self._sample()
        self._advance(self._end)
        for demand in self._demands:
            self._end_starving(demand)
        return self.score

    def _at(self, at: float, action: Callable[[], None], order: int) -> Timer:
        timer = Timer(max(at, self._now), action)
        heapq.heappush(self._queue, (timer.at, order, next(self._sequence), timer))
        return timer

    def _later(self, seconds: float, action: Callable[[], None], order: int = 2) -> Timer:
        return self._at(self._now + seconds, action, order)

    def _advance(self, to: float) -> None:
        seconds = to - self._now
        if seconds > 0:
            if self._changed:
                self._needless = frozenset(
                    job.key for job in self._jobs if not _on_card(job) and self._would_fit(job)
                )
                self._changed = False
            if any(d.wanted and self.world.cards[d.program.device].models for d in self._demands):
                self.score.squeezed_seconds += seconds
            for job in self._jobs:
                self.score.lived(seconds, _on_card(job), job.key in self._needless)
            self._now = to

    def _touch(self, index: int | None = None) -> None:
        """Memory moved: look again, and once more when the driver shows it."""
        self._changed = True
        if index is not None:
            lag = self.world.cards[index].card.release_lag
            if lag > 0:
                self._later(lag, self._touch, order=0)

    # Our models

    def _ask(self, key: int, model: Model) -> None:
        job = Job(
            key, model.name, model.holder, model.priority, int(model.need_gb * GIB), self._now
        )
        self._private[key] = _Private(model)
        self._jobs.append(job)
        self._touch()
        if model.until is not None:
            self._at(model.until, lambda: self._finish(job), order=0)
        self._plan_growth(job, model)
        self._policy.asked(job)

    def _finish(self, job: Job) -> None:
        if job.device is not None and job.state in ("running", "leaving"):
            self._unload(job, job.device)
        elif job.state in ("loading", "arriving") and job.target is not None:
            self._unload(job, job.target)
        if job.state in ("waiting", "loading"):
            self.score.waits.append(self._now - job.asked_at)
        job.state, job.device, job.target = "gone", None, None
        self._jobs.remove(job)
        if not any(other.holder == job.holder for other in self._jobs):
            self.world.end(job.holder, self._now)
        self._touch()
        self._policy.ended(job)

    def _unload(self, job: Job, index: int) -> None:
        self.world.unload(index, job.holder, job.key, self._now)
        self._private[job.key].left_at[index] = self._now
        self._touch(index)

    def _leave(self, job: Job) -> None:
        if job.state != "leaving":
            return
        if job.device is not None:
            self._unload(job, job.device)
        job.state = "arriving"
        self._arrive(job, job.target, self._private[job.key].model.move_seconds)

    def _call_off(self, job: Job, device: int | None) -> None:
        """It is still read from its file: from there it goes elsewhere."""
        landing = self._private[job.key].landing
        if landing is None:
            return
        landing.cancel()
        if job.target is not None:
            self._unload(job, job.target)
        self._arrive(job, device, landing.at - self._now)

    def _arrive(self, job: Job, device: int | None, seconds: float) -> None:
        """Allocate at once, run when the weights are there."""
        job.target = device
        if device is not None:
            size = self._size(job)
            if not self.world.load(device, job.holder, job.key, size, self._now):
                if not self.world.cards[device].lost:
                    self.score.out_of_memory(self._now, f"{job.name} on card {device}")
                    job.lacked = device, size
                job.target = None
                self._lands(job, seconds, "out of memory")
                return
            self._touch()
        self._lands(job, seconds, "")

    def _lands(self, job: Job, seconds: float, trouble: str) -> None:
        landing = self._later(seconds, lambda: self._land(job, trouble))
        self._private[job.key].landing = landing

    def _land(self, job: Job, trouble: str) -> None:
        if job.state not in ("loading", "arriving"):
            return
        private = self._private[job.key]
        first = job.state == "loading"
        if first:
            self.score.waits.append(self._now - job.asked_at)
        else:
            self.score.moves += 1
            left = private.left_at.get(job.target) if job.target is not None else None
            if left is not None and self._now - left < THRASH_SECONDS:
                self.score.thrash += 1
        where = "the CPU" if job.target is None else f"card {job.target}"
        self.note(f"{job.name} on {where}")
        job.device, job.target, job.state = job.target, None, "running"
        job.landed_at = self._now
        self._touch()
        if trouble:
            private.again = False
            self._policy.failed(job, trouble)
            return
        if job.device is not None:
            self._grow(job)  # what it should have taken on its way
            if not _on_card(job):  # and fell off the card by that
                return
            card = self.world.cards[job.device]
            job.measured = Footprint(card.models[job.holder][job.key], context_bytes=card.context)
        self._policy.landed(job)
        if private.again and job.state == "running":
            private.again = False
            self.place(job, private.after)

    def _size(self, job: Job) -> int:
        model = self._private[job.key].model
        grown = grown_gb(model.growth, self._now - model.at, self._life(model))
        return int((model.peak_gb + grown) * GIB)

    def _life(self, event: Model | Program) -> float:
        return (self._end if event.until is None else event.until) - event.at

    def _plan_growth(self, job: Job, model: Model) -> None:
        for at in growth_times(model.growth, model.at, self._life(model)):
            self._at(at, lambda: self._grow(job), order=4)

    def _grow(self, job: Job) -> None:
        if job.device is None or job.state not in ("running", "leaving"):
            return
        size = self._size(job)
        card = self.world.cards[job.device]
        if card.lost or size == card.models[job.holder][job.key]:
            return
        self._touch()
        if self.world.resize(job.device, job.holder, job.key, size, self._now):
            return
        self.score.out_of_memory(self._now, f"{job.name} grew on card {job.device}")
        job.lacked = job.device, size
        self._fall(job, "out of memory")

    def _fall(self, job: Job, why: str) -> None:
        """It is thrown off its card, and runs on the CPU."""
        if job.device is not None:
            self._unload(job, job.device)
        self.score.moves += 1
        self.note(f"{job.name} falls to the CPU: {why}")
        job.device, job.target, job.state = None, None, "running"
        job.landed_at = self._now
        self._private[job.key].again = False
        self._policy.failed(job, why)

    def _would_fit(self, job: Job) -> bool:
        """Whether a card has room for it beyond what is promised, by the configuration's rules."""
        config = self.config
        size = self._size(job)
        for card in self.world.cards:
            if card.lost:
                continue
            need = size + (0 if job.holder in card.models else card.context)
            ours = sum(sum(models.values()) for models in card.models.values())
            available = card.free(self._now) - self.world.outstanding(card.index, self._now)
            wanted = max(config.cpu_fallback_threshold_gb * GIB, need + config.headroom_gb * GIB)
            if available >= wanted and ours + size <= config.vision_limit_bytes(card.total):
                return True
        return False

    # Other programs

    def _begin(self, program: Program) -> None:
        demand = _Demand(program)
        self._demands.append(demand)
        if program.until is not None:
            self._at(program.until, lambda: self._close(demand), order=0)
        self._demand(demand, int(program.gb * GIB))
        for at in growth_times(program.growth, program.at, self._life(program)):
            self._at(at, lambda: self._grow_program(demand), order=3)

    def _grow_program(self, demand: _Demand) -> None:
        program = demand.program
        if demand not in self._demands:
            return
        grown = grown_gb(program.growth, self._now - program.at, self._life(program))
        more = int((program.gb + grown) * GIB) - demand.held - demand.wanted
        if more > 0:
            self._demand(demand, more)
        elif more < 0 and demand.held + more >= 0:
            self._give(demand, -more)

    def _demand(self, demand: _Demand, size: int) -> None:
        demand.wanted += size
        if demand.program.llm:
            self._policy.llm_asks(demand.program.device, size)
        if not self._serve(demand) and demand.program.llm:
            self._begin_starving(demand)

    def _serve(self, demand: _Demand) -> bool:
        """Whether it has now what it wants. The LLM takes all or nothing, others what is there."""
        program = demand.program
        card = self.world.cards[program.device]
        if demand.wanted <= 0:
            return True
        if card.lost:
            return False
        room = card.room_for(program.process, self._now)
        if program.llm:
            size = demand.wanted if demand.wanted <= room else 0
        else:
            size = 0 if self._llm_waits(program.device) else min(demand.wanted, room)
        if size:
            self.world.take(program.device, program.process, size, self._now, llm=program.llm)
            demand.held += size
            demand.wanted -= size
            self._touch()
        if demand.wanted == 0:
            self._end_starving(demand)
        return demand.wanted == 0

    def _llm_waits(self, index: int) -> bool:
        return any(d.program.llm and d.wanted and d.program.device == index for d in self._demands)

    def _serve_programs(self) -> None:
        waiting = [d for d in self._demands if d.wanted]
        if waiting:
            for demand in sorted(waiting, key=lambda d: not d.program.llm):
                self._serve(demand)

    def _begin_starving(self, demand: _Demand) -> None:
        index = demand.program.device
        card = self.world.cards[index]
        if card.lost or demand.starved_since is not None or index != self.config.main_llm_index:
            return
        if demand.wanted <= self.world.outstanding(index, self._now):
            demand.starved_since = self._now
            self.score.starved(self._now, f"the LLM asked for {demand.wanted / GIB:.1f} GB")

    def _end_starving(self, demand: _Demand) -> None:
        if demand.starved_since is not None:
            self.score.llm_starved_seconds += self._now - demand.starved_since
            demand.starved_since = None

    def _close(self, demand: _Demand) -> None:
        self._end_starving(demand)
        self._demands.remove(demand)
        self._give(demand, demand.held)

    def _give(self, demand: _Demand, size: int) -> None:
        program = demand.program
        demand.held -= size
        self.world.give(program.device, program.process, size, self._now, llm=program.llm)
        self._touch(program.device)

    # The sensor

    def _fault(self, fault: SensorFault) -> None:
        self.world.faults.append(fault)
        if fault.kind == "lost":
            self._lose(fault)
        if fault.until is not None:
            self._at(fault.until, lambda: self._mend(fault), order=1)

    def _mend(self, fault: SensorFault) -> None:
        self.world.faults.remove(fault)
        for card in self.world.cards:
            card.lost = any(
                f.kind == "lost" and f.device in (None, card.index) for f in self.world.faults
            )
        self._touch()

    def _lose(self, fault: SensorFault) -> None:
        """A card falls off the bus: whatever of ours was there is gone."""
        for card in self.world.cards:
            if fault.device not in (None, card.index) or card.lost:
                continue
            card.lost = True
            for job in [*self._jobs]:
                if job.device == card.index and job.state in ("running", "leaving"):
                    self._fall(job, "the card is lost")
                elif job.target == card.index and job.state in ("loading", "arriving"):
                    self._unload(job, card.index)
                    job.target = None
            card.releases.clear()
            card.models = {holder: held for holder, held in card.models.items() if held}
        self._touch()

    def _sample(self) -> None:
        for card in self.world.cards:
            held = dict(card.programs)
            for holder, models in card.models.items():
                for key, size in models.items():
                    name = self._private[key].model.name
                    held[name] = held.get(name, 0) + size
                context = f"{holder} (context)"
                held[context] = held.get(context, 0) + card.context
            self.score.sample(self._now, card.index, held)


def _on_card(job: Job) -> bool:
    return job.device is not None and job.state in ("running", "leaving")


def _with_llm_names(trace: Trace) -> Trace:
    """Programs with ``llm: true`` are recognised, as if the person had named them.

    Not where the trace has ``main_llm_processes`` of its own.
    """
    config = trace.gpu_memory
    if config.main_llm_processes != LLM_PROCESSES:
        return trace
    names = {p.process.strip().lower() for p in trace.foreign if p.llm}
    unknown = tuple(sorted(n for n in names if n and not config.is_llm_process(n)))
    if not unknown:
        return trace
    told = config.model_copy(update={"main_llm_processes": (*config.main_llm_processes, *unknown)})
    return trace.model_copy(update={"gpu_memory": told})


def grown_gb(growth: Growth, age: float, life: float) -> float:
    """GiB beyond the first size after ``age`` seconds."""
    if growth is None:
        return 0.0
    if not isinstance(growth, tuple):
        over = growth.seconds or life
        return growth.gb * min(1.0, max(0.0, age / over)) if over > 0 else growth.gb
    before: tuple[float, float] = (0.0, 0.0)
    for second, gb in growth:
        if age < second:
            share = (age - before[0]) / (second - before[0])
            return before[1] + (gb - before[1]) * share
        before = (second, gb)
    return before[1]


def growth_times(growth: Growth, start: float, life: float) -> list[float]:
    """When a growing thing takes its next piece."""
    if growth is None or life <= 0:
        return []
    if not isinstance(growth, tuple):
        spans = [(0.0, min(growth.seconds or life, life), growth.gb)]
    else:
        points = [(0.0, 0.0), *growth]
        spans = [
            (a[0], min(b[0], life), abs(b[1] - a[1])) for a, b in pairwise(points) if a[0] < life
        ]
    times: list[float] = []
    for begin, end, gb in spans:
        steps = max(1, min(MAX_GROWTH_STEPS, int(gb * GIB / GROWTH_STEP)))
        times += [start + begin + (end - begin) * (n + 1) / steps for n in range(steps)]
    return [t for t in times if t < start + life]
