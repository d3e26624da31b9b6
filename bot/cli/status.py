"""``danzar status``: one reading, for people or for programs.

A machine without an NVIDIA driver has a truthful reading, too: no devices, source ``none``,
vision on the CPU, exit status 0. The simulated rig is shown only if it was asked for. A driver
that is there but can't be read is exit status 6.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.cli.exits import Exit
from danzar_gpu import GPUMemoryManager, ProbeError, open_probe, report
from danzar_gpu.history import HistoryStore
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
    trouble = _recall(manager, Path(settings.data.folder) / "history.sqlite3")
    if trouble is not None:
        print(trouble, file=sys.stderr)
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


def _recall(manager: GPUMemoryManager, path: Path) -> str | None:
    """Take up what the bot learned and what people chose; why that can't be done, in words.

    Works beside a running bot, and writes nothing.
    """
    if manager.source == "simulated" or not path.exists():
        return None
    try:
        manager.remember(HistoryStore(path).look())
    except (OSError, sqlite3.Error) as error:
        return (
            f"{path} can't be read ({error}): this is shown without what the bot learned; if an "
            "older Danzar wrote it, start the bot once: it brings the file up to date"
        )
    return None


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
    texts = [status, report.vision_text(device, reason, simulated)]
    if (learned := manager.learned_reservation) is not None:
        texts.append(f"Kept free for the main LLM: {learned.reason}")
    return "\n\n".join(texts)


def as_dict(manager: GPUMemoryManager) -> dict[str, Any]:
    """What ``--json`` prints. Sizes in bytes; ``processes`` is null where the driver lists none,
    ``learned`` where the LLM's reservation is one that somebody chose."""
    device, reason = manager.get_best_vision_device()
    learned = manager.learned_reservation.reason if manager.learned_reservation else None
    return {
        "source": manager.source,
        "devices": [_device(d) for d in manager.get_all_devices_memory_info().values()],
        "best_vision_device": {"device": device, "reason": reason},
        "recommendations": manager.get_memory_recommendations(),
        "main_llm_reservation": {"size_bytes": manager.reservation_bytes, "learned": learned},
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
