"""A rig that tests change by hand, and a clock that they turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from danzar_gpu import GPUMemoryConfig, GPUMemoryManager
from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.probes import ProbeError


def gb(size: float) -> int:
    return round(size * GIB)


@dataclass
class Card:
    """A card whose programs (name -> GiB) a test rewrites."""

    name: str
    total: float = 12.0
    programs: dict[str, float] = field(default_factory=dict[str, float])
    driver: float = 0.0
    names_known: bool = True
    ours: dict[int, int] = field(default_factory=dict[int, int])
    """pid -> bytes that our own worker really holds here."""
    capability: tuple[int, int] = (8, 9)
    cores: int | None = None

    def device(self, index: int, now: float) -> DeviceMemory:
        rows = [
            GpuProcess(1000 + n, name if self.names_known else "", gb(size))
            for n, (name, size) in enumerate(self.programs.items())
        ]
        rows += [GpuProcess(pid, "python", size) for pid, size in self.ours.items()]
        held = sum(row.used_bytes or 0 for row in rows)
        free = max(0, gb(self.total) - held - gb(self.driver))
        return DeviceMemory(
            index=index,
            uuid=f"GPU-{index}",
            name=self.name,
            total_bytes=gb(self.total),
            free_bytes=free,
            allocated_bytes=held,
            processes=tuple(rows),
            compute_capability=self.capability,
            cores=self.cores,
            source="scripted",
            read_at=now,
        )


class ScriptedProbe:
    """Reads the cards as they are now; ``fault`` makes every reading fail."""

    source = "scripted"

    def __init__(self, *cards: Card) -> None:
        self.cards = list(cards)
        self.fault: str | None = None
        self.reads = 0
        self.missing: set[int] = set()

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        self.reads += 1
        if self.fault:
            raise ProbeError(self.fault)
        devices = (c.device(i, now) for i, c in enumerate(self.cards) if i not in self.missing)
        return MemorySnapshot(now, self.source, tuple(devices), now)

    def close(self) -> None:
        pass


def guide_rig() -> tuple[Card, Card]:
    """The guide's example: 6.2 of 12 allocated and 4.9 free, 1.8 of 12 and 9.9 free."""
    return (
        Card("RTX 4070", programs={"ollama": 6.2}, driver=0.9),
        Card("RTX 4070 Super", programs={"obs64.exe": 1.8}, driver=0.3),
    )


class Rig:
    """A manager on scripted cards and a clock; ``step`` is one reading later."""

    def __init__(self, *cards: Card, **config: object) -> None:
        self.now = 1000.0
        self.probe = ScriptedProbe(*(cards or guide_rig()))
        self.cards = self.probe.cards
        self.manager = GPUMemoryManager(
            GPUMemoryConfig.model_validate(config), self.probe, clock=self.clock
        )

    def clock(self) -> float:
        return self.now

    async def __aenter__(self) -> Rig:
        await self.manager.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.close()

    async def step(self, seconds: float = 1.0, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            await self.manager.refresh(max_age=0)

    def events(self, kind: str) -> list[str]:
        return [event.text for event in self.manager.events if event.kind == kind]


async def settle(done: Callable[[], bool]) -> None:
    """Let the loop run until ``done``; a test that never gets there fails."""
    for _ in range(2000):
        if done():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("this never happened")
