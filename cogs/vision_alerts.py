"""A watch's message: one for each episode, edited as things develop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import discord
from discord.ext import commands

from bot.vision.watches import Watch
from cogs.vision_embeds import alert_embed

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """What Discord shows of a watch."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    message: discord.Message | discord.PartialMessage | None = None
    episode: int = 0
    version: int = 0


class WatchAlerts:
    """Shows watches in their channels. A failure is logged; the next news tries again."""

    def __init__(self, bot: commands.Bot) -> None:
        self._bot = bot
        self._told: dict[int, _Told] = {}

    async def show(self, watch: Watch) -> None:
        """Bring a watch's message up to date: post it, edit it, or post it again if it is gone."""
        told = self._told.setdefault(watch.number, _Told())
        async with told.lock:
            # Several pieces of news may have come meanwhile: the newest state is shown, once.
            if told.version == watch.version:
                return
            version, episode = watch.version, watch.episode
            try:
                if told.message is not None and told.episode == episode:
                    try:
                        await told.message.edit(embed=alert_embed(watch))
                    except discord.NotFound:
                        told.message = await self._post(watch)
                else:
                    told.message = await self._post(watch)
            except discord.HTTPException as error:
                log.warning("could not tell that %r: %s", watch.what, error)
                return
            told.version, told.episode = version, episode

    async def _post(self, watch: Watch) -> discord.Message:
        channel = self._bot.get_partial_messageable(watch.channel_id, guild_id=watch.guild_id)
        return await channel.send(
            embed=alert_embed(watch), allowed_mentions=discord.AllowedMentions.none()
        )

    def forget(self, watch: Watch) -> None:
        self._told.pop(watch.number, None)
