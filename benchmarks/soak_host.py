"""The bot's process as the faults meet it: ``danzar``, on the stand-in for Discord at ``URL``.

    python -m benchmarks.soak_host URL SECONDS run --config PATH

The whole program, which prints a JSON line about itself every ``SECONDS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from typing import Any

from bot.__main__ import main as danzar  # isort: split

import psutil
from discord.gateway import DiscordWebSocket
from discord.http import Route

import bot.client
from bot.cli.exits import Exit
from bot.context import AppContext
from bot.vision.reports import FrameReport
from danzar_gpu import ProbeError
from tests.bot.fake_discord import addresses

delays: list[float] = []


def main() -> int:
    url, seconds, *command = sys.argv[1:]
    Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = addresses(url)
    run_on_discord = bot.client.run_on_discord

    async def and_report(context: AppContext, token: str, stop: asyncio.Event) -> Exit:
        watching = [
            asyncio.create_task(report(context, float(seconds))),
            asyncio.create_task(feel_delay()),
        ]
        try:
            return await run_on_discord(context, token, stop)
        finally:
            for task in watching:
                task.cancel()

    bot.client.run_on_discord = and_report
    return danzar(command)


async def feel_delay() -> None:
    """How late the event loop wakes up, in seconds."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.02)
        delays.append(time.perf_counter() - began - 0.02)


async def report(context: AppContext, seconds: float) -> None:
    me = psutil.Process()
    frames = analysed = 0

    def count(seen: FrameReport) -> None:
        nonlocal frames, analysed
        frames += 1
        analysed += "yolo" in seen.devices

    context.vision.subscribe(count)
    manager, vision = context.gpu_memory_manager, context.vision
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProbeError):  # the manager tells it: ``error`` below
            await manager.refresh(max_age=0.5)  # somebody looks
        late, delays[:] = sorted(delays) or [0.0], []
        line: dict[str, Any] = {
            "rss": me.memory_info().rss,
            "descriptors": me.num_fds(),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "late_p99": late[int(len(late) * 0.99)],
            "late_worst": late[-1],
            "frames": frames,
            "analysed": analysed,
            "workers": vision.worker_starts,
            "worker": vision.worker_pid,
            "state": vision.state,
            "reason": vision.state_reason,
            "models": {name: s.state for name, s in vision.services.items()},
            "device": vision.services["yolo"].device,
            "why_model": vision.services["yolo"].reason,
            "cards": [d.index for d in manager.snapshot.devices] if manager.snapshot else [],
            "error": manager.last_error,
            "faults": list(manager.snapshot.faults) if manager.snapshot else [],
            "storage": manager.storage_trouble,
            "online": context.client is not None and context.client.online,
            "moves": sum(e.kind == "moved" for e in manager.events),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
