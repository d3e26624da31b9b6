"""The real bot in a process of its own, with vision done in one of several ways.

    python -m benchmarks.subjects.whole_bot DESIGN SETTINGS FILM SPAWNED

DESIGN: ``worker`` is Danzar. ``imported`` is the same bot that imports torch, open_clip and
ultralytics first, ``loaded`` one that also loads the models before it logs in. ``inline`` and
``thread`` run what a person would write in the event loop or in `asyncio.to_thread`.
SPAWNED is the Unix time at which this process was asked for. The first line that it prints tells
when the first `!gpu status` was answered; then it answers ``load``, ``infer`` and ``memory``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import psutil

# First, as the command line does it.
from bot import quick_start  # isort: split

from benchmarks.chat import Answers, ask, bot_without_discord, milliseconds, ticking
from bot import settings as configuration
from bot.client import DanzarBot
from danzar_gpu.probes.simulated import SimulatedProbe

DESIGN = sys.argv[1] if len(sys.argv) > 1 else "worker"
STATUS_SECONDS = 1.0
SETTLE_SECONDS = 600.0


class Bot:
    """The running bot and what is asked of it."""

    def __init__(self, bot: DanzarBot, answers: Answers, film: str) -> None:
        self._bot = bot
        self._answers = answers
        self._film = film
        self._numbers = count(1)
        self._plain: Any = None

    async def first_status(self) -> float:
        """Unix time at which the first answer went out."""
        ask(self._bot, "!gpu status", next(self._numbers))
        await asyncio.wait_for(self._answers.status_came.wait(), SETTLE_SECONDS)
        return time.time()

    async def load(self) -> dict[str, Any]:
        """Bring the models in; how late the event loop was meanwhile."""
        began = time.perf_counter()
        async with self._watched() as delays:
            if DESIGN == "worker":
                vision = self._bot.app_context.vision
                await vision.start()
                await asyncio.wait_for(vision.settle(), SETTLE_SECONDS)
            elif DESIGN == "thread":
                self._plain = await asyncio.to_thread(self._load_plain)
            else:
                self._plain = self._load_plain()
        return {"seconds": time.perf_counter() - began, **milliseconds(delays)}

    async def infer(self, seconds: float) -> dict[str, Any]:
        """Both models on frame after frame for so long; delays, and frames a second."""
        frames = 0
        if DESIGN == "worker":

            def saw(report: Any) -> None:
                nonlocal frames
                frames += "yolo" in report.devices

            leave = self._bot.app_context.vision.subscribe(saw)
            async with self._watched() as delays:
                await asyncio.sleep(seconds)
            leave()
        else:
            from benchmarks.subjects.plain_vision import batches

            film = cycle(list(batches(self._film, 1)))
            until = time.perf_counter() + seconds
            async with self._watched() as delays:
                while time.perf_counter() < until:
                    await self._look(next(film))
                    frames += 1
        return {"frames_per_second": frames / seconds, **milliseconds(delays)}

    async def memory(self) -> dict[str, Any]:
        """Resident bytes of this process and of its children."""
        process = psutil.Process()
        children = process.children(recursive=True)
        return {
            "bot_bytes": process.memory_info().rss,
            "worker_bytes": sum(child.memory_info().rss for child in children),
            "vision": {k: v.state for k, v in self._bot.app_context.vision.services.items()},
        }

    async def _look(self, frame: list[Any]) -> None:
        if DESIGN == "thread":
            await asyncio.to_thread(self._plain.look, frame)
        else:
            self._plain.look(frame)
            await asyncio.sleep(0)

    def _load_plain(self) -> Any:
        from benchmarks.subjects.plain_vision import PlainVision, batches
        from bot.vision.model_files import locate

        settings = self._bot.app_context.settings
        yolo, clip = locate(settings.yolo.model_path), locate(settings.clip.model_path)
        plain = PlainVision(str(yolo), str(clip))
        plain.look(next(batches(self._film, 1)))
        return plain

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[list[float]]:
        """Meanwhile people ask for the status, and somebody looks at the clock."""
        delays: list[float] = []
        tasks = [asyncio.create_task(ticking(delays)), asyncio.create_task(self._asking())]
        await asyncio.sleep(0.05)
        try:
            yield delays
        finally:
            # A tick that waits for its turn must be heard before it is ended.
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _asking(self) -> None:
        while True:
            ask(self._bot, "!gpu status", next(self._numbers))
            await asyncio.sleep(STATUS_SECONDS)


async def serve(settings: configuration.Settings, film: str, spawned: float, pipe: Any) -> None:
    """Start the bot, tell of its first answer, then do what each line asks."""
    answers = Answers(latency_seconds=0.0)
    async with bot_without_discord(settings, SimulatedProbe(), answers) as real:
        bot = Bot(real, answers, film)
        first = await bot.first_status() - spawned
        quick_start.over()
        print(json.dumps({"ready": True, "seconds": first}), file=pipe, flush=True)
        known: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "load": bot.load,
            "infer": bot.infer,
            "memory": bot.memory,
        }
        while line := await asyncio.to_thread(sys.stdin.readline):
            question = json.loads(line)
            answer = await known[question.pop("do")](**question)
            print(json.dumps(answer), file=pipe, flush=True)


def main() -> None:
    _, _, path, film, spawned = sys.argv
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if DESIGN in ("imported", "loaded"):
        quick_start.over()
        import open_clip  # noqa: F401
        import torch  # noqa: F401
        import ultralytics  # noqa: F401
    settings = configuration.load(Path(path))
    if DESIGN == "loaded":
        from benchmarks.subjects.plain_vision import PlainVision

        kept = PlainVision(settings.yolo.model_path, settings.clip.model_path)
        assert kept.yolo is not None
    asyncio.run(serve(settings, film, float(spawned), pipe))


if __name__ == "__main__":
    main()
