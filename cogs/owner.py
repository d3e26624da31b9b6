"""What only the bot's owner may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from discord.ext import commands

from cogs import texts

if TYPE_CHECKING:
    from bot.client import DanzarBot


class Owner(commands.Cog, command_attrs={"hidden": True}):
    """Upkeep."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot

    @commands.command(name="sync", brief="Publish the slash commands")
    @commands.is_owner()
    @commands.cooldown(2, 60)
    async def sync(
        self, ctx: commands.Context[DanzarBot], where: Literal["everywhere", "here"] = "everywhere"
    ) -> None:
        """Publishes the slash commands: everywhere, or at once and only here.

        Discord limits how often this may happen, so it is never done at a start.
        Example: `{prefix}sync here`
        """
        if where == "here" and ctx.guild is not None:
            self.bot.tree.copy_global_to(guild=ctx.guild)
            published = await self.bot.tree.sync(guild=ctx.guild)
            place = texts.SYNCED_HERE
        else:
            published = await self.bot.tree.sync()
            place = texts.SYNCED_EVERYWHERE
        await ctx.send(texts.SYNCED.format(count=len(published), place=place))


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(Owner(bot))
