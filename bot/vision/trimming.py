"""Lets the worker give unused memory back when its card is short, and records what it was worth."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bot.vision.service import HOLDER
from bot.vision.worker.handle import WorkerGone, WorkerHandle, WorkerRefused
from bot.vision.worker.protocol import Held, Pong, Trim
from danzar_gpu import GPUMemoryManager
from danzar_gpu.history import MoveRecord
from danzar_gpu.memory import gib
from danzar_gpu.trimming import Slack, TrimGuard

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0


class Trimmer:
    """Looks at what each answer of the worker says of its allocator."""

    def __init__(
        self, manager: GPUMemoryManager, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._guard = TrimGuard()

    def due(self, pong: Pong) -> dict[int, str]:
        """The cards (by CUDA index) that should be trimmed, and why."""
        rooms = self._manager.rooms()
        config, now = self._manager.config, self._clock()
        found: dict[int, str] = {}
        for held in pong.held:
            room = rooms.get(held.index)
            why = self._guard.due(_slack(held), room, config, now) if room is not None else None
            if why is not None:
                found[held.index] = why
        return found

    async def trim(self, worker: WorkerHandle, before: Pong) -> Pong | None:
        """Trim if a card needs it; what the worker holds then, ``None`` if nothing was done."""
        due = self.due(before)
        if not due:
            return None
        began = self._clock()
        try:
            after, _ = await worker.ask(Trim(), Pong, timeout=PATIENCE_SECONDS)
        except (WorkerGone, WorkerRefused, TimeoutError) as error:
            log.warning("unused memory could not be given back: %s", error or "no answer in time")
            return None
        seconds = self._clock() - began
        left = {held.index: _slack(held) for held in after.held}
        for held in before.held:
            if held.index in due:
                then = left.get(held.index, Slack(held.index, 0, 0, 0))
                self._record(_slack(held), then, due[held.index], seconds)
        return after

    def _record(self, before: Slack, after: Slack, why: str, seconds: float) -> None:
        given = self._guard.trimmed(before, after, self._clock())
        device = self._manager.get_device_memory_info(before.index)
        stuck = f", {gib(after.splits):.2f}GB are in pieces that can't" if after.splits else ""
        self._manager.trimmed(
            f"{why}: {gib(given):.2f}GB went back in {seconds:.2f} s{stuck}",
            MoveRecord(
                at=time.time(),
                model=HOLDER,
                device_name=device.name if device is not None else f"cuda:{before.index}",
                kind="trim",
                from_device=f"cuda:{before.index}",
                to_device="",
                seconds=seconds,
                bytes=given,
                reason=why,
            ),
        )


def _slack(held: Held) -> Slack:
    return Slack(held.index, held.reserved_bytes, held.active_bytes, held.inactive_split_bytes)
