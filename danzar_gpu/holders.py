"""Who holds what on a card: pure, from a reading, its arithmetic and the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import DeviceMemory
from danzar_gpu.room import Room

Owner = Literal["llm", "ours", "other", "unknown"]
"""``unknown``: the driver gives neither name nor size, so it could be anyone's."""


@dataclass(frozen=True, slots=True)
class Shares:
    """One card's memory, in bytes, split into parts that add up to ``total``."""

    total: int
    llm: int
    """What the main LLM's processes hold, as far as the driver names them."""
    promised: int
    """Free, but kept for the main LLM."""
    ours: int
    other: int
    """Other programs, and what the driver keeps for itself."""
    free: int
    """Free and promised to nobody."""
    named: bool
    """Whether the driver tells who holds what; if not, ``other`` may hide the LLM."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process holds on one card."""

    device: DeviceMemory
    pid: int
    name: str
    """Empty where nobody may know it."""
    used_bytes: int | None
    """``None`` where the driver keeps no account per process."""
    owner: Owner


def shares_of(room: Room, our_bytes: int) -> Shares:
    """How one card's memory is shared out; ``our_bytes`` is what our workers hold there."""
    device = room.device
    ours = min(our_bytes, device.reserved_bytes)
    llm = min(room.llm_held, device.reserved_bytes - ours)
    promised = min(room.outstanding, device.free_bytes)
    return Shares(
        total=device.total_bytes,
        llm=llm,
        promised=promised,
        ours=ours,
        other=device.reserved_bytes - ours - llm,
        free=device.free_bytes - promised,
        named=_is_named(device),
    )


def _is_named(device: DeviceMemory) -> bool:
    rows = device.processes
    if rows is None:
        return False
    return all(row.used_bytes is not None for row in rows)


def holdings_of(
    devices: Iterable[DeviceMemory], ledger: Ledger, config: GPUMemoryConfig
) -> list[Holding]:
    """Every process that the driver names, card by card, the largest first."""
    found: list[Holding] = []
    for device in devices:
        rows = sorted(device.processes or (), key=lambda p: (-(p.used_bytes or 0), p.name, p.pid))
        for process in rows:
            owner: Owner = "other"
            if ledger.holder_of(process.pid) is not None:
                owner = "ours"
            elif config.is_llm_process(process.name):
                owner = "llm"
            elif not process.name:
                owner = "unknown"
            found.append(Holding(device, process.pid, process.name, process.used_bytes, owner))
    return found
