"""One message in chat for each episode of a watch, edited as it goes on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import aiohttp
import discord
from discord.ext import commands

from bot.vision.watches import Watch
from cogs.host import prefix_of
from cogs.vision_embeds import sighting_embed

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """How much of a watch's news Discord shows."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
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
                message_id = await self._edited(watch) or await self._posted(watch)
            except (discord.HTTPException, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("could not tell that %r: %s", watch.what, error)
                return
            told.version = version
            if watch.episode == episode:
                watch.message_id = message_id

    async def _edited(self, watch: Watch) -> int | None:
        """The message's id; ``None`` where there is no message to edit."""
        if watch.message_id is None:
            return None
        message = self._channel(watch).get_partial_message(watch.message_id)
        try:
            await message.edit(embed=self._embed(watch))
        except discord.NotFound:
            return None
        return message.id

    async def _posted(self, watch: Watch) -> int:
        message = await self._channel(watch).send(
            embed=self._embed(watch), allowed_mentions=discord.AllowedMentions.none()
        )
        return message.id

    def _channel(self, watch: Watch) -> discord.PartialMessageable:
        return self._bot.get_partial_messageable(watch.channel_id, guild_id=watch.guild_id)

    def _embed(self, watch: Watch) -> discord.Embed:
        return sighting_embed(watch, prefix_of(self._bot))

    def forget(self, watch: Watch) -> None:
        self._told.pop(watch.number, None)
