"""A server on simcord: an owner, a guest, and the bot in it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import discord
import simcord

from bot.client import DanzarBot
from bot.settings import Settings
from tests.bot.doubles import ScriptedVision, scripted_context
from tests.gpu_memory.rig import ScriptedProbe


@dataclass
class World:
    """A server with an owner and a guest, and the bot in it."""

    env: simcord.Env
    bot: DanzarBot
    channel: simcord.ChannelHandle
    owner: simcord.MemberActor
    guest: simcord.MemberActor
    guild: simcord.GuildHandle


@asynccontextmanager
async def world(
    probe: ScriptedProbe | None = None,
    vision: ScriptedVision | None = None,
    settings: Settings | None = None,
    *,
    demo: bool = False,
) -> AsyncIterator[World]:
    async with scripted_context(
        probe=probe, vision=vision, settings=settings, demo=demo
    ) as context:
        bot = DanzarBot(context)
        # Errors are the bot's to answer here, so they fail no test by themselves.
        async with simcord.run(bot, check_errors=False) as env:
            user = env.create_user("owner")
            guild = env.create_guild("Home", owner=user)
            channel = guild.create_text_channel("general")
            owner = guild.add_member(user)
            guest = guild.add_member(env.create_user("guest"))
            await bot.tree.sync()
            yield World(env, bot, channel, owner, guest, guild)


def last(world: World) -> discord.Message:
    message = world.channel.last_message
    assert message is not None
    return message


def in_world(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Give a test its ``w``, on the cards of the fixture ``probe``.

    No fixture: simcord's clock belongs to the task in which it was started.
    """
    parameters = inspect.signature(test).parameters
    wanted = [p for name, p in parameters.items() if name not in ("w", "probe")]
    probe_parameter = inspect.Parameter("probe", inspect.Parameter.POSITIONAL_OR_KEYWORD)

    @functools.wraps(test)
    async def run(probe: ScriptedProbe, **fixtures: Any) -> None:
        if "probe" in parameters:
            fixtures["probe"] = probe
        async with world(probe) as w:
            await test(w=w, **fixtures)

    signature = inspect.Signature([probe_parameter, *wanted])
    run.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return run
