"""``danzar status``: one reading, for people or for programs.

A machine without an NVIDIA driver has a truthful reading, too: no devices, source ``none``,
vision on the CPU, exit status 0. The simulated rig is shown only if it was asked for. A driver
that is there but can't be read is exit status 6.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from bot.exits import Exit
from danzar_gpu import GPUMemoryManager, ProbeError, open_probe, report
from danzar_gpu.memory import DeviceMemory

if TYPE_CHECKING:
    from bot.settings import Settings
    from danzar_gpu.probes import ProbeName


def run(settings: Settings, probe_name: ProbeName, *, as_json: bool) -> int:
    """Print one reading; the exit status."""
    try:
        # Before any event loop: nothing is blocked by a slow driver.
        probe = open_probe(probe_name)
    except ProbeError as error:
        print(f"GPU memory can't be read: {error}", file=sys.stderr)
        return Exit.PROBE
    config = settings.gpu_memory.model_copy(update={"enable_memory_monitoring": False})
    manager = GPUMemoryManager(config, probe)
    try:
        asyncio.run(_read(manager))
    except ProbeError as error:
        print(f"GPU memory can't be read: {error}", file=sys.stderr)
        return Exit.PROBE
    if as_json:
        print(json.dumps(as_dict(manager), ensure_ascii=False, indent=2))
    else:
        print(as_text(manager))
    return Exit.OK


async def _read(manager: GPUMemoryManager) -> None:
    try:
        await manager.refresh(max_age=0)
    finally:
        await manager.close()


def as_text(manager: GPUMemoryManager) -> str:
    """The guide's two texts."""
    simulated = manager.source == "simulated"
    devices = tuple(manager.get_all_devices_memory_info().values())
    recommendations = manager.get_memory_recommendations()
    device, reason = manager.get_best_vision_device()
    note = None
    if manager.source == "none":
        faults = manager.snapshot.faults if manager.snapshot else ()
        note = "No NVIDIA driver answers here: " + ("; ".join(faults) or "none was found")
    status = report.status_text(devices, recommendations, simulated, note)
    return f"{status}\n\n{report.vision_text(device, reason, simulated)}"


def as_dict(manager: GPUMemoryManager) -> dict[str, Any]:
    """What ``--json`` prints. Sizes in bytes; ``processes`` is null where the driver lists none."""
    device, reason = manager.get_best_vision_device()
    return {
        "source": manager.source,
        "devices": [_device(d) for d in manager.get_all_devices_memory_info().values()],
        "best_vision_device": {"device": device, "reason": reason},
        "recommendations": manager.get_memory_recommendations(),
    }


def _device(device: DeviceMemory) -> dict[str, Any]:
    processes = device.processes
    return {
        "index": device.index,
        "uuid": device.uuid,
        "name": device.name,
        "total_bytes": device.total_bytes,
        "free_bytes": device.free_bytes,
        "reserved_bytes": device.reserved_bytes,
        "allocated_bytes": device.allocated_bytes,
        "utilization_percent": round(device.utilization_percent, 1),
        "processes": None
        if processes is None
        else [{"pid": p.pid, "name": p.name, "used_bytes": p.used_bytes} for p in processes],
    }
