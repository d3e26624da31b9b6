"""Readings from the NVIDIA driver through NVML (``nvidia-ml-py``): device-wide, no CUDA context.

``free`` is the driver's free. Memory v2 is asked for, whose ``used`` leaves out the driver's own
share; where a driver lacks it, v1 serves. What a driver doesn't support is "not known" (``None``),
never a zero and never a crash.
"""

# pynvml carries no types.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from danzar_gpu.memory import DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.probes import ProbeError, ProbeUnavailable
from danzar_gpu.probes.visibility import visible_order

log = logging.getLogger(__name__)

_MEMORY_V2: int = pynvml.nvmlMemory_v2

_REMEDIES: dict[int, tuple[str, str]] = {
    1: ("NVML is not initialised", "Danzar starts it again by itself"),
    3: ("the driver does not support this reading", "another source is used where there is one"),
    4: ("no permission to ask the driver", "run as a user of the `video` group, or as in compose"),
    9: ("the NVIDIA driver is not loaded", "load or install it (`nvidia-smi` must work)"),
    12: (
        "libnvidia-ml.so.1 was not found",
        "install the NVIDIA driver; in a container give it the `utility` capability",
    ),
    15: ("a GPU is lost", "it fell off the bus or was reset; reboot if it does not come back"),
    18: (
        "the driver and its library are of different versions",
        "an update is half done: reboot, or reload the nvidia module",
    ),
    999: (
        "the driver reports an unknown error",
        "in a container the device may have been withdrawn: restart it",
    ),
}
LISTING_DRIFT_BYTES = 128 * 1024**2
"""Process lists are costly (the driver holds a lock): they are read again after this change."""
_RESTART_CODES = {1, 9, 15, 18, 999}
_PYTHON = re.compile(r"^python[\d.]*$")


def describe(error: BaseException) -> ProbeError:
    """A driver's error in words, with what to do about it."""
    code = error_code(error)
    cause, remedy = _REMEDIES.get(code, (f"the driver answered: {error}", "see `danzar doctor`"))
    return ProbeError(cause, remedy)


def error_code(error: BaseException) -> int:
    """NVML's return code; -1 for what is no NVML error."""
    value = getattr(error, "value", -1)
    return value if isinstance(value, int) else -1


@dataclass(slots=True)
class _Card:
    """What of a card stays the same while the driver runs."""

    index: int
    handle: Any
    uuid: str
    name: str
    pci_bus_id: str
    compute_capability: tuple[int, int] | None
    memory_v2: bool = True
    used_at_listing: int = 0


class NvmlProbe:
    """The driver's word. Handles are cached; the library is started again after a failure."""

    source = "nvml"

    def __init__(self) -> None:
        self._cards: list[_Card] | None = None
        self._processes: dict[str, tuple[GpuProcess, ...] | None] = {}
        self._processes_read_at: float | None = None
        self._indices: dict[str, int] = {}

    @classmethod
    def open(cls) -> NvmlProbe:
        """Start NVML. Raises ``ProbeUnavailable`` where there is no driver to ask."""
        probe = cls()
        try:
            probe._start()
        except ProbeError as error:
            raise ProbeUnavailable(error.cause, error.remedy) from None
        return probe

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """One reading of every visible card. Raises ``ProbeError`` when none could be read."""
        cards = self._cards if self._cards is not None else self._start()
        faults: list[str] = []
        devices: list[DeviceMemory] = []
        broken = False
        everything = processes or self._processes_read_at is None
        if everything:
            self._processes_read_at = now
        for card in cards:
            try:
                devices.append(self._read_card(card, now, everything))
            except pynvml.NVMLError as error:
                fault = describe(error)
                faults.append(f"Device {card.index} ({card.name}): {fault}")
                broken = broken or error_code(error) in _RESTART_CODES
        if broken:
            # A lost card is asked for anew: handles of a driver that went away stay invalid.
            self._stop()
        if cards and not devices:
            raise ProbeError("; ".join(faults))
        return MemorySnapshot(
            now, self.source, tuple(devices), self._processes_read_at, tuple(faults)
        )

    def close(self) -> None:
        self._stop()

    def _start(self) -> list[_Card]:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise describe(error) from None
        try:
            found = self._enumerate()
        except pynvml.NVMLError as error:
            self._stop()
            raise describe(error) from None
        found.sort(key=lambda card: card.pci_bus_id)
        order = visible_order([c.uuid for c in found], os.environ.get("CUDA_VISIBLE_DEVICES"))
        cards = [found[position] for position in order]
        for index, card in enumerate(cards):
            # CUDA's ordinals are fixed when a process starts: a card keeps its number here even
            # if another one disappeared since.
            card.index = self._indices.setdefault(card.uuid, _free_index(self._indices, index))
        self._cards = cards
        self._processes_read_at = None
        return cards

    def _enumerate(self) -> list[_Card]:
        cards: list[_Card] = []
        for position in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(position)
            except pynvml.NVMLError as error:
                log.warning("card %d can't be opened: %s", position, describe(error))
                continue
            pci = _known(pynvml.nvmlDeviceGetPciInfo, handle)
            capability = _known(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
            cards.append(
                _Card(
                    index=position,
                    handle=handle,
                    uuid=_text(_known(pynvml.nvmlDeviceGetUUID, handle)) or f"unknown-{position}",
                    name=short_name(_text(_known(pynvml.nvmlDeviceGetName, handle)) or "GPU"),
                    # Where the driver gives no address its own order, which follows it, serves.
                    pci_bus_id=_text(pci.busId if pci else None) or f"~{position:04d}",
                    compute_capability=(capability[0], capability[1]) if capability else None,
                )
            )
        return cards

    def _read_card(self, card: _Card, now: float, processes_too: bool) -> DeviceMemory:
        total, free, used = self._read_memory(card)
        if processes_too or abs(used - card.used_at_listing) > LISTING_DRIFT_BYTES:
            # Somebody came or went: the old list would credit memory to a program that left.
            self._processes[card.uuid] = self._read_processes(card)
            card.used_at_listing = used
        processes = self._processes.get(card.uuid)
        utilization = _known(pynvml.nvmlDeviceGetUtilizationRates, card.handle)
        temperature = _known(
            pynvml.nvmlDeviceGetTemperature, card.handle, pynvml.NVML_TEMPERATURE_GPU
        )
        power = _known(pynvml.nvmlDeviceGetPowerUsage, card.handle)
        return DeviceMemory(
            index=card.index,
            uuid=card.uuid,
            name=card.name,
            total_bytes=total,
            free_bytes=free,
            allocated_bytes=allocated_bytes(processes, used, total - free),
            processes=processes,
            pci_bus_id=card.pci_bus_id,
            compute_capability=card.compute_capability,
            gpu_utilization_percent=float(utilization.gpu) if utilization else None,
            temperature_c=float(temperature) if temperature is not None else None,
            power_w=power / 1000.0 if power is not None else None,
            source=self.source,
            read_at=now,
        )

    def _read_memory(self, card: _Card) -> tuple[int, int, int]:
        """(total, free, used without the driver's share where it tells) in bytes."""
        if card.memory_v2:
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(card.handle, version=_MEMORY_V2)
                return int(memory.total), int(memory.free), int(memory.used)
            except pynvml.NVMLError as error:
                if error_code(error) in _RESTART_CODES:
                    raise
                card.memory_v2 = False
        memory = pynvml.nvmlDeviceGetMemoryInfo(card.handle)
        return int(memory.total), int(memory.free), int(memory.used)

    def _read_processes(self, card: _Card) -> tuple[GpuProcess, ...] | None:
        """Compute and graphics processes by pid; ``None`` where the driver lists none at all."""
        held: dict[int, int | None] = {}
        answered = False
        for ask in (
            pynvml.nvmlDeviceGetComputeRunningProcesses,
            pynvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            rows = _known(ask, card.handle)
            if rows is None:
                continue
            answered = True
            for row in rows:
                # One process may be in both lists with the same memory.
                sizes = [s for s in (held.get(row.pid), row.usedGpuMemory) if s is not None]
                held[int(row.pid)] = max(map(int, sizes)) if sizes else None
        if not answered:
            return None
        return tuple(
            GpuProcess(pid, self._name_of(pid), size)
            for pid, size in sorted(held.items(), key=lambda item: -(item[1] or 0))
        )

    def _name_of(self, pid: int) -> str:
        """The program's name; for an interpreter the module or script that it runs."""
        path = _text(_known(pynvml.nvmlSystemGetProcessName, pid)) or ""
        name = re.split(r"[\\/]", path.split(" ")[0] if path.startswith("/") else path)[-1]
        if name and not _PYTHON.match(name):
            return name
        try:
            process = psutil.Process(pid)
            if name or _PYTHON.match(process.name()):
                return _python_program(process.cmdline()) or name or process.name()
            return process.name()
        except (psutil.Error, OSError):
            return name

    def _stop(self) -> None:
        if self._cards is None:
            return
        self._cards = None
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML would not shut down: %s", error)


def allocated_bytes(
    processes: tuple[GpuProcess, ...] | None, used_bytes: int, reserved_bytes: int
) -> int:
    """What processes have in use: their sum where the driver keeps accounts, else its ``used``.

    An empty list beside used memory is no proof of emptiness: other containers' processes are
    not shown.
    """
    known = [p.used_bytes for p in processes or () if p.used_bytes is not None]
    total = sum(known) if known else used_bytes
    return max(0, min(total, reserved_bytes))


def short_name(name: str) -> str:
    """A card's name as the guide writes it: without the vendor's prefix."""
    return re.sub(r"^(NVIDIA\s+)?(GeForce\s+)?", "", name.strip(), flags=re.IGNORECASE) or name


def _python_program(command: list[str]) -> str:
    """``vllm`` of ``python -m vllm.entrypoints...``; ``server.py`` of ``python server.py``."""
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "-m":
            return next(arguments, "").split(".")[0]
        if argument in {"-c", "-"}:
            return ""
        if not argument.startswith("-"):
            return re.split(r"[\\/]", argument)[-1]
    return ""


def _free_index(taken: dict[str, int], wanted: int) -> int:
    used = set(taken.values())
    while wanted in used:
        wanted += 1
    return wanted


def _known(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer, or ``None`` where it has none to give."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        log.debug("%s: %s", getattr(ask, "__name__", ask), error)
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", errors="replace")
    return None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value) if value is not None else ""
