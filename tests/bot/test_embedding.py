"""The cogs in somebody else's bot: docs/embedding.md as it stands, and what it leaves out."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import pytest
import simcord
from discord.ext import commands

from danzar_gpu import GPUMemoryConfig, GPUMemoryManager
from tests.gpu_memory.rig import ScriptedProbe, guide_rig

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
INTENTS = discord.Intents(guilds=True, messages=True, message_content=True)


def block() -> str:
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None
    return found.group(1)


@asynccontextmanager
async def served(bot: commands.Bot) -> AsyncIterator[tuple[simcord.Env, Any, Any]]:
    async with simcord.run(bot, check_errors=False) as env:
        user = env.create_user("owner")
        guild = env.create_guild("Elsewhere", owner=user)
        channel = guild.create_text_channel("general")
        await bot.tree.sync()
        yield env, channel, guild.add_member(user)


async def test_the_pages_program_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ScriptedProbe(*guide_rig())
    monkeypatch.setattr("danzar_gpu.open_probe", lambda: probe)
    start = GPUMemoryManager.start

    async def start_apart(self: GPUMemoryManager) -> None:
        # simcord waits for everything that a bot starts, and a poller never ends.
        await contextvars.Context().run(asyncio.ensure_future, start(self))

    monkeypatch.setattr(GPUMemoryManager, "start", start_apart)
    program: dict[str, Any] = {"__name__": "their_bot"}
    exec(compile(block(), str(PAGE), "exec"), program)
    bot = program["my_bot"]
    async with served(bot) as (_, channel, owner):
        await owner.send(channel, "!gpu status")
        assert channel.last_message.embeds[0].title == "🎯 GPU Memory Status:"
        assert "📊 Free: 4.9GB" in str(channel.last_message.embeds[0].fields[0].value)
        await owner.slash(channel, "gpu vision")
        assert "Device: cuda:1" in str(channel.last_message.embeds[0].description)
        assert bot.gpu_memory_manager.monitoring_enabled
        await owner.slash(channel, "gpu monitor")
        assert not bot.gpu_memory_manager.monitoring_enabled
        names = set(owner.available_commands(channel))
    assert {"gpu status", "gpu vision", "gpu monitor", "gpu log"} <= names
    assert not any(name.startswith("vision") for name in names)


async def test_a_stranger_may_not_control_in_their_bot_either() -> None:
    manager = GPUMemoryManager(GPUMemoryConfig(), ScriptedProbe(*guide_rig()))
    await manager.start()
    bot = commands.Bot("?", intents=INTENTS)
    bot.gpu_memory_manager = manager  # pyright: ignore[reportAttributeAccessIssue]
    await bot.load_extension("cogs.errors")
    await bot.load_extension("cogs.gpu")
    try:
        async with served(bot) as (env, channel, _):
            guest = channel.guild.add_member(env.create_user("guest"))
            await guest.send(channel, "?gpu monitor")
            assert "Manage Server" in channel.last_message.content
            assert manager.monitoring_enabled
            choices = await guest.autocomplete(channel, "gpu history", "card", "super")
            assert [choice["value"] for choice in choices] == ["cuda:1"]
    finally:
        await manager.close()


@pytest.mark.parametrize("extension", ["cogs.gpu", "cogs.vision"])
async def test_without_what_it_needs_a_cog_says_what_is_missing(extension: str) -> None:
    bot = commands.Bot("!", intents=INTENTS)
    with pytest.raises(commands.ExtensionFailed, match=r"bot\.gpu_memory_manager"):
        await bot.load_extension(extension)
    assert not bot.cogs


async def test_vision_needs_a_pipeline() -> None:
    bot = commands.Bot("!", intents=INTENTS)
    manager = GPUMemoryManager(GPUMemoryConfig(), ScriptedProbe(*guide_rig()))
    bot.gpu_memory_manager = manager  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(commands.ExtensionFailed, match=r"bot\.vision_pipeline"):
        await bot.load_extension("cogs.vision")
    await manager.close()
