"""A program takes a card's memory while vision runs there: the same steps on any rig."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from bot.vision.pipeline import VisionPipeline
from bot.vision.reports import FrameReport
from danzar_gpu.memory import GIB, gib
from danzar_gpu.settling import TOLERANCE_BYTES
from tests.gpu.measurements import Measurements
from tests.vision.running import both_run, manager_of, until

PATIENCE_SECONDS = 90.0
LEFT_BYTES = GIB // 10
"""What the program leaves of what it finds free."""
STILL_SECONDS = 1.0
STILL_BYTES = 4 << 20
STILL_PATIENCE_SECONDS = 15.0
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
    with told(pipeline):
        await until(arrived, f"both models on {device}", patience)
    return time.monotonic() - began


@contextlib.contextmanager
def told(pipeline: VisionPipeline) -> Iterator[None]:
    """A failure says what was seen: a card is lent for minutes, nobody can look again."""
    try:
        yield
    except AssertionError as error:
        manager = manager_of(pipeline)
        services = "; ".join(
            f"{s.name} {s.state} on {s.device} ({s.reason})" for s in pipeline.services.values()
        )
        cards = "; ".join(
            f"{d.label}: {gib(d.free_bytes):.2f} of {gib(d.total_bytes):.2f} GB free, "
            f"{[(p.pid, p.name, p.used_bytes) for p in d.processes or ()]}"
            for d in (manager.snapshot.devices if manager.snapshot else ())
        )
        events = "\n".join(f"  {e.kind}: {e.text}" for e in list(manager.events)[-12:])
        raise AssertionError(
            f"{error}\nservices: {services}\ncards: {cards}\n"
            f"leases: {[(x.name, x.device, x.reason) for x in manager.leases]}\n"
            f"worker: {pipeline.worker_pid}\nlast events:\n{events}"
        ) from error


async def still(pipeline: VisionPipeline, index: int) -> int:
    """Bytes free on a card once they don't change for a while: graphs are captured after some
    frames, and kernels are loaded with their first use. Who takes what was free before starves."""
    manager = manager_of(pipeline)
    deadline = time.monotonic() + STILL_PATIENCE_SECONDS
    since, free = time.monotonic(), -1
    while (now := time.monotonic()) < deadline and now - since < STILL_SECONDS:
        here = (await manager.refresh(max_age=0)).device(index)
        assert here is not None, f"cuda:{index} can't be read any more"
        if abs(here.free_bytes - free) > STILL_BYTES:
            since, free = now, here.free_bytes
        await asyncio.sleep(0.1)
    return free


async def taken(
    pipeline: VisionPipeline, index: int, take: Callable[[int], None], size: int
) -> None:
    """Raises ``AssertionError`` with what was free where the program starves."""
    try:
        await asyncio.to_thread(take, size)
    except MemoryError as error:
        with told(pipeline):
            here = (await manager_of(pipeline).refresh(max_age=0)).device(index)
            free = f"{here.free_bytes >> 20} MiB" if here is not None else "nobody knows what"
            raise AssertionError(
                f"the program starved: it wanted {size >> 20} MiB more, of which {free} are free "
                f"now: {error}"
            ) from error


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
                free = await still(pipeline, index)
                began = time.monotonic()
                await taken(pipeline, index, take, max(0, free - LEFT_BYTES))
                with told(pipeline):
                    await until(
                        lambda count=on_card: _on_card(pipeline) < count,
                        "a model's leaving",
                        patience,
                    )
                away = time.monotonic() - began
                measured.add("from the program's allocation until a model has left", "s", away)
                settled = await manager.shown()
                if settled is not None:
                    with told(pipeline):
                        assert settled.kind == "shown", settled.words
                    if settled.size_bytes > TOLERANCE_BYTES:  # less can't be seen to go
                        words = "until the driver shows what it left (looked at every 2 s)"
                        measured.add(words, "s", settled.seconds)
            await taken(pipeline, index, take, GROWTH_BYTES)
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
