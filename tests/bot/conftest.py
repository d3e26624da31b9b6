"""A bot behind dpytest (text commands) or simcord (everything else)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import discord
import discord.ext.test as dpytest
import pytest

from bot.client import DanzarBot
from tests.bot.doubles import ScriptedVision, scripted_context
from tests.gpu_memory.rig import ScriptedProbe, guide_rig


@pytest.fixture
def probe() -> ScriptedProbe:
    """The guide's two cards; a test may change them or make them fail."""
    return ScriptedProbe(*guide_rig())


@pytest.fixture
def vision() -> ScriptedVision:
    return ScriptedVision()


@pytest.fixture
async def text_bot(
    probe: ScriptedProbe,
    vision: ScriptedVision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[DanzarBot]:
    """The bot in a server of dpytest's: member 0 may do nothing special."""
    monkeypatch.chdir(tmp_path)  # dpytest writes attachments to the working folder
    async with scripted_context(probe=probe, vision=vision) as context:
        bot = DanzarBot(context)
        # dpytest finds its people in the member cache, which the bot itself can do without.
        state = bot._connection  # pyright: ignore[reportPrivateUsage]
        intents = discord.Intents(guilds=True, messages=True, message_content=True, members=True)
        state._intents = intents  # pyright: ignore[reportPrivateUsage]
        state.member_cache_flags = discord.MemberCacheFlags.from_intents(intents)
        dpytest.configure(bot)
        # dpytest's order for discord.py 2.7: configured first, then the bot's own set-up.
        await bot._async_setup_hook()  # pyright: ignore[reportPrivateUsage]
        bot._ready.set()  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        await bot.setup_hook()
        yield bot
        await dpytest.empty_queue()
        for cog in tuple(bot.cogs):
            await bot.remove_cog(cog)
