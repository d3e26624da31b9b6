"""``!gpu reload``: what a configuration that was read again changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import discord

from cogs import texts
from cogs.embeds import CALM, TIGHT, fitted, plain
from danzar_gpu.report import bullets

if TYPE_CHECKING:
    from bot.reload import Reloaded


def reloaded_embed(done: Reloaded) -> discord.Embed:
    """What is in use now, what was started again for it, and what waits for a restart."""
    embed = discord.Embed(title=texts.RELOADED_TITLE, colour=TIGHT if done.needs_restart else CALM)
    for name, found in (
        (texts.RELOADED_CHANGED, done.changed),
        (texts.RELOADED_AGAIN, done.started_again),
        (texts.RELOADED_WAITING, done.needs_restart),
    ):
        if found:
            embed.add_field(name=name, value=fitted(bullets(map(plain, found))), inline=False)
    if not embed.fields:
        embed.description = texts.RELOADED_NOTHING
    return embed
