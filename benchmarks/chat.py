"""The real bot without Discord: the gateway's messages go in, Discord's REST side is a stand-in.

Everything between is the bot's own: parsing, checks, cooldowns, reading, embeds, buttons.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import discord

from bot.client import DanzarBot
from bot.context import open_context
from bot.settings import Settings
from danzar_gpu.history import percentile
from danzar_gpu.probes import MemoryProbe

GUILD, CHANNEL, BOT, EVERYBODY = 1 << 30, 2 << 30, 3 << 30, 1 << 30
FIRST_USER = 4 << 30
LATENCY_SECONDS = 0.08
TICK_SECONDS = 0.005


class Answers:
    """Discord's REST side: takes messages, counts them."""

    def __init__(self, latency_seconds: float = LATENCY_SECONDS) -> None:
        self.latency_seconds = latency_seconds
        self.status_came = asyncio.Event()
        """Set whenever the bot posts a status."""
        self.ids = itertools.count(5 << 40)
        self.statuses = 0
        self.cooldowns = 0
        self.others: list[str] = []

    async def send_message(self, channel_id: int, *, params: Any) -> dict[str, Any]:
        payload = params.payload or {}
        embeds = payload.get("embeds") or []
        content = str(payload.get("content") or "")
        if embeds and "GPU Memory Status" in embeds[0]["title"]:
            self.statuses += 1
            self.status_came.set()
        elif "Too fast" in content:
            self.cooldowns += 1
        else:
            self.others.append(content or str(embeds))
        await asyncio.sleep(self.latency_seconds)
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
async def bot_without_discord(
    settings: Settings, probe: MemoryProbe, answers: Answers
) -> AsyncIterator[DanzarBot]:
    """The bot, logged in nowhere, with a server in its cache."""
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


def ask(bot: DanzarBot, text: str, number: int, author: int = FIRST_USER) -> None:
    """Somebody writes ``text``, as the gateway tells it; ``number`` makes the message another."""
    payload = message((6 << 40) + number, author, text, guild_id=str(GUILD))
    payload["member"] = {"roles": [], "joined_at": None, "flags": 0}
    state = bot._connection  # pyright: ignore[reportPrivateUsage]
    state.parse_message_create(payload)  # pyright: ignore[reportArgumentType]


async def ticking(delays: list[float]) -> None:
    """How late the event loop wakes somebody who wanted to sleep for 5 ms, in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        delays.append(max(0.0, loop.time() - due))


def milliseconds(delays: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst of what ``ticking`` saw."""
    microseconds = [int(delay * 1e6) for delay in delays]
    return {
        "p50": percentile(microseconds, 0.5) / 1000,
        "p99": percentile(microseconds, 0.99) / 1000,
        "worst": max(microseconds) / 1000,
    }
