"""One place where every failed command ends, typed or slash.

The order in which an error is looked at (the first that fits answers):

1.  It was dealt with already (the command or its cog has a handler of its own): nothing more.
2.  Unknown command: silence, for another bot may own it; a close miss gets a suggestion.
3.  Unknown subcommand (``!gpu nonsense``): what exists, and what was probably meant.
4.  Cooldown: how long to wait.
5.  Not allowed: which permission is missing, or where the command works.
6.  Bad input: what is missing or wrong, and the help to look at.
7.  What Danzar itself reports in words (no frame, no reading, no room): those words.
8.  Discord refused our answer: a log line, and a try to say so.
9.  Anything else is a defect: an apology with a reference in chat, the traceback under the
    same reference in the log.

People's mistakes (2 to 7) are logged at debug.
"""

from __future__ import annotations

import difflib
import logging
import secrets
from typing import TYPE_CHECKING, Any

import aiohttp
import discord
from discord import app_commands
from discord.ext import commands

from bot.vision.pipeline import VisionUnavailable
from cogs import texts
from cogs.access import MayNotControl
from cogs.embeds import plain, sentence, shortened
from cogs.host import prefix_of
from cogs.usage import Misuse, example, usage
from danzar_gpu import AdmissionRefused
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from bot.client import DanzarBot

log = logging.getLogger(__name__)

SILENT = ""
"""An error that is not answered."""

UNDELIVERED = (discord.HTTPException, aiohttp.ClientError, OSError, TimeoutError)
"""What a post to Discord may end with: refused, or the connection was cut."""

IN_OUR_WORDS = (VisionUnavailable, ProbeError, AdmissionRefused)
"""Failures whose message was written for people."""


class ErrorAnswers(commands.Cog, name="Errors", command_attrs={"hidden": True}):
    """Turns errors into answers."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot
        self._tree_handler = bot.tree.on_error

    async def cog_load(self) -> None:
        self.bot.tree.on_error = self.on_slash_error  # pyright: ignore[reportAttributeAccessIssue]

    async def cog_unload(self) -> None:
        self.bot.tree.on_error = self._tree_handler

    @commands.Cog.listener()
    async def on_command_error(
        self, ctx: commands.Context[DanzarBot], error: commands.CommandError
    ) -> None:
        """Hybrid commands come here for both of their forms."""
        if ctx.command is not None and ctx.command.has_error_handler():
            return
        text = answer(unwrapped(error), ctx) or self._unexpected_if_defect(error, ctx)
        if text:
            await say(ctx, text)

    async def on_slash_error(
        self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError
    ) -> None:
        """What fails before a hybrid command's own error handling, or without a command."""
        cause = unwrapped(error)
        if isinstance(cause, app_commands.CommandNotFound | app_commands.CommandSignatureMismatch):
            text = texts.OLD_COMMANDS.format(prefix=prefix_of(self.bot))
        elif isinstance(cause, app_commands.CheckFailure | MayNotControl):
            text = str(cause) or texts.MAY_NOT_USE
        elif isinstance(cause, IN_OUR_WORDS):
            text = in_our_words(cause, prefix_of(self.bot))
        else:
            text = report_defect(error, f"slash command {interaction.command!r}")
        try:
            if interaction.response.is_done():
                await interaction.followup.send(text, ephemeral=True)
            else:
                await interaction.response.send_message(text, ephemeral=True)
        except UNDELIVERED as refused:
            log.warning("could not answer a failed slash command: %s", refused)

    def _unexpected_if_defect(
        self, error: commands.CommandError, ctx: commands.Context[DanzarBot]
    ) -> str:
        if isinstance(error, commands.CommandNotFound):
            return SILENT
        command = ctx.command.qualified_name if ctx.command else ctx.invoked_with
        return report_defect(error, f"command {command!r}")


def unwrapped(error: BaseException) -> BaseException:
    """What really happened inside discord.py's wrappers."""
    wrappers = (
        commands.CommandInvokeError,
        commands.HybridCommandError,
        commands.ConversionError,
        app_commands.CommandInvokeError,
    )
    while isinstance(error, wrappers):
        error = error.original
    return error


def answer(error: BaseException, ctx: commands.Context[DanzarBot]) -> str:
    """What to say to a person; empty when this is not a person's mistake (or not ours)."""
    for explain in (
        _unknown_command,
        _unknown_subcommand,
        _cooldown,
        _not_allowed,
        _bad_input,
        _known,
    ):
        text = explain(error, ctx)
        if text is not None:
            log.debug("%s: %s: %s", ctx.invoked_with, type(error).__name__, error)
            return text
    return SILENT


def _unknown_command(error: BaseException, ctx: commands.Context[DanzarBot]) -> str | None:
    if not isinstance(error, commands.CommandNotFound):
        return None
    names = [name for name, command in ctx.bot.all_commands.items() if not command.hidden]
    close = difflib.get_close_matches((ctx.invoked_with or "").lower(), names, 1, cutoff=0.75)
    if not close:
        return SILENT
    return texts.DID_YOU_MEAN.format(command=f"{ctx.clean_prefix}{close[0]}")


def _unknown_subcommand(error: BaseException, ctx: commands.Context[DanzarBot]) -> str | None:
    group = ctx.command
    if not isinstance(error, commands.TooManyArguments) or not isinstance(group, commands.Group):
        return None
    typed = ctx.message.content.partition(ctx.invoked_with or "")[2].split()
    word = typed[0] if typed else ""
    known = sorted(command.name for command in group.commands if not command.hidden)
    prefix = f"{ctx.clean_prefix}{group.qualified_name}"
    close = difflib.get_close_matches(word.lower(), known, 1, cutoff=0.5)
    shown = plain(shortened(word, 40)).replace("`", "")
    lines = [texts.NOT_HERE.format(word=shown)]
    if close:
        lines.append(texts.DID_YOU_MEAN.format(command=f"{prefix} {close[0]}"))
    names = ", ".join(f"`{prefix} {name}`" for name in known)
    lines.append(texts.THERE_ARE.format(names=names))
    return "\n".join(lines)


def _cooldown(error: BaseException, _ctx: commands.Context[DanzarBot]) -> str | None:
    if isinstance(error, commands.CommandOnCooldown | app_commands.CommandOnCooldown):
        return texts.TOO_FAST.format(seconds=max(0.1, error.retry_after))
    if isinstance(error, commands.MaxConcurrencyReached):
        return texts.RUNS_ALREADY
    return None


def _not_allowed(error: BaseException, ctx: commands.Context[DanzarBot]) -> str | None:
    if isinstance(error, commands.NotOwner):
        return texts.OWNER_ONLY
    if isinstance(error, commands.NoPrivateMessage):
        return texts.SERVER_ONLY
    if isinstance(error, commands.CheckFailure | app_commands.CheckFailure):
        return texts.LOCKED.format(reason=error) if str(error) else texts.NOT_ALLOWED
    if isinstance(error, commands.DisabledCommand):
        return texts.SWITCHED_OFF.format(prefix=ctx.clean_prefix)
    return None


def _bad_input(error: BaseException, ctx: commands.Context[DanzarBot]) -> str | None:
    if not isinstance(error, commands.UserInputError):
        return None
    name = ctx.command.qualified_name if ctx.command else ""
    if isinstance(error, Misuse):
        what = sentence(shortened(str(error), 500), ctx.clean_prefix)
    else:
        what = _unparsed(error, ctx)
    return texts.SEE_HELP.format(what=what, prefix=ctx.clean_prefix, command=name)


def _unparsed(error: commands.UserInputError, ctx: commands.Context[DanzarBot]) -> str:
    """What discord.py could not make sense of, in words for people instead of its own."""
    word = plain(shortened(ctx.current_argument or "", 40))
    if isinstance(error, commands.ArgumentParsingError):
        return texts.QUOTES
    if isinstance(error, commands.BadLiteralArgument):
        return texts.NOT_ONE_OF.format(word=word, choices=", ".join(map(str, error.literals)))
    if isinstance(error, commands.TooManyArguments):
        rest = ctx.view.buffer[ctx.view.index :].strip()
        wrong = texts.NOT_UNDERSTOOD.format(word=plain(shortened(rest, 40)))
    elif isinstance(error, commands.MissingRequiredArgument):
        wrong = texts.MISSING.format(name=error.param.name)
    else:
        wrong = texts.NOT_UNDERSTOOD.format(word=word)
    if ctx.command is None:
        return wrong
    written = usage(ctx.command, ctx.clean_prefix)
    sample = example(ctx.command, ctx.clean_prefix)
    return texts.WRITE.format(wrong=wrong, usage=written, example=sample)


def _known(error: BaseException, ctx: commands.Context[DanzarBot]) -> str | None:
    if isinstance(error, IN_OUR_WORDS):
        return in_our_words(error, ctx.clean_prefix)
    if isinstance(error, discord.Forbidden):
        log.warning("Discord did not allow an answer: %s", error)
        return texts.NO_POSTING
    if isinstance(error, UNDELIVERED):
        log.warning("an answer to %r was not delivered: %s", ctx.invoked_with, error)
        return texts.NOT_TAKEN
    return None


def in_our_words(error: BaseException, prefix: str) -> str:
    """A failure of ours as a chat line."""
    return texts.OUR_WORDS.format(reason=sentence(shortened(str(error), 1500), prefix))


def report_defect(error: BaseException, where: str) -> str:
    """Log the traceback under a fresh reference; the apology that names it."""
    reference = secrets.token_hex(3)
    log.error("unexpected error %s in %s", reference, where, exc_info=error)
    return texts.DEFECT.format(reference=reference)


async def say(ctx: commands.Context[DanzarBot], text: str) -> None:
    """Answer; to a slash command only the asker sees it."""
    try:
        await ctx.send(shortened(text, 2000), ephemeral=ctx.interaction is not None)
    except UNDELIVERED as error:
        log.warning("could not answer in channel %s (%s): %s", ctx.channel.id, ctx.channel, error)


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(ErrorAnswers(bot))
