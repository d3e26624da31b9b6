"""After a model left a card: does the driver really show the memory? Pure; the clock is given.

A driver shows freed memory late, and other programs take and give memory meanwhile. So nobody looks
at the card's free memory alone: what counts is the driver's figure for our own process; where it
names none, the card's total less what others were seen to change, and never without our
allocator's word that it gave the memory back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import DeviceMemory, MemorySnapshot, gib

LIMIT_SECONDS = 10.0
"""Half a second to a second and a half is typical."""
QUICK_SECONDS = 1.0
QUICK_POLL_SECONDS = 0.1
SLOW_POLL_SECONDS = 0.5
TOLERANCE_BYTES = 64 * 1024**2
"""Allocators round, and the driver keeps a little for itself."""
WORDS_LATER = 2
"""So often our process has spoken since: the first answer may have been on its way already."""
ENOUGH_SHARE = 0.75
"""Of what was leased must be seen to go where nothing says how much was really held."""
KEPT = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one card at one moment, in bytes."""

    used: int
    ours: int | None
    """Our process's, by the driver; ``None`` where it keeps no account of it."""
    others: int | None
    """All other processes'; ``None`` where the driver does not name each with a figure."""
    allocator: int
    """What our allocator says that it holds; 0 where it said nothing."""
    leased: int
    """What our models that are there count with."""
    listed_at: float | None
    """When the processes were last read."""
    heard: int = 0
    """How often our process has told what its allocator holds."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How a wait ended."""

    name: str
    kind: Literal["shown", "gone", "late"]
    size_bytes: int
    """What is free again, or was to be."""
    seconds: float
    words: str


@dataclass(slots=True)
class Settling:
    """One wait."""

    name: str
    """Who left."""
    uuid: str
    label: str
    holder: str
    pid: int
    size_bytes: int
    """What it was leased there, without the context."""
    context_bytes: int
    before: Figures
    began: float
    gone: bool = False
    """The process is dead: all that it had comes back."""

    def look(self, now_there: Figures, now: float) -> Settled | None:
        """Judge a new reading; ``None``: wait on."""
        shown, enough = self._by_process(now_there)
        if shown is None:
            shown, enough = self._by_totals(now_there)
        seconds = now - self.began
        if enough:
            what = "what it had" if shown <= 0 else f"{gib(shown):.2f}GB"
            kind = "gone" if self.gone else "shown"
            words = f"{self.label} shows {what} of {self.name} as given back after {seconds:.1f} s"
            return Settled(self.name, kind, max(0, shown), seconds, words)
        if seconds < LIMIT_SECONDS:
            return None
        words = (
            f"{self.label} shows {gib(max(0, shown)):.2f}GB of the {gib(self.size_bytes):.2f}GB "
            f"that {self.name} left, after {seconds:.0f} s: the driver is late, or another "
            "program took it; nobody was promised it"
        )
        return Settled(self.name, "late", self.size_bytes, seconds, words)

    def poll_seconds(self, now: float) -> float:
        """How soon to look again."""
        return QUICK_POLL_SECONDS if now - self.began < QUICK_SECONDS else SLOW_POLL_SECONDS

    def _by_process(self, there: Figures) -> tuple[int | None, bool]:
        """(bytes, whether that is all) by the driver's figure for our process, if it has one."""
        if self.before.ours is None:
            return None, False
        if there.listed_at is None or there.listed_at <= self.began:
            return 0, False  # a list from before says nothing
        if there.ours is None:
            return None, False
        came = max(0, there.leased - self._left_over())
        shown = self.before.ours - there.ours + came
        if self.gone:
            return shown, there.ours == 0
        # Windows may have moved a part of it into main memory before: that can't come back.
        resident = max(0, self.before.ours - self.context_bytes)
        given = min(self.before.allocator - there.allocator, resident) + came
        if self.before.allocator and given > TOLERANCE_BYTES:
            return shown, shown >= given - TOLERANCE_BYTES
        if self._gave_little(there, given):
            return shown, True
        nothing_left = there.ours <= there.leased + self.context_bytes + TOLERANCE_BYTES
        return shown, shown >= ENOUGH_SHARE * self.size_bytes or (
            there.leased == 0 and nothing_left and shown > 0
        )

    def _by_totals(self, there: Figures) -> tuple[int, bool]:
        """The same by the card's total, others' changes taken out as far as they are known."""
        others = 0
        if self.before.others is not None and there.others is not None:
            others = there.others - self.before.others
        came = max(0, there.leased - self._left_over())
        shown = self.before.used - there.used + others + came
        if self.gone:
            return shown, True
        given = self.before.allocator - there.allocator + came
        if self._gave_little(there, given):
            return shown, True
        # Without its own word a stranger's gift would pass for ours.
        confirmed = given > TOLERANCE_BYTES or (self.before.allocator and not there.allocator)
        return shown, bool(confirmed) and shown >= given - TOLERANCE_BYTES

    def _gave_little(self, there: Figures, given: int) -> bool:
        """Whether our allocator held next to nothing for it: no reading could show that.

        A lease counts the peak of a trial, of which a small model at work holds a part.
        """
        spoke = there.heard - self.before.heard >= WORDS_LATER
        return bool(self.before.allocator) and spoke and abs(given) <= TOLERANCE_BYTES

    def _left_over(self) -> int:
        """What our models there counted with, without the one that left."""
        return max(0, self.before.leased - self.size_bytes)


@dataclass(slots=True)
class Settlings:
    """All waits of a manager."""

    ledger: Ledger
    tell: Callable[[Settled], None]
    open: list[Settling] = field(default_factory=list[Settling])
    done: list[Settled] = field(default_factory=list[Settled])
    """The newest ones."""

    def begin(
        self,
        name: str,
        uuid: str,
        holder: str,
        size_bytes: int,
        context_bytes: int,
        snapshot: MemorySnapshot | None,
        now: float,
        *,
        gone: bool = False,
    ) -> None:
        """A model is leaving a card; to be called while the ledger still has it there.

        Nothing is waited for where nothing says that anything was held: a scripted rig, a model
        that never came.
        """
        memory = self.ledger.holder_memory(holder)
        devices = snapshot.devices if snapshot is not None else ()
        device = next((d for d in devices if d.uuid == uuid), None)
        if memory is None or device is None or snapshot is None or device.source == "simulated":
            return
        before = self._figures(device, holder, memory.pid, snapshot.processes_read_at)
        if not (before.ours or before.allocator):
            return
        self.open.append(
            Settling(
                name,
                uuid,
                device.label,
                holder,
                memory.pid,
                size_bytes,
                context_bytes,
                before,
                now,
                gone,
            )
        )

    def look(self, snapshot: MemorySnapshot, now: float) -> None:
        """Judge a new reading; what ended is told."""
        for settling in tuple(self.open):
            device = next((d for d in snapshot.devices if d.uuid == settling.uuid), None)
            if device is None or device.read_at <= settling.began:
                if now - settling.began >= 3 * LIMIT_SECONDS:
                    self.open.remove(settling)  # the card is lost: its memory is nobody's
                continue
            there = self._figures(
                device,
                settling.holder,
                settling.pid,
                snapshot.processes_read_at,
                was_named=settling.before.ours is not None,
            )
            ended = settling.look(there, now)
            if ended is not None:
                self.open.remove(settling)
                self.done = [*self.done[-KEPT + 1 :], ended]
                self.tell(ended)

    def poll_seconds(self, now: float) -> float | None:
        """How soon to look again; ``None`` where nothing is waited for."""
        return min((s.poll_seconds(now) for s in self.open), default=None)

    def waits_for(self, name: str | None) -> bool:
        """Whether what a model (or any) gave up is not shown yet."""
        return any(name in (None, s.name) for s in self.open)

    def _figures(
        self,
        device: DeviceMemory,
        holder: str,
        pid: int,
        listed_at: float | None,
        *,
        was_named: bool = False,
    ) -> Figures:
        rows = device.processes
        allocator = self.ledger.allocator_bytes(device.index, holder)
        mine = [p.used_bytes for p in rows or () if p.pid == pid]
        rest = [p.used_bytes for p in rows or () if p.pid != pid]
        ours: int | None = None
        others: int | None = None
        named = rows is not None and None not in mine and None not in rest
        if named and (mine or was_named or not allocator):
            ours = sum(size or 0 for size in mine)
        # In a container our own row has a number that we don't know: it hides among the others.
        if named and ours is not None:
            others = sum(size or 0 for size in rest)
        return Figures(
            used=device.reserved_bytes,
            ours=ours,
            others=others,
            allocator=allocator,
            leased=sum(self.ledger.tally(device.uuid).landed.get(holder, (0, 0))[:1]),
            listed_at=listed_at,
            heard=self.ledger.heard(holder),
        )
