"""The cards that the driver has, and which of them CUDA shows to our processes."""

# pynvml carries no types.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pynvml

from danzar_gpu.memory import GpuProcess
from danzar_gpu.probes.driver_words import describe
from danzar_gpu.probes.visibility import visible_order

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Card:
    """A card, or a part of one (MIG), while the driver runs: what stays, and what was read last.

    The driver writes into ``memory`` and ``rates``, which are used again at each reading.
    """

    handle: Any
    uuid: str
    name: str
    pci_bus_id: str
    compute_capability: tuple[int, int] | None
    cores: int | None = None
    parent_uuid: str = ""
    """Of the card whose part this is; empty for a whole card."""
    index: int = 0

    memory_v2: bool = True
    unified: bool = False
    """It has no memory of its own: the computer's is read instead."""
    rates_known: bool = True
    processes: tuple[GpuProcess, ...] | None = None
    listed_bytes: int | None = None
    """What the listed processes hold together, where the driver keeps accounts."""
    used_at_listing: int = 0
    refusal_told: bool = False
    """That its processes may not be listed was said."""
    temperature_c: float | None = None
    power_w: float | None = None
    sensors_read_at: float = float("-inf")
    memory: Any = field(default_factory=pynvml.c_nvmlMemory_v2_t)
    words: Any = None
    """``memory`` as 64-bit words: version, total, reserved, free, used."""
    memory_ref: Any = None
    rates: Any = field(default_factory=pynvml.c_nvmlUtilization_t)
    rates_ref: Any = None

    def __post_init__(self) -> None:
        self.memory.version = pynvml.nvmlMemory_v2
        self.words = (ctypes.c_ulonglong * 5).from_buffer(self.memory)
        self.memory_ref = ctypes.byref(self.memory)
        self.rates_ref = ctypes.byref(self.rates)

    @property
    def label(self) -> str:
        return f"Device {self.index} ({self.name})"


def find_cards() -> tuple[list[Card], list[str]]:
    """All cards in PCI order, each partitioned one followed by its parts; what can't be opened.

    Raises ``pynvml.NVMLError`` where not even their number is known.
    """
    whole: list[Card] = []
    faults: list[str] = []
    for position in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(position)
        except pynvml.NVMLError as error:
            faults.append(str(describe(error)))
            continue
        pci = known(pynvml.nvmlDeviceGetPciInfo, handle)
        # Where the driver gives no address its own order, which follows it, serves.
        bus = text(pci.busId if pci else None) or f"~{position:04d}"
        whole.append(_card(handle, bus, f"unknown-{position}"))
    whole.sort(key=lambda card: card.pci_bus_id)
    return [one for card in whole for one in (card, *_parts(card))], faults


def visible_cards(cards: list[Card], visible: str | None) -> list[Card]:
    """Those that CUDA shows under this ``CUDA_VISIBLE_DEVICES``, in the order of its ordinals.

    Where cards are partitioned CUDA shows one part and nothing else: the first that is visible
    (NVIDIA Multi-Instance GPU User Guide, "Device Enumeration").
    """
    whole = [card for card in cards if not card.parent_uuid]
    if visible is not None and "mig-" in visible.lower():
        order = visible_order([card.uuid for card in cards], visible)
        found = [cards[position] for position in order]
    else:
        found = [whole[n] for n in visible_order([card.uuid for card in whole], visible)]
        found = [one for card in found for one in (_parts_among(card, cards) or [card])]
    part = next((card for card in found if card.parent_uuid), None)
    return [part] if part is not None else found


def _parts_among(card: Card, cards: list[Card]) -> list[Card]:
    return [part for part in cards if part.parent_uuid == card.uuid]


def _card(handle: Any, bus: str, otherwise: str, of: Card | None = None) -> Card:
    whole = of.handle if of is not None else handle
    capability = known(pynvml.nvmlDeviceGetCudaComputeCapability, whole)
    return Card(
        handle=handle,
        uuid=text(known(pynvml.nvmlDeviceGetUUID, handle)) or otherwise,
        name=short_name(text(known(pynvml.nvmlDeviceGetName, handle)) or "GPU"),
        pci_bus_id=bus,
        compute_capability=(capability[0], capability[1]) if capability else None,
        cores=known(pynvml.nvmlDeviceGetNumGpuCores, whole),
        parent_uuid=of.uuid if of is not None else "",
    )


def _parts(card: Card) -> Iterator[Card]:
    """The MIG instances of a card; nothing where it is not partitioned."""
    mode = known(pynvml.nvmlDeviceGetMigMode, card.handle)
    if not mode or not mode[0]:
        return
    for position in range(known(pynvml.nvmlDeviceGetMaxMigDeviceCount, card.handle) or 0):
        handle = known(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, position)
        if handle is not None:
            yield _card(handle, card.pci_bus_id, f"MIG-{card.uuid}-{position}", of=card)


def short_name(name: str) -> str:
    """A card's name as the guide writes it: without the vendor's prefix."""
    return re.sub(r"^(NVIDIA\s+)?(GeForce\s+)?", "", name.strip(), flags=re.IGNORECASE) or name


def known(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer, or ``None`` where it has none to give."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        log.debug("%s: %s", getattr(ask, "__name__", ask), error)
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", errors="replace")
    return None


def text(value: Any) -> str:
    """A name of the driver's as text, whatever it is made of."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value) if value is not None else ""
