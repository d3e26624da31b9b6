"""Is the vision worker well? Asks it again and again, and says when it has to be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from bot.settings import VisionSettings
from bot.vision.worker.handle import WorkerGone, WorkerHandle
from bot.vision.worker.protocol import Ping, Pong
from danzar_gpu.memory import GIB, MemorySnapshot, gib

PING_SECONDS = 2.0
LOADING_HANG_SECONDS = 60.0
"""Importing torch from a cold disk can keep a process silent for long."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the watchdog asks the pipeline: each is called anew at every round."""

    settings: Callable[[], VisionSettings]
    loading: Callable[[], bool]
    snapshot: Callable[[], MemorySnapshot | None]
    heard: Callable[[Pong], Awaitable[None]]
    idle_context: Callable[[], str | None]
    """Why it should end for the sake of a CUDA context that it no longer needs."""
    second_look: Callable[[], str | None]
    """Why it should end for the sake of a card that it can't use."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worker has to be replaced."""

    why: str
    planned: Literal["", "new card", "second look", "idle context"] = ""
    """It is well, but: CUDA shows a process only the cards of its start, and gives the memory of a
    context back only at the process's end."""


async def watch_over(worker: WorkerHandle, watched: Watched) -> Verdict | None:
    """Returns when the worker has to be replaced, or (``None``) when it is gone."""
    known: frozenset[str] | None = None
    while True:
        settings = watched.settings()
        limit = settings.hang_timeout_seconds
        patience = max(limit, LOADING_HANG_SECONDS) if watched.loading() else limit
        try:
            pong, _ = await worker.ask(Ping(), Pong, timeout=patience)
        except TimeoutError:
            return Verdict(f"it was silent for {patience:g} s")
        except WorkerGone:
            return None
        if why := unwell(pong, patience, settings):
            return Verdict(why)
        present = cards_of(watched.snapshot())
        if known is not None and present is not None and present - known:
            return Verdict("a card came that it can't see", planned="new card")
        known = present if known is None else known
        if not watched.loading():
            if why := watched.second_look():
                return Verdict(f"another one may have more luck: {why}", planned="second look")
            if why := watched.idle_context():
                return Verdict(why, planned="idle context")
        await watched.heard(pong)
        await asyncio.sleep(min(PING_SECONDS, limit / 2))


def unwell(pong: Pong, patience: float, settings: VisionSettings) -> str:
    """Why a worker that answers is to be replaced all the same; empty if it is well."""
    if pong.busy_seconds > patience:
        return f"a model was at one batch for {pong.busy_seconds:.0f} s"
    most = settings.worker_memory_limit_gb
    if most and pong.resident_bytes > most * GIB:
        return (
            f"it had grown to {gib(pong.resident_bytes):.1f}GB of main memory, more than "
            f"vision.worker_memory_limit_gb ({most:g})"
        )
    return ""


def cards_of(snapshot: MemorySnapshot | None) -> frozenset[str] | None:
    """The cards of a reading by UUID; ``None`` while nobody knows them."""
    return frozenset(d.uuid for d in snapshot.devices) if snapshot is not None else None
