"""GPU memory that everybody shares: truth from the driver, one ledger, reasons in words.

manager = GPUMemoryManager(GPUMemoryConfig(), open_probe())
await manager.start()
async with manager.lease("yolo", Footprint.of_gb(0.8)) as lease:
    model.to(lease.device)
"""

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.history import Event
from danzar_gpu.ledger import Footprint
from danzar_gpu.manager import AdmissionRefused, GPUMemoryManager, Lease
from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.placement import Placement
from danzar_gpu.probes import ProbeError, ProbeUnavailable, open_probe

__all__ = [
    "GIB",
    "AdmissionRefused",
    "DeviceMemory",
    "Event",
    "Footprint",
    "GPUMemoryConfig",
    "GPUMemoryManager",
    "GpuProcess",
    "Lease",
    "MemorySnapshot",
    "Placement",
    "ProbeError",
    "ProbeUnavailable",
    "open_probe",
]
