"""The bot's process as the soak runs it: everything of it but the connection to Discord.

Started by ``benchmarks.soak`` with the stand-in driver; prints one JSON line a second about itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import bot.client  # what discord.py weighs belongs to the bot
from bot import logs
from bot import settings as configuration
from bot.context import AppContext, open_context
from danzar_gpu import ProbeError, open_probe
from danzar_gpu.history import Sample

assert bot.client.DanzarBot


async def main(config: Path) -> None:
    settings = configuration.load(config)
    logs.configure("WARNING")
    async with open_context(settings, open_probe("auto")) as context:
        watch = asyncio.create_task(report(context))
        worst = asyncio.create_task(feel_delay())
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "end":
                break
            # As a person would after reading the words.
            await context.vision.start()
        watch.cancel()
        worst.cancel()


delays: list[float] = []


async def feel_delay() -> None:
    """How late the event loop wakes up, in seconds."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.02)
        delays.append(time.perf_counter() - began - 0.02)


async def report(context: AppContext) -> None:
    me = psutil.Process()
    frames = 0

    def count(_: object) -> None:
        nonlocal frames
        frames += 1

    context.vision.subscribe(count)
    manager, vision = context.gpu_memory_manager, context.vision
    while True:
        await asyncio.sleep(1.0)
        with contextlib.suppress(ProbeError):  # the manager tells it: ``error`` below
            await manager.refresh(max_age=0.5)  # somebody looks
        week: list[Sample] = await manager.samples(time.time() - 600)
        late, delays[:] = sorted(delays) or [0.0], []
        line: dict[str, Any] = {
            "rss": me.memory_info().rss,
            "descriptors": me.num_fds(),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "late_p99": late[int(len(late) * 0.99)],
            "late_worst": late[-1],
            "frames": frames,
            "workers": vision.worker_starts,
            "worker": vision.worker_pid,
            "state": vision.state,
            "reason": vision.state_reason,
            "models": {name: s.state for name, s in vision.services.items()},
            "cards": [d.index for d in manager.snapshot.devices] if manager.snapshot else [],
            "error": manager.last_error,
            "faults": list(manager.snapshot.faults) if manager.snapshot else [],
            "storage": manager.storage_trouble,
            "samples": len(week),
            "events": len(manager.events),
            "moves": sum(e.kind == "moved" for e in manager.events),
            "leases": len(manager.leases),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
