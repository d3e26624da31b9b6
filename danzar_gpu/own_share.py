"""What only we know of a reading: our allocators' use, and on a simulated rig our models. Pure."""

from __future__ import annotations

from dataclasses import replace

from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import DeviceMemory, GpuProcess, MemorySnapshot


def with_ours(raw: MemorySnapshot, ledger: Ledger) -> MemorySnapshot:
    """A reading with that filled in."""
    if not len(ledger):
        return raw
    return replace(raw, devices=tuple(_own_share(device, ledger) for device in raw.devices))


def _own_share(device: DeviceMemory, ledger: Ledger) -> DeviceMemory:
    if device.source == "simulated":
        return _simulated_share(device, ledger)
    processes: list[GpuProcess] = []
    idle = 0
    for process in device.processes or ():
        holder = ledger.holder_of(process.pid)
        memory = ledger.holder_memory(holder) if holder is not None else None
        reserved, active = memory.by_index.get(device.index, (0, 0)) if memory else (0, 0)
        if process.used_bytes is not None and reserved > active:
            unused = min(reserved - active, process.used_bytes)
            process = replace(process, active_bytes=process.used_bytes - unused)
            idle += unused
        processes.append(process)
    if not idle:
        return device
    return replace(
        device,
        processes=tuple(processes),
        allocated_bytes=max(0, device.allocated_bytes - idle),
    )


def _simulated_share(device: DeviceMemory, ledger: Ledger) -> DeviceMemory:
    held: list[GpuProcess] = []
    for holder in sorted(ledger.holders_on(device.uuid)):
        memory = ledger.holder_memory(holder)
        size = ledger.landed_bytes(device.uuid, holder)
        if memory is not None and size:
            held.append(GpuProcess(memory.pid, holder, size))
    ours = sum(p.used_bytes or 0 for p in held)
    if not ours:
        return device
    ours = min(ours, device.free_bytes)
    return replace(
        device,
        free_bytes=device.free_bytes - ours,
        allocated_bytes=device.allocated_bytes + ours,
        processes=(*(device.processes or ()), *held),
    )
