"""A thousand `!gpu status` in a minute, from many users: what does the bot do to its event loop?

    python -m benchmarks.status_storm [--requests 1000] [--users 100] [--seconds 60] [--json]

The real bot, from the gateway's MESSAGE_CREATE on: parsing, checks, cooldowns, reading, embeds,
buttons. Only Discord's REST side is a stand-in that answers after 80 ms. It tells how many were
answered and how many cooled down, how many readings of the cards that took, and how late the
event loop was (a heartbeat that waits would cost the bot its session).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import discord

from bot.client import DanzarBot
from bot.context import open_context
from bot.settings import Settings, VisionSettings
from danzar_gpu.history import percentile
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.probes.simulated import SimulatedProbe

GUILD, CHANNEL, BOT, EVERYBODY = 1 << 30, 2 << 30, 3 << 30, 1 << 30
FIRST_USER = 4 << 30
LATENCY_SECONDS = 0.08
TICK_SECONDS = 0.005
LIMIT_MS = 50.0


class CountingProbe(SimulatedProbe):
    """The simulated rig; a reading takes as long as a driver with process lists does."""

    reads = 0

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        self.reads += 1
        time.sleep(0.005 if processes else 0.0001)
        return super().read(now, processes=processes)


class Answers:
    """Discord's REST side: takes messages, counts them."""

    def __init__(self) -> None:
        self.ids = itertools.count(5 << 40)
        self.statuses = 0
        self.cooldowns = 0
        self.others: list[str] = []

    async def send_message(self, channel_id: int, *, params: Any) -> dict[str, Any]:
        await asyncio.sleep(LATENCY_SECONDS)
        payload = params.payload or {}
        embeds = payload.get("embeds") or []
        content = str(payload.get("content") or "")
        if embeds and "GPU Memory Status" in embeds[0]["title"]:
            self.statuses += 1
        elif "Too fast" in content:
            self.cooldowns += 1
        else:
            self.others.append(content or str(embeds))
        return message(next(self.ids), BOT, content, embeds=embeds)


def message(message_id: int, author: int, content: str, **more: Any) -> dict[str, Any]:
    """What the gateway sends for a message."""
    return {
        "id": str(message_id),
        "type": 0,
        "channel_id": str(CHANNEL),
        "content": content,
        "author": {
            "id": str(author),
            "username": f"user{author % 1000}",
            "discriminator": "0",
            "avatar": None,
            "bot": author == BOT,
        },
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "components": [],
        **more,
    }


def guild() -> dict[str, Any]:
    """A server with one channel."""
    role = {"id": str(EVERYBODY), "name": "@everyone", "permissions": str(1 << 11 | 1 << 10)}
    more = {"color": 0, "hoist": False, "position": 0, "managed": False, "mentionable": False}
    colors = {"primary_color": 0, "secondary_color": None, "tertiary_color": None}
    return {
        "id": str(GUILD),
        "name": "Storm",
        "owner_id": str(FIRST_USER),
        "roles": [{**role, **more, "colors": colors, "flags": 0}],
        "channels": [
            {
                "id": str(CHANNEL),
                "type": 0,
                "name": "general",
                "position": 0,
                "permission_overwrites": [],
            }
        ],
        "members": [],
        "emojis": [],
        "features": [],
        "member_count": 100,
        "unavailable": False,
    }


@asynccontextmanager
async def bot_without_discord(probe: CountingProbe, answers: Answers) -> AsyncIterator[DanzarBot]:
    """The bot, logged in nowhere, with a server in its cache."""
    settings = Settings(vision=VisionSettings(autostart=False))
    async with open_context(settings, probe, demo=True) as context:
        bot = DanzarBot(context)
        await bot._async_setup_hook()  # pyright: ignore[reportPrivateUsage]
        state = bot._connection  # pyright: ignore[reportPrivateUsage]
        state.user = discord.ClientUser(
            state=state,
            data={  # pyright: ignore[reportArgumentType]
                "id": str(BOT),
                "username": "Danzar",
                "discriminator": "0",
                "avatar": None,
                "bot": True,
            },
        )
        bot.http.send_message = answers.send_message  # pyright: ignore[reportAttributeAccessIssue]
        state.parse_guild_create(guild())  # pyright: ignore[reportArgumentType]
        bot._ready.set()  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        await bot.setup_hook()
        try:
            yield bot
        finally:
            for cog in tuple(bot.cogs):
                await bot.remove_cog(cog)


async def ticking(delays: list[float]) -> None:
    """How late the event loop wakes somebody who wanted to sleep for 5 ms."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        delays.append(max(0.0, loop.time() - due))


async def storm(requests: int, users: int, seconds: float, seed: int = 1) -> dict[str, Any]:
    """Send the requests at random moments; what came of them."""
    chance = random.Random(seed)
    probe, answers = CountingProbe(), Answers()
    delays: list[float] = []
    async with bot_without_discord(probe, answers) as bot:
        state = bot._connection  # pyright: ignore[reportPrivateUsage]
        before = probe.reads
        ticker = asyncio.create_task(ticking(delays))
        loop = asyncio.get_running_loop()
        began = loop.time()
        moments = sorted(chance.uniform(0, seconds) for _ in range(requests))
        for number, moment in enumerate(moments):
            await asyncio.sleep(max(0.0, began + moment - loop.time()))
            author = FIRST_USER + chance.randrange(users)
            payload = message((6 << 40) + number, author, "!gpu status", guild_id=str(GUILD))
            payload["member"] = {"roles": [], "joined_at": None, "flags": 0}
            state.parse_message_create(payload)  # pyright: ignore[reportArgumentType]
        for _ in range(600):
            if answers.statuses + answers.cooldowns + len(answers.others) >= requests:
                break
            await asyncio.sleep(0.05)
        took = loop.time() - began
        ticker.cancel()
        reads = probe.reads - before
    microseconds = [int(delay * 1e6) for delay in delays]
    return {
        "requests": requests,
        "users": users,
        "seconds": round(took, 1),
        "answered": answers.statuses,
        "cooled_down": answers.cooldowns,
        "other_answers": len(answers.others),
        "unanswered": requests - answers.statuses - answers.cooldowns - len(answers.others),
        "probe_reads": reads,
        "loop_delay_ms": {
            "p50": percentile(microseconds, 0.5) / 1000,
            "p99": percentile(microseconds, 0.99) / 1000,
            "worst": max(microseconds) / 1000,
        },
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
