"""What to tell people about a reading: pure functions, in the guide's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.memory import GIB, MemorySnapshot, gib
from danzar_gpu.placement import Placement
from danzar_gpu.room import Room

ALL_WELL = "All GPU devices have adequate memory"
CLEAR_MARGIN_PERCENT = 5.0
"""An alert ends only this far below the threshold that raised it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One crossing of a threshold, up or down."""

    key: str
    raised: bool
    text: str


def recommendations(
    snapshot: MemorySnapshot | None,
    rooms: Mapping[int, Room],
    best: Placement,
    config: GPUMemoryConfig,
) -> list[str]:
    """What a person should know or do; the guide's single sentence when all is well."""
    if snapshot is None:
        return ["No reading of the GPUs yet: see the log, or run `danzar doctor`"]
    if not snapshot.devices:
        nothing = "No NVIDIA GPU was found: vision runs on the CPU, and nothing is reserved"
        return [nothing, *snapshot.faults]
    advice = [
        f"{d.label} memory utilization is high ({d.utilization_percent:.1f}%): close other "
        "GPU programs, or restart the one that grew"
        for d in snapshot.devices
        if d.utilization_percent > config.high_utilization_percent
    ]
    for device in (config.main_llm_device, config.vision_device):
        if int(device.removeprefix("cuda:")) not in rooms:
            key = "main_llm_device" if device == config.main_llm_device else "vision_device"
            advice.append(f"{key} is {device}, but there is no such card here")
    llm = rooms.get(config.main_llm_index)
    if llm is not None and llm.outstanding > llm.device.free_bytes:
        advice.append(
            f"{llm.device.label}: {gib(llm.outstanding):.1f}GB are still promised to the main LLM, "
            f"but only {llm.device.free_gb:.1f}GB are free; {_remedy(llm, config)}"
        )
    advice += [f"{r.device.label}: {r.doubtful}" for r in rooms.values() if r.doubtful]
    if best.uuid is None:
        where = "Vision falls back to the CPU" if best.device else "Vision has nowhere to run"
        advice.append(f"{where}: {best.reason}")
    advice += snapshot.faults
    return advice or [ALL_WELL]


def _remedy(llm: Room, config: GPUMemoryConfig) -> str:
    """What to do where the LLM's card has less free than is promised to it."""
    for row in llm.device.processes or ():
        unknown = row.used_bytes is None and config.is_llm_process(row.name)
        if unknown and config.main_llm_endpoint is None:
            return (
                f"nobody tells how much of it {row.name} holds already: name its server in "
                "main_llm_endpoint, and it is asked"
            )
    return "close what it does not need there"


def utilization_alerts(
    raised: Iterable[str], snapshot: MemorySnapshot, config: GPUMemoryConfig
) -> list[Alert]:
    """Crossings of ``high_utilization_percent``, once each, with hysteresis.

    ``raised`` names the alerts that are up (by card UUID).
    """
    up = set(raised)
    alerts: list[Alert] = []
    for device in snapshot.devices:
        share = device.utilization_percent
        if share > config.high_utilization_percent and device.uuid not in up:
            alerts.append(
                Alert(
                    device.uuid,
                    True,
                    f"{device.label} memory utilization is high: {share:.1f}% "
                    f"({device.free_gb:.1f}GB free)",
                )
            )
        elif device.uuid in up and share < config.high_utilization_percent - CLEAR_MARGIN_PERCENT:
            alerts.append(
                Alert(
                    device.uuid,
                    False,
                    f"{device.label} memory utilization is back to {share:.1f}% "
                    f"({device.free_gb:.1f}GB free)",
                )
            )
    return alerts


def is_near_pressure(rooms: Iterable[Room], config: GPUMemoryConfig) -> bool:
    """Whether a card that holds our models has less than the headroom left."""
    floor = int(max(config.headroom_gb, config.pressure_gb) * GIB)
    return any(room.vision_leased and room.available < floor for room in rooms)
