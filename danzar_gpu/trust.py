"""What readings are worth, one compared with the ones before it.

A single reading can't tell that a driver's figures are wrong. Doubtful readings admit nothing and
send nobody away; a missing list of processes neither shrinks the LLM's promise for admission nor
drives out whoever is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import GIB, DeviceMemory, MemorySnapshot

RELEASE_SECONDS = 5.0
"""How long the driver may take to show what the LLM gave up."""
STALE_SECONDS = 2.0
"""Readings come each second while anything matters; an older one is no reason to act."""
TOLERANCE_BYTES = GIB // 2


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known beyond the newest reading."""

    reservation_bytes: int | None = None
    """The LLM's reservation where it is learned; ``None``: the configured one."""
    doubts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Cards (UUIDs) whose figures are not to be acted on, and why."""
    llm_likely: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the LLM probably still holds where nobody lists processes now: reason enough not to
    send anybody away, none to admit anybody."""
    claims: Mapping[str, int] = field(default_factory=dict[str, int])
    """Bytes on a card (UUID) that are being vacated for somebody who waits."""
    max_age: float | None = None
    """Seconds; what was read longer ago admits nothing."""


PLAIN = Outlook()


class Skeptic:
    """Remembers the last good readings of each card."""

    def __init__(self) -> None:
        self.doubts: dict[str, str] = {}
        self.llm_likely: dict[str, int] = {}
        self._listed: dict[str, tuple[int, int]] = {}
        """By UUID at the last list of processes, less what left since: (LLM's bytes, bytes that
        are not ours)."""
        self._gave_up: dict[str, tuple[float, int]] = {}
        """By UUID: when the LLM was last seen to hold less, and how much less."""

    def look(
        self,
        snapshot: MemorySnapshot,
        ledger: Ledger,
        config: GPUMemoryConfig,
        now: float,
        *,
        llm_unheard: bool = False,
    ) -> None:
        """Judge a new reading. ``llm_unheard``: its list of processes says nothing of the LLM."""
        self.doubts.clear()
        for device in snapshot.devices:
            doubt = self._doubt(device, ledger, now)
            if doubt:
                self.doubts[device.uuid] = doubt
            elif device.index == config.main_llm_index:
                self._remember(device, ledger, config, now, listed=not llm_unheard)

    def _doubt(self, device: DeviceMemory, ledger: Ledger, now: float) -> str:
        age = max(device.age_seconds, now - device.read_at)
        if age > STALE_SECONDS:
            return f"its last reading is {age:.0f} s old"
        if device.total_bytes <= 0:
            return "the driver says that it has no memory"
        ours = _ours(device, ledger)
        if ours > device.reserved_bytes + TOLERANCE_BYTES:
            return "our own models hold more there than the driver says is used"
        if device.free_bytes == 0 and device.processes:
            sizes = [p.used_bytes for p in device.processes]
            known = sum(size for size in sizes if size is not None)
            if None not in sizes and known < device.total_bytes - 2 * GIB:
                return "the driver says it is full, and its processes hold far less"
        return ""

    def _remember(
        self,
        device: DeviceMemory,
        ledger: Ledger,
        config: GPUMemoryConfig,
        now: float,
        *,
        listed: bool,
    ) -> None:
        foreign = max(0, device.reserved_bytes - _ours(device, ledger))
        held, before = self._listed.get(device.uuid, (0, 0))
        rows = [p for p in device.processes or () if config.is_llm_process(p.name)]
        # Who is listed without a size has not given anything up.
        known = device.processes is not None and all(p.used_bytes is not None for p in rows)
        if listed and known:
            had = held
            held = sum(p.used_bytes or 0 for p in rows)
            if held < had:
                self._gave_up[device.uuid] = (now, had - held)
            self._listed[device.uuid] = (held, foreign)
            self.llm_likely[device.uuid] = held + self._on_its_way(device, now)
            return
        # Whatever left since may have been the LLM's; whatever came, somebody else's.
        likely = max(0, held - max(0, before - foreign))
        self.llm_likely[device.uuid] = likely
        self._listed[device.uuid] = (likely, min(before, foreign))

    def is_settled(self, now: float) -> bool:
        """Whether another look at the same figures would say the same."""
        recent = any(now - at < RELEASE_SECONDS for at, _ in self._gave_up.values())
        return not self.doubts and not recent

    def _on_its_way(self, device: DeviceMemory, now: float) -> int:
        """What the LLM gave up a moment ago and the driver still calls used."""
        at, size = self._gave_up.get(device.uuid, (float("-inf"), 0))
        if now - at >= RELEASE_SECONDS:
            return 0
        known = sum(p.used_bytes or 0 for p in device.processes or ())
        return max(0, min(size, device.reserved_bytes - known))


def _ours(device: DeviceMemory, ledger: Ledger) -> int:
    """What our processes hold by their own word, which no driver's fault changes."""
    holders = ledger.tally(device.uuid).landed
    return sum(ledger.allocator_bytes(device.index, h) for h in holders) if holders else 0
