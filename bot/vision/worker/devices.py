"""From the manager's word to a torch device, and back: what this process holds there."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from typing import Any, Literal

from bot.vision.refusal import Refusal, first_line
from bot.vision.worker import contexts
from bot.vision.worker.environment import importing, return_freed_memory
from bot.vision.worker.no_cuda import why_no_cuda
from bot.vision.worker.protocol import Destination, Held

OUT_OF_MEMORY_SIGNS = (
    "out of memory",
    "out_of_memory",  # NVRTC's and the driver's constants
    "status_alloc_failed",  # cuBLAS, cuDNN 8
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    # A library's handle is made with the first computation: no room is the usual reason.
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    # cuDNN tries all engines, and each lacked memory for its workspace.
    "unable to find an engine to execute this computation",
    # The caching allocator asks NVML while it reports an OOM, and trips over that itself.
    "nvml_success == r internal assert failed",
)
INACTIVE_SPLIT = "inactive_split_bytes.all.current"
SEE_THE_SAME = (
    "if it was away when the worker started, another worker will see it; else look at "
    "CUDA_VISIBLE_DEVICES: the bot and its worker must see the same"
)
TRIED = re.compile(r"Tried to allocate ([0-9.]+) (KiB|MiB|GiB|bytes)")
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class PlaceError(Refusal):
    """The model can't live there."""

    about: Literal["place", "process", "memory"] = "place"


class OutOfReach(PlaceError):
    """This process can't use the card; another one may."""

    about = "process"


class PlaceFull(PlaceError):
    """The card has no room for as much as a CUDA context."""

    about = "memory"


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

    Where the driver has cards but this torch can never use one, the CPU does the work under the
    card's name, and says so: everything is placed and moved as it will be once torch is mended.

    Raises:
        PlaceError: torch does not have the card, or ``cuda:N`` is another card here.
        RuntimeError: a context of this process is broken.
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
    card = f"{destination.device} ({destination.card})"
    if (trouble := why_no_cuda(torch)) is not None:
        if is_out_of_memory(trouble.error):
            raise PlaceFull(f"CUDA does not start for {card}: {trouble.why}", "close what fills it")
        if not trouble.lasting:
            raise OutOfReach(f"CUDA does not start for {card}: {trouble.why}", trouble.remedy)
        words = f"torch {torch.__version__} can't use {card}: {trouble.why}"
        if not destination.may_rehearse:
            raise PlaceError(words, trouble.remedy)
        shown = f"{destination.device} (torch can't use it; really on the CPU)"
        return Place("cpu", shown, f"{words}; {trouble.remedy}")
    ordinal = _ordinal(torch, destination, index)
    try:
        # First of all: what follows would make the context unmeasured.
        contexts.make(ordinal, index, destination.uuid)
        if destination.limit_bytes is not None:
            total = torch.cuda.get_device_properties(ordinal).total_memory
            share = min(1.0, destination.limit_bytes / total)
            torch.cuda.set_per_process_memory_fraction(share, ordinal)
    except RuntimeError as error:
        if contexts.made() and is_poisoned(error):
            raise  # it will fail at every card until this process ends
        what = f"{card} can't be used: {first_line(error)}"
        if is_out_of_memory(error):
            raise PlaceFull(what, "close what fills it") from None
        raise OutOfReach(what, "`danzar doctor` tells more") from None
    return Place(f"cuda:{ordinal}", destination.device)


def _ordinal(torch: Any, destination: Destination, index: int) -> int:
    """torch's number for a card. The bot's may be another: it stays when a card before it is lost,
    while CUDA counts anew at the start of each process."""
    cards = _cards_of(torch)
    uuids = [bare_uuid(str(getattr(card, "uuid", ""))) for card in cards]
    if destination.uuid and all(uuids):
        wanted = bare_uuid(destination.uuid)
        if wanted in uuids:
            return uuids.index(wanted)
        seen = ", ".join(f"{c.name} (GPU-{u})" for c, u in zip(cards, uuids, strict=True))
        raise OutOfReach(
            f"{destination.device} is {destination.card} ({destination.uuid}) for the driver, but "
            f"torch sees only {seen or 'no card'}",
            SEE_THE_SAME,
        )
    if index >= len(cards):
        raise OutOfReach(
            f"{destination.device} ({destination.card}) is unknown to torch, which sees "
            f"{len(cards)} cards",
            SEE_THE_SAME,
        )
    return index


def _cards_of(torch: Any) -> list[Any]:
    """The properties of all cards that CUDA shows this process: torch may count more, since it asks
    NVML, which goes on naming a card that CUDA can't use."""
    found: list[Any] = []
    for ordinal in range(torch.cuda.device_count()):
        try:
            found.append(torch.cuda.get_device_properties(ordinal))
        except (AssertionError, RuntimeError):
            break
    return found


def bare_uuid(uuid: str) -> str:
    """Without NVML's ``GPU-`` or ``MIG-``, which torch leaves out."""
    return uuid.strip().lower().removeprefix("gpu-").removeprefix("mig-")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that the card is full, however it is dressed."""
    kind = _error_of_torch("OutOfMemoryError")
    if kind is not None and isinstance(error, kind):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(s in words for s in OUT_OF_MEMORY_SIGNS)


def tried_bytes(words: str) -> int:
    """How much torch says that it wanted when the card was full; 0 if it does not say."""
    found = TRIED.search(words)
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def allocated_bytes(place: Place) -> int:
    """What this process has allocated on a card; its peak counts from now on."""
    if not place.on_card:
        return 0
    import torch

    torch.cuda.reset_peak_memory_stats(place.device)
    return torch.cuda.memory_allocated(place.device)


def peak_bytes(place: Place) -> int:
    """The most that it had allocated there since then."""
    if not place.on_card:
        return 0
    import torch

    return torch.cuda.max_memory_allocated(place.device)


def is_poisoned(error: BaseException) -> bool:
    """Whether the CUDA context can't be trusted any more.

    Not every error of a card breaks its context: a kernel that was not built for it or a graph
    that can't be captured does not, and cuDNN dresses broken contexts as errors of its own. The
    contexts themselves are asked.
    """
    full = _error_of_torch("OutOfMemoryError")
    if not isinstance(error, RuntimeError) or (full is not None and isinstance(error, full)):
        return False
    if contexts.made():
        return not contexts.all_answer()
    kind = _error_of_torch("AcceleratorError")
    return kind is not None and isinstance(error, kind) and not is_out_of_memory(error)


def _error_of_torch(name: str) -> type[BaseException] | None:
    """The kind of error, if torch is there far enough to have raised one."""
    return getattr(sys.modules.get("torch"), name, None)


def give_back() -> None:
    """Return the allocators' unused blocks: to the system, and to the driver."""
    return_freed_memory()
    torch = _torch()
    if torch is None:
        return
    # Each call goes through all cards; the thread's own must be one that is in use anyway.
    for ordinal in contexts.made():
        with contexts.on(f"cuda:{ordinal}"):
            torch.cuda.empty_cache()
        return


def held() -> tuple[Held, ...]:
    """What this process has on each card where it has a CUDA context."""
    torch = _torch()
    if torch is None:
        return ()
    return tuple(
        Held(
            index=context.index,
            reserved_bytes=torch.cuda.memory_reserved(ordinal),
            active_bytes=torch.cuda.memory_allocated(ordinal),
            inactive_split_bytes=torch.cuda.memory_stats(ordinal).get(INACTIVE_SPLIT, 0),
            context_bytes=context.size_bytes,
        )
        for ordinal, context in contexts.made().items()
    )


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
