"""When a process should end for the CUDA context that it left on a card. Pure; the clock is given.

A process keeps its context (some hundred MiB) on a card after its last model has left it; only its
end gives it back. That costs a restart, so it is done only where promised memory is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.memory import GIB, gib
from danzar_gpu.room import Room

WORTH_BYTES = 128 * 1024**2
"""Less is not worth a restart."""
DWELL_SECONDS = 2.0
"""So long the card must have been short: the driver shows late what models gave up."""
PAUSE_SECONDS = 120.0
"""The shortest time between two restarts: whoever fills cards to the brim won't stop vision."""


@dataclass(slots=True)
class ContextGuard:
    """Remembers since when each card is short of what an idle context holds."""

    _since: dict[str, float] = field(default_factory=dict[str, float])
    _next: float = float("-inf")

    def due(
        self,
        contexts: Mapping[str, int],
        rooms: Mapping[int, Room],
        config: GPUMemoryConfig,
        now: float,
    ) -> str | None:
        """Why the process should end now; ``None`` if it should not.

        ``contexts`` has the bytes of its context by UUID, for each card without a model of its.
        """
        floor = int(config.pressure_gb * GIB)
        short: dict[str, Room] = {}
        for room in rooms.values():
            size = contexts.get(room.device.uuid, 0)
            missed = room.likely_available + room.departing < floor and not room.doubtful
            if size >= WORTH_BYTES and missed:
                short[room.device.uuid] = room
        self._since = {uuid: self._since.get(uuid, now) for uuid in short}
        for uuid, room in short.items():
            if now - self._since[uuid] >= DWELL_SECONDS and now >= self._next:
                self._next = now + PAUSE_SECONDS
                return (
                    f"{room.device.label} is short ({gib(max(0, room.likely_available)):.2f}GB "
                    f"left beyond what is promised), and {gib(contexts[uuid]):.2f}GB of it are "
                    "vision's CUDA context, though no model of vision is there"
                )
        return None
