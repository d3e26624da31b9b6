"""A scripted rig for machines without an NVIDIA card. It always says that it is simulated.

The guide's RTX 4070 with a main LLM, its RTX 4070 SUPER with a game and OBS, and an idle third
card. Who uses how much is a pure function of time and repeats every eight minutes; what the
manager's own leases hold is added by the manager.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess, MemorySnapshot

CYCLE_SECONDS = 480.0


@dataclass(frozen=True, slots=True)
class ScriptedProcess:
    """A program that holds memory: (second of the cycle, GiB) points, ramped between them."""

    pid: int
    name: str
    points: tuple[tuple[float, float], ...]

    def held_gb(self, second: float) -> float:
        """GiB held at a second of the cycle; the last point holds until the end."""
        position = bisect_right([at for at, _ in self.points], second) - 1
        if position < 0:
            return 0.0
        at, size = self.points[position]
        if position + 1 == len(self.points):
            return size
        next_at, next_size = self.points[position + 1]
        return size + (next_size - size) * (second - at) / (next_at - at)


@dataclass(frozen=True, slots=True)
class ScriptedCard:
    """One card of the rig. ``driver_gb`` is what the driver keeps beside the processes."""

    name: str
    total_gb: float
    driver_gb: float
    compute_capability: tuple[int, int]
    idle_watts: float
    full_watts: float
    processes: tuple[ScriptedProcess, ...] = ()


RIG: tuple[ScriptedCard, ...] = (
    ScriptedCard(
        "RTX 4070",
        12.0,
        0.9,
        (8, 9),
        14,
        200,
        (
            # Loaded, a long context that grows, unloaded after a silence, loaded again.
            ScriptedProcess(
                4242,
                "ollama",
                ((0, 5.6), (120, 6.4), (235, 6.4), (240, 0.0), (330, 0.0), (338, 5.6)),
            ),
            ScriptedProcess(1180, "Xorg", ((0, 0.6),)),
        ),
    ),
    ScriptedCard(
        "RTX 4070 SUPER",
        12.0,
        0.3,
        (8, 9),
        12,
        220,
        (
            # A game that is started, loads a large level, and is closed.
            ScriptedProcess(
                7331,
                "game.exe",
                (
                    (0, 0.0),
                    (60, 0.0),
                    (66, 3.2),
                    (170, 3.6),
                    (180, 11.0),
                    (290, 11.0),
                    (296, 3.4),
                    (420, 3.4),
                    (424, 0.0),
                ),
            ),
            ScriptedProcess(2204, "obs64.exe", ((0, 0.5), (200, 0.6), (400, 0.5))),
        ),
    ),
    ScriptedCard("RTX 3060", 12.0, 0.2, (8, 6), 10, 170),
)


class SimulatedProbe:
    """Reads the scripted rig. Time starts with the first reading."""

    source = "simulated"

    def __init__(self, rig: tuple[ScriptedCard, ...] = RIG, offset_seconds: float = 0.0) -> None:
        self._rig = rig
        self._offset = offset_seconds
        self._started: float | None = None

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """The rig as the script has it at ``now``."""
        if self._started is None:
            self._started = now
        second = (now - self._started + self._offset) % CYCLE_SECONDS
        devices = tuple(self._card(i, card, second, now) for i, card in enumerate(self._rig))
        return MemorySnapshot(now, self.source, devices, now)

    def close(self) -> None:
        pass

    def _card(self, index: int, card: ScriptedCard, second: float, now: float) -> DeviceMemory:
        held = tuple(
            GpuProcess(p.pid, p.name, int(size * GIB))
            for p in card.processes
            if (size := p.held_gb(second)) > 0
        )
        allocated = sum(p.used_bytes or 0 for p in held)
        total = int(card.total_gb * GIB)
        free = max(0, total - allocated - int(card.driver_gb * GIB))
        busy = min(1.0, allocated / total)
        return DeviceMemory(
            index=index,
            uuid=f"GPU-51111111-0000-4000-8000-{index:012d}",
            name=card.name,
            total_bytes=total,
            free_bytes=free,
            allocated_bytes=allocated,
            processes=held,
            pci_bus_id=f"00000000:{index + 1:02X}:00.0",
            compute_capability=card.compute_capability,
            gpu_utilization_percent=round(85 * busy, 1),
            temperature_c=round(36 + 34 * busy, 1),
            power_w=round(card.idle_watts + (card.full_watts - card.idle_watts) * busy, 1),
            source=self.source,
            read_at=now,
        )
