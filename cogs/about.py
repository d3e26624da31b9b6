"""``!about`` and ``!help``: what this program is, and how to use it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import discord
from discord.ext import commands

from bot.identity import LICENCE, source_url, version
from cogs import texts
from cogs.embeds import FIELD_CHARACTERS, NEUTRAL, plain, shortened
from cogs.usage import explained, usage
from danzar_gpu.report import age_text

if TYPE_CHECKING:
    from bot.client import DanzarBot


class About(commands.Cog):
    """The program itself."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot
        self._help_before = bot.help_command
        bot.help_command = Help()
        bot.help_command.cog = self

    async def cog_unload(self) -> None:
        self.bot.help_command = self._help_before

    @commands.hybrid_command(name="about", brief="Version, licence and source")
    @commands.cooldown(2, 10, commands.BucketType.user)
    async def about(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the version, the licence and where the source is.

        Example: `{prefix}about`
        """
        context = getattr(self.bot, "app_context", None)
        embed = discord.Embed(
            title=texts.ABOUT_TITLE,
            description=texts.ABOUT,
            colour=NEUTRAL,
            url=source_url(),
        )
        embed.add_field(name=texts.ABOUT_VERSION, value=version())
        embed.add_field(name=texts.ABOUT_LICENCE, value=LICENCE)
        if context is not None:
            up = age_text(time.time() - context.started_at)
            embed.add_field(name=texts.ABOUT_RUNNING, value=up)
        embed.add_field(name=texts.ABOUT_SOURCE, value=source_url(), inline=False)
        await ctx.send(embed=embed)


class Help(commands.HelpCommand):
    """Help as embeds, with examples."""

    def __init__(self) -> None:
        super().__init__(
            command_attrs={
                "help": "Shows what there is, or explains one command.\n\n"
                "Example: `{prefix}help gpu status`",
                "brief": "This list",
                "cooldown": commands.CooldownMapping.from_cooldown(3, 6, commands.BucketType.user),
            }
        )

    @property
    def prefix(self) -> str:
        return self.context.clean_prefix

    def line(self, command: commands.Command[Any, ..., Any]) -> str:
        return texts.HELP_LINE.format(
            command=usage(command, self.prefix),
            brief=command.brief or "",
            lock=texts.HELP_LOCK if command.checks else "",
        ).rstrip()

    def lines(self, command: commands.Command[Any, ..., Any]) -> list[str]:
        """A command, or the commands of a group; of a group in it no more than the names."""
        if not isinstance(command, commands.Group):
            return [self.line(command)]
        lines: list[str] = []
        for subcommand in members_of(command):
            line = self.line(subcommand)
            if isinstance(subcommand, commands.Group):
                names = ", ".join(f"`{c.name}`" for c in members_of(subcommand))
                line = texts.HELP_GROUP.format(line=line, names=names)
            lines.append(line)
        return lines

    async def send_bot_help(
        self, mapping: Mapping[commands.Cog | None, list[commands.Command[Any, ..., Any]]], /
    ) -> None:
        embed = discord.Embed(title=texts.HELP_TITLE, colour=NEUTRAL)
        for cog, members in mapping.items():
            shown = await self.filter_commands(members, sort=True)
            lines = [line for command in shown for line in self.lines(command)]
            if lines and cog is not None:
                add_lines(embed, cog.qualified_name, lines)
        embed.set_footer(text=texts.HELP_FOOTER.format(prefix=self.prefix))
        await self.get_destination().send(embed=embed)

    async def send_cog_help(self, cog: commands.Cog, /) -> None:
        shown = await self.filter_commands(cog.get_commands(), sort=True)
        lines = [line for command in shown for line in self.lines(command)]
        await self._send(cog.qualified_name, cog.description, lines)

    async def send_group_help(self, group: commands.Group[Any, ..., Any], /) -> None:
        await self._send(
            f"{self.prefix}{group.qualified_name}",
            explained(group, self.prefix),
            self.lines(group),
        )

    async def send_command_help(self, command: commands.Command[Any, ..., Any], /) -> None:
        await self._send(usage(command, self.prefix), explained(command, self.prefix), [])

    async def _send(self, title: str, text: str, lines: list[str]) -> None:
        embed = discord.Embed(
            title=shortened(title, 256), description=shortened(text, 2000), colour=NEUTRAL
        )
        if lines:
            add_lines(embed, texts.HELP_COMMANDS, lines)
        await self.get_destination().send(embed=embed)

    def command_not_found(self, string: str, /) -> str:
        word = plain(shortened(string, 40))
        return texts.HELP_UNKNOWN.format(word=word, prefix=self.prefix)

    def subcommand_not_found(self, command: commands.Command[Any, ..., Any], string: str, /) -> str:
        known = ", ".join(line.split("`")[1] for line in self.lines(command))
        return texts.HELP_NO_SUB.format(word=plain(shortened(string, 40)), known=known)


def members_of(group: commands.Group[Any, ..., Any]) -> list[commands.Command[Any, ..., Any]]:
    """A group's commands that are no secret, by name."""
    return sorted((c for c in group.commands if not c.hidden), key=lambda c: c.name)


def add_lines(embed: discord.Embed, name: str, lines: list[str]) -> None:
    """Lines as one field or, where one is too short for them, as several."""
    rest = list(lines)
    more = texts.HELP_MORE.format(name=name)
    while rest:
        taken: list[str] = []
        while rest and sum(map(len, taken)) + len(taken) + len(rest[0]) <= FIELD_CHARACTERS:
            taken.append(rest.pop(0))
        if not taken:
            taken = [shortened(rest.pop(0), FIELD_CHARACTERS)]
        embed.add_field(name=name, value="\n".join(taken), inline=False)
        name = more


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(About(bot))
