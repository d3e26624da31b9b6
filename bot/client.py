"""The Discord client: Danzar as a ``commands.Bot`` around one ``AppContext``."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

import aiohttp
import discord
from discord.ext import commands

from bot.context import AppContext
from bot.exits import Exit

log = logging.getLogger(__name__)

# Danzar has nothing to do with voice: no advice to install what it would take.
discord.VoiceClient.warn_nacl = False
discord.VoiceClient.warn_dave = False

EXTENSIONS = ("cogs.errors", "cogs.gpu", "cogs.vision", "cogs.about", "cogs.owner")
REMEMBERED_MESSAGES = 1024

BAD_TOKEN = """\
Discord does not accept the token.
  1. Open https://discord.com/developers/applications, choose the application, then Bot.
  2. Press "Reset Token" and copy the new one (not the client secret, not the public key).
  3. Set it as DISCORD_TOKEN, or write it to a file that DISCORD_TOKEN_FILE names."""

MISSING_INTENT = """\
Discord does not let the bot read messages: the "Message Content Intent" is off.
  1. Open https://discord.com/developers/applications, choose the application, then Bot.
  2. Under "Privileged Gateway Intents" switch on "Message Content Intent" and save.
  3. Start Danzar again."""


class DanzarBot(commands.Bot):
    """Answers commands from what ``app_context`` holds; opens and closes none of it."""

    def __init__(self, app_context: AppContext) -> None:
        intents = discord.Intents(guilds=True, messages=True, message_content=True)
        super().__init__(
            # Asked for with each message: a reload may have changed it.
            command_prefix=lambda _bot, _message: app_context.settings.discord.prefix,
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            case_insensitive=True,
            strip_after_prefix=True,
        )
        self.app_context = app_context
        app_context.client = self
        self._connected = app_context.demo
        self._seen: OrderedDict[int, None] = OrderedDict()

    async def setup_hook(self) -> None:
        # No tree sync here: Discord limits those, the owner's `sync` command does it.
        for name in EXTENSIONS:
            await self.load_extension(name)

    @property
    def online(self) -> bool:
        """Whether it hears of what happens: connected, and its servers are known."""
        return self._connected and self.is_ready() and not self.is_closed()

    async def on_connect(self) -> None:
        self._connected = True

    async def on_resumed(self) -> None:
        self._connected = True

    async def on_disconnect(self) -> None:
        self._connected = self.app_context.demo

    async def on_ready(self) -> None:
        assert self.user is not None
        if not self.app_context.demo:
            log.info("on Discord as %s in %d servers", self.user, len(self.guilds))

    async def on_message(self, message: discord.Message, /) -> None:
        # Discord may deliver MESSAGE_CREATE twice, after a resumed session for example.
        if message.id in self._seen:
            log.debug("message %d came again and was left alone", message.id)
            return
        self._seen[message.id] = None
        if len(self._seen) > REMEMBERED_MESSAGES:
            self._seen.popitem(last=False)
        await self.process_commands(message)


async def run_on_discord(context: AppContext, token: str, stop: asyncio.Event) -> Exit:
    """Run the bot until ``stop`` is set or Discord refuses it for good."""
    async with DanzarBot(context) as bot:
        session = asyncio.create_task(bot.start(token))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({session, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not session.done():
                await bot.close()
            return await _outcome(session, stop)
        finally:
            stopping.cancel()
            session.cancel()
            await asyncio.gather(session, stopping, return_exceptions=True)


async def _outcome(session: asyncio.Task[None], stop: asyncio.Event) -> Exit:
    try:
        # After close() the session ends by itself; a cut connection must not hold us up.
        await asyncio.wait_for(session, timeout=5)
    except discord.LoginFailure:
        log.error(BAD_TOKEN)
        return Exit.TOKEN
    except discord.PrivilegedIntentsRequired:
        log.error(MISSING_INTENT)
        return Exit.INTENTS
    except TimeoutError:
        log.warning("the session with Discord did not end in time and was dropped")
    except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
        if not stop.is_set():
            log.error("the session with Discord ended: %s", error)
            return Exit.FAILED
    return Exit.OK if stop.is_set() else Exit.FAILED
