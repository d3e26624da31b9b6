"""A program takes a card's memory while vision runs there: the same steps on any rig."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from bot.vision.pipeline import VisionPipeline
from bot.vision.reports import FrameReport
from danzar_gpu.memory import GIB
from tests.gpu.measurements import Measurements
from tests.vision.running import both_run, manager_of, until

PATIENCE_SECONDS = 180.0
LEFT_BYTES = GIB // 10
"""What the program leaves of what it finds free."""
GROWTH_BYTES = LEFT_BYTES // 2
"""What it takes more once vision has left: an LLM's conversation grows."""


async def seconds_until_all_are_on(
    pipeline: VisionPipeline, device: str, patience: float = PATIENCE_SECONDS
) -> float:
    """How long it takes until both models run on a device (``cuda:0``, ``cpu``)."""

    def arrived() -> bool:
        places = [s.device or "" for s in pipeline.services.values()]
        return both_run(pipeline) and all(place.startswith(device) for place in places)

    began = time.monotonic()
    await until(arrived, f"both models on {device}", patience)
    return time.monotonic() - began


async def makes_room(
    pipeline: VisionPipeline,
    index: int,
    take: Callable[[int], None],
    give: Callable[[], None],
    measured: Measurements,
    rounds: int = 3,
    patience: float = PATIENCE_SECONDS,
) -> list[FrameReport]:
    """Vision leaves, the program is never refused, vision returns; the reports of all frames.

    ``take`` raises ``MemoryError`` where the program would starve.
    """
    manager = manager_of(pipeline)
    reports: list[FrameReport] = []
    pipeline.subscribe(reports.append)
    reader = asyncio.create_task(_read(pipeline))
    try:
        for _ in range(rounds):
            # One model may leave room enough; whoever loads a large LLM takes that, too.
            while on_card := _on_card(pipeline):
                here = (await manager.refresh(max_age=0)).device(index)
                assert here is not None
                began = time.monotonic()
                await asyncio.to_thread(take, max(0, here.free_bytes - LEFT_BYTES))
                await until(
                    lambda count=on_card: _on_card(pipeline) < count, "a model's leaving", patience
                )
                away = time.monotonic() - began
                measured.add("from the program's allocation until a model has left", "s", away)
                settled = await manager.shown()
                if settled is not None:
                    assert settled.kind == "shown", settled.words
                    measured.add("until the driver shows what it left", "s", settled.seconds)
            await asyncio.to_thread(take, GROWTH_BYTES)
            await asyncio.to_thread(give)
            back = await seconds_until_all_are_on(pipeline, f"cuda:{index}", patience)
            measured.add("from the memory's return until both models are back", "s", back)
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    return reports


def _on_card(pipeline: VisionPipeline) -> int:
    """How many models are on a card, or on their way."""
    return sum(lease.device != "cpu" for lease in manager_of(pipeline).leases)


async def _read(pipeline: VisionPipeline) -> None:
    while True:
        await asyncio.sleep(0.02)
        await pipeline.consumed(1)
