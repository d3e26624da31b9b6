"""A thousand `!gpu status` in a minute, from many users: what does the bot do to its event loop?

    python -m benchmarks.status_storm [--requests 1000] [--users 100] [--seconds 60] [--json]

The real bot, from the gateway's MESSAGE_CREATE on (see ``benchmarks.chat``); Discord answers after
80 ms. It tells how many were answered and how many cooled down, how many readings of the cards
that took, and how late the event loop was (a heartbeat that waits would cost the bot its session).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

from benchmarks.chat import FIRST_USER, Answers, ask, bot_without_discord, milliseconds, ticking
from bot.settings import Settings, VisionSettings
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.probes.simulated import SimulatedProbe

LIMIT_MS = 50.0


class CountingProbe(SimulatedProbe):
    """The simulated rig; a reading takes as long as a driver with process lists does."""

    reads = 0

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        self.reads += 1
        time.sleep(0.005 if processes else 0.0001)
        return super().read(now, processes=processes)


async def storm(requests: int, users: int, seconds: float, seed: int = 1) -> dict[str, Any]:
    """Send the requests at random moments; what came of them."""
    chance = random.Random(seed)
    probe, answers = CountingProbe(), Answers()
    delays: list[float] = []
    settings = Settings(vision=VisionSettings(autostart=False))
    async with bot_without_discord(settings, probe, answers) as bot:
        before = probe.reads
        ticker = asyncio.create_task(ticking(delays))
        loop = asyncio.get_running_loop()
        began = loop.time()
        moments = sorted(chance.uniform(0, seconds) for _ in range(requests))
        for number, moment in enumerate(moments):
            await asyncio.sleep(max(0.0, began + moment - loop.time()))
            ask(bot, "!gpu status", number, FIRST_USER + chance.randrange(users))
        for _ in range(600):
            if answers.statuses + answers.cooldowns + len(answers.others) >= requests:
                break
            await asyncio.sleep(0.05)
        took = loop.time() - began
        ticker.cancel()
        reads = probe.reads - before
    return {
        "requests": requests,
        "users": users,
        "seconds": round(took, 1),
        "answered": answers.statuses,
        "cooled_down": answers.cooldowns,
        "other_answers": len(answers.others),
        "unanswered": requests - answers.statuses - answers.cooldowns - len(answers.others),
        "probe_reads": reads,
        "loop_delay_ms": milliseconds(delays),
        "limit_p99_ms": LIMIT_MS,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args()
    result = asyncio.run(storm(args.requests, args.users, args.seconds))
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key:>16}: {value}")
    well = result["unanswered"] == 0 and result["other_answers"] == 0
    return 0 if well and result["loop_delay_ms"]["p99"] < LIMIT_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
