"""Where a model goes: pure functions of a snapshot, the ledger and the configuration. Every answer
carries its reason in words; chat, log and history repeat them.

The order is the guide's: the vision device, the LLM's device only beyond its reservation, any
other card, the CPU. ``room.py`` has the arithmetic of one card, ``rebalance.py`` who has to move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import LeaseRecord, Ledger, Request
from danzar_gpu.memory import MemorySnapshot, gib
from danzar_gpu.room import Room, available_words, fits, order, rooms, shortage, want_on, wants
from danzar_gpu.trust import PLAIN, Outlook

NO_DEVICE = "No GPU devices available with sufficient memory"


@dataclass(frozen=TYPE_CHECKING, slots=True)  # as in room.py
class Placement:
    """Where a request goes. ``device`` is ``None`` where it is refused."""

    device: str | None
    reason: str
    uuid: str | None = None
    evictions: tuple[int, ...] = ()
    """Leases that have to leave first."""


def place(
    request: Request,
    snapshot: MemorySnapshot | None,
    ledger: Ledger,
    config: GPUMemoryConfig,
    now: float,
    *,
    outlook: Outlook = PLAIN,
    exclude: Collection[str] = (),
    may_evict: bool = True,
    margin_bytes: int = 0,
) -> Placement:
    """Choose a device for ``request``.

    ``exclude`` names cards (UUIDs) that are out; ``margin_bytes`` must stay free beyond need and
    headroom.
    """
    if snapshot is None:
        return _no_card(["no reading of the GPUs yet"], config)
    all_rooms = rooms(snapshot, ledger, config, now, outlook)
    return choose(request, all_rooms, ledger, config, exclude, may_evict, margin_bytes)


def choose(
    request: Request,
    all_rooms: Mapping[int, Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    exclude: Collection[str] = (),
    may_evict: bool = False,
    margin_bytes: int = 0,
) -> Placement:
    """``place`` for rooms that were computed already."""
    open_rooms = _open_rooms(request, all_rooms, ledger, exclude)
    wanted = wants(request, open_rooms, ledger, config, margin_bytes)
    room = _first([room for room, want in wanted if fits(room, want)], config)
    if room is not None:
        reason = f"{available_words(room)}{_measured_words(request)}"
        return Placement(room.device.device, reason, room.device.uuid)
    ordered = order((r.device for r in open_rooms), config)
    if may_evict and any(r.request.priority < request.priority for r in ledger):
        for device in ordered:
            room = all_rooms[device.index]
            if victims := victims_for(request, room, ledger, config):
                names = ", ".join(v.request.name for v in victims)
                return Placement(
                    device.device,
                    f"{device.label} after {names} left for the more important {request.name}",
                    device.uuid,
                    tuple(v.lease_id for v in victims),
                )
    problems = {room.device.index: shortage(room, want) for room, want in wanted}
    why = [problem for d in ordered if (problem := problems[d.index]) is not None]
    barred = ledger.barred(request)
    why += [barred[d.uuid] for r in all_rooms.values() if (d := r.device).uuid in barred]
    if not all_rooms:
        why.append("no NVIDIA GPU was found")
    return _no_card(why, config)


def _measured_words(request: Request) -> str:
    """What was measured in earlier runs beside what was predicted."""
    if request.predicted is None:
        return ""
    measured, predicted = request.need.total_bytes, request.predicted.total_bytes
    return f"; it took {gib(measured):.2f}GB before ({gib(predicted):.2f}GB predicted)"


def first_fit(
    request: Request,
    all_rooms: Mapping[int, Room],
    ledger: Ledger,
    config: GPUMemoryConfig,
    exclude: Collection[str] = (),
    margin_bytes: int = 0,
) -> Room | None:
    """The first card in the guide's order that has room."""
    open_rooms = _open_rooms(request, all_rooms, ledger, exclude)
    wanted = wants(request, open_rooms, ledger, config, margin_bytes)
    return _first([room for room, want in wanted if fits(room, want)], config)


def _open_rooms(
    request: Request, all_rooms: Mapping[int, Room], ledger: Ledger, exclude: Collection[str]
) -> list[Room]:
    """Of the cards that are not excluded those that don't refuse the model."""
    out = {*exclude, *ledger.barred(request)}
    return [room for room in all_rooms.values() if room.device.uuid not in out]


def _first(fitting: list[Room], config: GPUMemoryConfig) -> Room | None:
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    first = order((room.device for room in fitting), config)[0]
    return next(room for room in fitting if room.device is first)


def _no_card(why: list[str], config: GPUMemoryConfig) -> Placement:
    reason = f"{NO_DEVICE}: {'; '.join(why)}" if why else NO_DEVICE
    if config.fallback_to_cpu:
        return Placement("cpu", reason)
    return Placement(None, f"{reason}; fallback_to_cpu is off")


def victims_for(
    request: Request, room: Room, ledger: Ledger, config: GPUMemoryConfig
) -> tuple[LeaseRecord, ...]:
    """The fewest, least important leases whose leaving makes the request fit; else none."""
    uuid = room.device.uuid
    candidates = sorted(
        (
            r
            for r in ledger
            if r.uuid == uuid and not r.moving and r.request.priority < request.priority
        ),
        key=lambda r: (r.request.priority, -r.request.need.model_bytes),
    )
    if not candidates:
        return ()
    want = want_on(request, uuid, ledger, config)
    chosen: list[LeaseRecord] = []
    freed = 0
    for record in candidates:
        chosen.append(record)
        freed += record.request.need.model_bytes
        if fits(room, want, freed):
            break
    else:
        return ()
    enough = [
        r
        for r in candidates
        if r.request.priority <= chosen[0].request.priority
        and fits(room, want, r.request.need.model_bytes)
    ]
    if enough:  # of the least important the smallest whose leaving will do
        return (min(enough, key=lambda r: r.request.need.model_bytes),)
    for record in tuple(chosen):
        if fits(room, want, freed - record.request.need.model_bytes):
            chosen.remove(record)
            freed -= record.request.need.model_bytes
    return tuple(chosen)
