"""Would it fit? Where, and what would have to move: pure, by placement's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger, Request
from danzar_gpu.memory import GIB, DeviceMemory, MemorySnapshot
from danzar_gpu.placement import Placement, place
from danzar_gpu.room import Room, Want, fits, order, shortage, want_on
from danzar_gpu.trust import Outlook

_MOST_IMPORTANT = 1_000_000


@dataclass(frozen=True, slots=True)
class CardFit:
    """Whether a model fits on one card."""

    device: DeviceMemory
    problem: str | None
    """Why it does not fit as things are; ``None`` when it does."""
    model_bytes: int
    """What it would take there: measured on such a card, else as asked for."""
    context_bytes: int
    """What comes on top: the CUDA context that its holder lacks there."""
    left_bytes: int
    """What could still be handed out there afterwards; negative when it does not fit."""
    must_leave: tuple[str, ...]
    """Models of ours that would have to move first; empty when that would not help either."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer for all cards, in the order in which placement looks at them."""

    placement: Placement
    """Where it would go now, with nobody moving."""
    cards: tuple[CardFit, ...]


def fit(
    request: Request,
    snapshot: MemorySnapshot,
    rooms: Mapping[int, Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    reservation_bytes: int,
) -> Fit:
    """Where ``request`` would go, and for each card what stands in its way. Changes nothing."""
    outlook = Outlook(
        reservation_bytes=reservation_bytes,
        doubts={room.device.uuid: room.doubtful for room in rooms.values() if room.doubtful},
        llm_likely={
            r.device.uuid: r.llm_held + r.unlisted_llm for r in rooms.values() if r.unlisted_llm
        },
    )
    important = replace(request, priority=_MOST_IMPORTANT)
    everywhere = {device.uuid for device in snapshot.devices}
    cards: list[CardFit] = []
    for device in order(snapshot.devices, config):
        room = rooms[device.index]
        want = want_on(request, device.uuid, ledger, config)
        problem = ledger.barred(request).get(device.uuid) or shortage(room, want)
        leavers: tuple[str, ...] = ()
        if problem is not None:
            alone = place(
                important,
                snapshot,
                ledger,
                config,
                now,
                outlook=outlook,
                exclude=everywhere - {device.uuid},
            )
            records = (ledger.get(lease_id) for lease_id in alone.evictions)
            leavers = tuple(r.request.name for r in records if r is not None)
        left = room.available - want.need
        context = want.need - want.model
        cards.append(CardFit(device, problem, want.model, context, left, leavers))
    placement = place(request, snapshot, ledger, config, now, outlook=outlook, may_evict=False)
    return Fit(placement, tuple(cards))


def largest_fit(room: Room, config: GPUMemoryConfig) -> int:
    """Bytes of the largest measured model that would be admitted beside what is there."""
    headroom = int(config.headroom_gb * GIB)
    size = min(room.available - headroom, room.vision_limit - room.vision_leased)
    threshold = int(config.cpu_fallback_threshold_gb * GIB)
    want = Want(size, size, max(threshold, size + headroom))
    return size if size > 0 and fits(room, want) else 0
