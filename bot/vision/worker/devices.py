"""From the manager's word to a torch device, and back: what this process holds there."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from typing import Any

from bot.vision.worker.environment import importing
from bot.vision.worker.protocol import Destination, Held

OUT_OF_MEMORY_SIGNS = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # The caching allocator asks NVML while it reports an OOM, and trips over that itself.
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
)
INACTIVE_SPLIT = "inactive_split_bytes.all.current"
TRIED = re.compile(r"Tried to allocate ([0-9.]+) (KiB|MiB|GiB|bytes)")
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class PlaceError(Exception):
    """The model can't live there; says why and what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """A device that was found to be the one that is meant."""

    device: str
    """``cuda:N`` or ``cpu``, as torch reads it: what computes, which a rehearsal only claims."""
    shown: str
    note: str = ""
    """What a person should do about it."""

    @property
    def on_card(self) -> bool:
        return self.device != "cpu"


CPU = Place("cpu", "cpu")


def resolve(destination: Destination) -> Place:
    """The device for a decision of the manager. Imports torch for a card, but not for the CPU.

    Where the driver has cards but torch can use none at all, the CPU does the work under the
    card's name, and says so: everything is placed and moved as it will be once torch is mended.

    Raises:
        PlaceError: torch does not have the card, or ``cuda:N`` is another card here.
    """
    if destination.device == "cpu":
        return CPU
    index = int(destination.device.removeprefix("cuda:"))
    if destination.simulated:
        # A scripted rig: placement is for show, even if a real card should have that number.
        return Place("cpu", f"{destination.device} (simulated; really on the CPU)")
    with importing():
        import torch

        torch_is_ready()
    if not torch.cuda.is_available() and destination.may_rehearse:
        return Place(
            "cpu",
            f"{destination.device} (torch can't use it; really on the CPU)",
            f"torch {torch.__version__} can't use {destination.card or destination.device}: "
            "install a build for CUDA that fits the driver (`danzar doctor` tells more)",
        )
    if not torch.cuda.is_available():
        raise PlaceError(
            f"{destination.device} ({destination.card}) is there, but torch {torch.__version__} "
            "can't use it",
            "install a torch build for CUDA that fits the driver, or use the CPU",
        )
    if index >= torch.cuda.device_count():
        raise PlaceError(
            f"{destination.device} ({destination.card}) is unknown to torch, which sees "
            f"{torch.cuda.device_count()} cards",
            "look at CUDA_VISIBLE_DEVICES: the bot and its worker must see the same",
        )
    properties = torch.cuda.get_device_properties(index)
    found = str(getattr(properties, "uuid", ""))
    if destination.uuid and found and bare_uuid(found) != bare_uuid(destination.uuid):
        raise PlaceError(
            f"{destination.device} is {destination.card} ({destination.uuid}) for the driver but "
            f"{properties.name} (GPU-{bare_uuid(found)}) for torch",
            "look at CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER: they must be the same for both",
        )
    if destination.limit_bytes is not None:
        share = min(1.0, destination.limit_bytes / properties.total_memory)
        torch.cuda.set_per_process_memory_fraction(share, index)
    return Place(f"cuda:{index}", destination.device)


def bare_uuid(uuid: str) -> str:
    """Without NVML's ``GPU-`` or ``MIG-``, which torch leaves out."""
    return uuid.strip().lower().removeprefix("gpu-").removeprefix("mig-")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that the card is full, however it is dressed."""
    kind = _error_of_torch("OutOfMemoryError")
    if kind is not None and isinstance(error, kind):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in OUT_OF_MEMORY_SIGNS)


def tried_bytes(words: str) -> int:
    """How much torch says that it wanted when the card was full; 0 if it does not say."""
    found = TRIED.search(words)
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def is_poisoned(error: BaseException) -> bool:
    """Whether the CUDA context can't be trusted any more."""
    kind = _error_of_torch("AcceleratorError")
    return kind is not None and isinstance(error, kind) and not is_out_of_memory(error)


def _error_of_torch(name: str) -> type[BaseException] | None:
    """The kind of error, if torch is there far enough to have raised one."""
    return getattr(sys.modules.get("torch"), name, None)


def give_back() -> None:
    """Return the allocator's unused blocks to the driver."""
    torch = _torch()
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def held() -> tuple[Held, ...]:
    """What the allocator holds, card by card; nothing while torch or CUDA is unused."""
    torch = _torch()
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ()
    rows = [
        Held(
            index=i,
            reserved_bytes=torch.cuda.memory_reserved(i),
            active_bytes=torch.cuda.memory_allocated(i),
            inactive_split_bytes=torch.cuda.memory_stats(i).get(INACTIVE_SPLIT, 0),
        )
        for i in range(torch.cuda.device_count())
    ]
    return tuple(row for row in rows if row.reserved_bytes)


_ready = threading.Event()


def torch_is_ready() -> None:
    """To be called once torch is imported in full: until then nobody here looks at it."""
    _ready.set()


def _torch() -> Any:
    """The module, once it is there."""
    if not _ready.is_set():
        return None
    import torch

    return torch
