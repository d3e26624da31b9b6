"""When unused blocks of our allocator should go back to the driver. Pure; the clock is given.

PyTorch's allocator keeps what it once got: *reserved* is what it holds, *active* what tensors use.
Of the gap only whole unused blocks can go back; free pieces of blocks in use (inactive splits)
can't. Giving back costs a synchronisation and new allocations with the next batch, so it is done
only where the memory is missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.memory import GIB, gib
from danzar_gpu.room import Room

WORTH_BYTES = 64 * 1024**2
"""Less is not worth the pause."""
PAUSE_SECONDS = 30.0
"""The shortest time between two trims of a card."""
LONGEST_PAUSE_SECONDS = 600.0
POOR_SHARE = 0.5
"""Who gave back less than this share of what was expected is asked half as often."""


@dataclass(frozen=True, slots=True)
class Slack:
    """What an allocator says of one card, in bytes."""

    index: int
    """The N of ``cuda:N``."""
    reserved: int
    active: int
    splits: int
    """Free pieces of blocks that are in use."""

    @property
    def returnable(self) -> int:
        return max(0, self.reserved - self.active - self.splits)


@dataclass(slots=True)
class TrimGuard:
    """Remembers when each card was trimmed, and what it was worth."""

    _next: dict[int, float] = field(default_factory=dict[int, float])
    _pause: dict[int, float] = field(default_factory=dict[int, float])

    def due(self, slack: Slack, room: Room, config: GPUMemoryConfig, now: float) -> str | None:
        """Why a card should be trimmed now; ``None`` if not."""
        if slack.returnable < WORTH_BYTES or now < self._next.get(slack.index, now):
            return None
        floor = int(max(config.headroom_gb, config.pressure_gb) * GIB)
        if room.available - room.claimed >= floor:
            return None
        return (
            f"{room.device.label} is short ({gib(max(0, room.available)):.2f}GB left beyond what "
            f"is promised), and {gib(slack.returnable):.2f}GB of {gib(slack.reserved):.2f}GB that "
            "vision holds there are unused"
        )

    def trimmed(self, before: Slack, after: Slack, now: float) -> int:
        """Bytes that went back; when it may be done again depends on them."""
        given = max(0, before.reserved - after.reserved)
        pause = PAUSE_SECONDS
        if given < POOR_SHARE * before.returnable:
            pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause.get(before.index, PAUSE_SECONDS))
        self._pause[before.index] = pause
        self._next[before.index] = now + pause
        return given
