"""Readings from the NVIDIA driver through NVML (``nvidia-ml-py``): device-wide, no CUDA context.

``free`` is the driver's free. Memory v2 is asked for, whose ``used`` leaves out the driver's own
share; where a driver lacks it, v1 serves. What a driver doesn't support is "not known" (``None``),
never a zero and never a crash.

Each tick asks a card for memory and utilisation alone, by cached handles and into structures that
are used again. Process lists are costly (the driver holds a lock that makes games stutter): they
are read when they are asked for, and when a card's memory moved. On Windows the driver lists them
without sizes: Windows itself is asked for these.
"""

# pynvml carries no types.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import psutil
import pynvml

from danzar_gpu.memory import DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.probes import ProbeError, ProbeUnavailable
from danzar_gpu.probes.cards import Card, find_cards, known, text, visible_cards
from danzar_gpu.probes.driver_words import (
    LOST,
    MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESTART_CODES,
    describe,
    error_code,
)
from danzar_gpu.probes.process_names import program_name
from danzar_gpu.probes.windows_accounts import Place, WindowsAccounts, parse_place, with_accounts

log = logging.getLogger(__name__)

LISTING_DRIFT_BYTES = 128 * 1024**2
"""Process lists are read again after this change."""
SENSORS_SECONDS = 10.0
"""Temperature and power change slowly: unless somebody looks they are read so often."""
RECHECK_SECONDS = 10.0
"""While a card is missing the library is started again so often."""
CENSUS_SECONDS = 60.0
"""So often it is counted whether there is a new card."""
LINUX_CARDS = Path("/proc/driver/nvidia/gpus")


class NvmlProbe:
    """The driver's word. Handles are cached; the library is started again after a failure."""

    source = "nvml"

    def __init__(self, accounts: WindowsAccounts | None = None) -> None:
        """``accounts``: who is asked what processes hold, where the driver does not say."""
        self._accounts = accounts
        self._accounts_read: tuple[float, dict[Place, dict[int, int]]] = (float("-inf"), {})
        self._cards: list[Card] | None = None
        self._seen: dict[str, Card] = {}
        """Every card that was ever visible, by UUID: what is missing is named."""
        self._missing: tuple[str, ...] = ()
        self._census = (0, 0)
        self._counted_at = float("-inf")
        self._started_at = float("-inf")
        self._processes_read_at: float | None = None
        self._process = os.getpid()
        self._read_v2: Any = None
        self._read_rates: Any = None

    @classmethod
    def open(cls) -> NvmlProbe:
        """Start NVML. Raises ``ProbeUnavailable`` where there is no driver to ask."""
        probe = cls(WindowsAccounts.open())
        try:
            probe._start()
        except ProbeError as error:
            raise ProbeUnavailable(error.cause, error.remedy) from None
        return probe

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """One reading of every visible card. Raises ``ProbeError`` when none could be read."""
        if self._process != os.getpid():
            # NVML's state does not survive a fork; what the parent holds is not ours to shut down.
            self._process, self._cards = os.getpid(), None
        if self._cards is not None and self._is_due(now):
            self._stop()
        devices, faults, broken = self._read_all(now, processes)
        if broken and (not devices or now - self._started_at >= RECHECK_SECONDS):
            # Handles of a driver that went away stay invalid: ask it anew, at once.
            self._stop()
            devices, faults, _ = self._read_all(now, processes)
        if faults and not devices:
            raise ProbeError("; ".join(faults))
        return MemorySnapshot(
            now, self.source, tuple(devices), self._processes_read_at, tuple(faults)
        )

    def close(self) -> None:
        self._stop()
        if self._accounts is not None:
            self._accounts.close()

    # --- the cards ----------------------------------------------------------------------------

    def _start(self, now: float = float("-inf")) -> list[Card]:
        self._started_at = self._counted_at = now
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise self._words(error) from None
        try:
            found, unopened = find_cards()
            self._census = _census()
        except pynvml.NVMLError as error:
            self._shut_down()
            raise self._words(error) from None
        self._read_v2 = getattr(pynvml.nvmlLib, "nvmlDeviceGetMemoryInfo_v2", None)
        self._read_rates = getattr(pynvml.nvmlLib, "nvmlDeviceGetUtilizationRates", None)
        for card in found:
            card.memory_v2 = self._read_v2 is not None
            card.rates_known = self._read_rates is not None
        present = {card.uuid for card in found}
        # A card that is gone still counts in the order of those that CUDA_VISIBLE_DEVICES names.
        gone = [card for uuid, card in self._seen.items() if uuid not in present]
        everything = sorted([*found, *gone], key=lambda card: card.pci_bus_id)
        visible = visible_cards(everything, os.environ.get("CUDA_VISIBLE_DEVICES"))
        cards = [card for card in visible if card.uuid in present]
        for place, card in enumerate(visible):
            # CUDA's ordinals are fixed when a process starts: a card keeps its number here even
            # if another one disappeared or came since.
            old = self._seen.get(card.uuid)
            taken = {one.index for one in self._seen.values()}
            card.index = old.index if old is not None else _free_index(taken, place)
            self._seen[card.uuid] = card
        self._missing = self._name_missing(gone, unopened)
        self._cards = cards
        self._processes_read_at = None
        return cards

    def _name_missing(self, gone: list[Card], unopened: list[str]) -> tuple[str, ...]:
        why = (
            unopened[0]
            if unopened
            else (
                "the card is not found any more. If it was taken out on purpose restart Danzar; "
                "else reboot, or look at its power and its slot"
            )
        )
        named = [f"{card.label}: {why}" for card in gone]
        return (*named, *(f"A further card: {words}" for words in unopened[len(gone) :]))

    def _is_due(self, now: float) -> bool:
        """Whether the cards are to be looked for anew."""
        if self._missing:
            return now - self._started_at >= RECHECK_SECONDS
        if now - self._counted_at < CENSUS_SECONDS:
            return False
        self._counted_at = now
        try:
            return _census() != self._census or self._census[0] == 0
        except pynvml.NVMLError:
            return True

    def _words(self, error: BaseException) -> ProbeError:
        words = describe(error)
        if self._seen and error_code(error) == MISMATCH:
            # The library that this process loaded stays in it.
            words = ProbeError(words.cause, f"{words.remedy}. If that was done: restart Danzar")
        return words

    def _stop(self) -> None:
        if self._cards is not None:
            self._cards = None
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML would not shut down: %s", error)

    # --- readings -----------------------------------------------------------------------------

    def _read_all(self, now: float, processes: bool) -> tuple[list[DeviceMemory], list[str], bool]:
        """Readings, what could not be read, and whether the library should be started again."""
        cards = self._cards if self._cards is not None else self._start(now)
        devices: list[DeviceMemory] = []
        faults = [*self._missing]
        broken = False
        everything = processes or self._processes_read_at is None
        if everything:
            self._processes_read_at = now
        for card in cards:
            try:
                devices.append(self._read_card(card, now, everything))
            except pynvml.NVMLError as error:
                faults.append(f"{card.label}: {describe(error)}")
                broken = broken or error_code(error) in RESTART_CODES
        return devices, faults, broken

    def _read_card(self, card: Card, now: float, everything: bool) -> DeviceMemory:
        if card.memory_v2 and self._read_v2(card.handle, card.memory_ref) == 0:
            _, total, _, free, used = card.words[:]
        else:
            total, free, used = self._read_memory(card)
        if everything or abs(used - card.used_at_listing) > LISTING_DRIFT_BYTES:
            # Somebody came or went: the old list would credit memory to a program that left.
            card.processes = self._read_processes(card, total - free, now)
            card.listed_bytes = listed_bytes(card.processes)
            card.used_at_listing = used
        if everything or now - card.sensors_read_at >= SENSORS_SECONDS:
            self._read_sensors(card, now)
        busy = None
        if card.rates_known:
            if self._read_rates(card.handle, card.rates_ref) == 0:
                busy = float(card.rates.gpu)
            else:
                card.rates_known = False  # asked again with the sensors
        held = used if card.listed_bytes is None else card.listed_bytes
        # In order, for speed: this is made for every card at every tick.
        return DeviceMemory(
            card.index,
            card.uuid,
            card.name,
            total,
            free,
            min(held, total - free) if held > 0 else 0,
            card.processes,
            card.pci_bus_id,
            card.compute_capability,
            card.cores,
            busy,
            card.temperature_c,
            card.power_w,
            "nvml",
            now,
        )

    def _read_memory(self, card: Card) -> tuple[int, int, int]:
        """(total, free, used without the driver's share where it tells) in bytes."""
        if card.memory_v2:
            code = self._read_v2(card.handle, card.memory_ref)
            if code == 0:  # it came to itself meanwhile
                _, total, _, free, used = card.words[:]
                return total, free, used
            if code in RESTART_CODES:
                raise pynvml.NVMLError(code)
            card.memory_v2 = False
        if not card.unified:
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(card.handle)
                return int(memory.total), int(memory.free), int(memory.used)
            except pynvml.NVMLError as error:
                if error_code(error) != NOT_SUPPORTED or card.parent_uuid:
                    raise
            card.unified = True
            card.name = f"{card.name}, unified memory"
            log.info("%s has no memory of its own: the computer's is read", card.label)
        system = psutil.virtual_memory()
        return system.total, system.available, system.total - system.available

    def _read_sensors(self, card: Card, now: float) -> None:
        card.sensors_read_at = now
        card.rates_known = self._read_rates is not None
        temperature = known(
            pynvml.nvmlDeviceGetTemperature, card.handle, pynvml.NVML_TEMPERATURE_GPU
        )
        power = known(pynvml.nvmlDeviceGetPowerUsage, card.handle)
        card.temperature_c = float(temperature) if temperature is not None else None
        card.power_w = power / 1000.0 if power is not None else None

    def _read_processes(
        self, card: Card, reserved: int, now: float
    ) -> tuple[GpuProcess, ...] | None:
        """Compute and graphics processes by pid; ``None`` where the driver lists none at all.

        ``reserved``: bytes in use on the card, of which the accounts can't show more.
        """
        held: dict[int, int | None] = {}
        answered = False
        for ask in (
            pynvml.nvmlDeviceGetComputeRunningProcesses,
            pynvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            try:
                rows = ask(card.handle)
            except pynvml.NVMLError as error:
                if error_code(error) == LOST:
                    raise
                if error_code(error) == NO_PERMISSION and not card.refusal_told:
                    card.refusal_told = True
                    why = describe(error)
                    log.warning("%s: its processes can't be listed: %s", card.label, why)
                continue
            answered = True
            for row in rows:
                # One process may be in both lists with the same memory.
                sizes = [s for s in (held.get(row.pid), row.usedGpuMemory) if s is not None]
                held[int(row.pid)] = max(map(int, sizes)) if sizes else None
        if self._accounts is not None and all(size is None for size in held.values()):
            held = with_accounts(held, self._accounts_of(card, self._accounts, now), reserved)
        if not answered and not held:
            return None
        return tuple(
            GpuProcess(pid, self._name_of(pid), size)
            for pid, size in sorted(held.items(), key=lambda item: -(item[1] or 0))
        )

    def _accounts_of(self, card: Card, accounts: WindowsAccounts, now: float) -> dict[int, int]:
        """What Windows says of this card; it is asked once for all cards of a reading."""
        if self._accounts_read[0] != now:
            self._accounts_read = (now, {})
            try:
                self._accounts_read = (now, accounts.read(now))
            except Exception:
                # A library of the system's, on a Windows that nobody tried: the cards' memory must
                # be read all the same.
                log.exception("Windows' accounts of GPU memory fail: they are not asked any more")
                self._accounts = None
        place = parse_place(card.pci_bus_id)
        return self._accounts_read[1].get(place, {}) if place is not None else {}

    def _name_of(self, pid: int) -> str:
        return program_name(pid, text(known(pynvml.nvmlSystemGetProcessName, pid)))


def listed_bytes(processes: tuple[GpuProcess, ...] | None) -> int | None:
    """What the listed processes hold together; ``None`` where the driver keeps no accounts.

    An empty list beside used memory is no proof of emptiness: other containers' processes are
    not shown.
    """
    sizes = [p.used_bytes for p in processes or () if p.used_bytes is not None]
    return sum(sizes) if sizes else None


def _census() -> tuple[int, int]:
    """How many cards NVML and the kernel's module count. Raises ``pynvml.NVMLError``."""
    try:
        listed = sum(1 for _ in LINUX_CARDS.iterdir())
    except OSError:
        listed = 0
    return pynvml.nvmlDeviceGetCount(), listed


def _free_index(taken: set[int], wanted: int) -> int:
    while wanted in taken:
        wanted += 1
    return wanted
