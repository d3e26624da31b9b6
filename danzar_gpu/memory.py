"""What a reading of GPU memory is: plain data, sizes in bytes, times in seconds of one clock.

``free`` is the driver's free, device-wide; ``reserved = total - free``; ``allocated`` is what
processes have in use, so ``allocated <= reserved``; ``utilization = reserved / total``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

GIB = 1024**3


def gib(size_bytes: float) -> float:
    """Bytes as GiB, for people."""
    return size_bytes / GIB


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process that holds memory on a device, as the driver names it."""

    pid: int
    name: str
    """Executable name; empty where nobody may know (another container, another user)."""
    used_bytes: int | None
    """``None`` where nobody keeps an account per process (WSL)."""
    active_bytes: int | None = None
    """For our own worker only: what its allocator really uses of ``used_bytes``."""


# One is made for every card at every tick. To make a frozen one takes four times as long, so
# these two are frozen for the type checker alone; nobody changes them after they are made.
@dataclass(frozen=TYPE_CHECKING, slots=True, unsafe_hash=True)
class DeviceMemory:
    """One device in one reading."""

    index: int
    """CUDA ordinal under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``: the N of ``cuda:N``."""
    uuid: str
    """The identity of the card: ``GPU-...``; everything else may be renumbered."""
    name: str
    """Model name without the vendor's prefix: ``RTX 4070``."""
    total_bytes: int
    free_bytes: int
    allocated_bytes: int
    processes: tuple[GpuProcess, ...] | None = ()
    """``None`` where the driver lists no processes (not: no processes)."""
    pci_bus_id: str = ""
    compute_capability: tuple[int, int] | None = None
    cores: int | None = None
    """CUDA cores by NVML, multiprocessors by torch: of two cards of one capability in the same
    reading the one with more is the faster."""
    gpu_utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    source: str = ""
    """``nvml``, ``torch`` or ``simulated``."""
    read_at: float = 0.0
    """When the driver was asked, in seconds of the manager's clock."""
    age_seconds: float = 0.0
    """How old the reading was when it was handed out."""

    @property
    def reserved_bytes(self) -> int:
        return self.total_bytes - self.free_bytes

    @property
    def allocated_gb(self) -> float:
        return gib(self.allocated_bytes)

    @property
    def reserved_gb(self) -> float:
        return gib(self.reserved_bytes)

    @property
    def free_gb(self) -> float:
        return gib(self.free_bytes)

    @property
    def total_gb(self) -> float:
        return gib(self.total_bytes)

    @property
    def utilization_percent(self) -> float:
        """Share of the memory that is not free, 0 to 100."""
        return 100.0 * self.reserved_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def device(self) -> str:
        """The torch name of the device: ``cuda:N``."""
        return f"cuda:{self.index}"

    @property
    def label(self) -> str:
        """How people read it, in the guide's words: ``Device 1 (RTX 4070 Super)``."""
        return f"Device {self.index} ({self.name})"


@dataclass(frozen=TYPE_CHECKING, slots=True, unsafe_hash=True)
class MemorySnapshot:
    """One reading of all devices."""

    taken_at: float
    source: str
    devices: tuple[DeviceMemory, ...]
    processes_read_at: float | None = None
    """When the process lists were last read: they are costly and read more rarely."""
    faults: tuple[str, ...] = field(default=())
    """What could not be read, in words: a lost card, a list that the driver refused."""

    @property
    def simulated(self) -> bool:
        return self.source == "simulated"

    def device(self, index: int) -> DeviceMemory | None:
        return next((d for d in self.devices if d.index == index), None)

    def aged(self, now: float) -> MemorySnapshot:
        """The same reading with every device's ``age_seconds`` as of ``now``."""
        return replace(
            self,
            devices=tuple(replace(d, age_seconds=max(0.0, now - d.read_at)) for d in self.devices),
        )
