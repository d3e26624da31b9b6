"""The Discord client: Danzar as a ``commands.Bot`` around one ``AppContext``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from itertools import chain, repeat
from typing import Any

import aiohttp
import discord
from discord.ext import commands

from bot.cli.exits import Exit
from bot.context import AppContext

log = logging.getLogger(__name__)

# Danzar has nothing to do with voice: no advice to install what it would take.
discord.VoiceClient.warn_nacl = False
discord.VoiceClient.warn_dave = False

EXTENSIONS = ("cogs.errors", "cogs.gpu", "cogs.vision", "cogs.about", "cogs.owner")
REMEMBERED_MESSAGES = 1024
LOGIN_DELAYS = (2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""After a power cut the router comes back later than the machine."""
RESEND_SECONDS = 1.0
GOODBYE_SECONDS = 2.0
TOKEN_REVOKED = 4004
"""The gateway's close code for a token that was valid at the start and is not any more."""

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


class Reply(commands.Context["DanzarBot"]):
    """Answers that arrive once: each carries a mark by which Discord knows it for a repetition.

    discord.py repeats a post that was answered with an error of the server, and a connection may
    be cut after the post arrived: without the mark there would be two answers.
    """

    async def send(self, content: str | None = None, **options: Any) -> discord.Message:
        if self.interaction is not None:
            return await super().send(content, **options)
        options["nonce"] = options.get("nonce") or secrets.randbits(63)
        try:
            return await super().send(content, **options)
        except (aiohttp.ClientError, OSError) as error:
            # Files were read to their end: they can't be sent again.
            if options.get("file") or options.get("files"):
                raise
            log.info("an answer was cut off (%s); it is sent again", error)
        await asyncio.sleep(RESEND_SECONDS)
        return await super().send(content, **options)


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
        self._said_goodbye = False
        self._ended = asyncio.Event()
        self._seen: OrderedDict[int, None] = OrderedDict()

    async def start(self, token: str, *, reconnect: bool = True) -> None:
        """Log in and stay connected until closed. A network that is not there yet is waited for.

        Raises ``LoginFailure``, ``PrivilegedIntentsRequired`` and the like: final refusals.
        """
        for delay in chain(LOGIN_DELAYS, repeat(LOGIN_DELAYS[-1])):
            try:
                await self.login(token)
                break
            except (aiohttp.ClientError, OSError, TimeoutError, discord.HTTPException) as error:
                if isinstance(error, discord.HTTPException) and 400 <= error.status < 429:
                    raise
                log.warning("Discord can't be reached: %s; the next try is in %g s", error, delay)
                await self.http.close()
                self.http.clear()
                self.http.connector = discord.utils.MISSING  # the session closed it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), delay)
                return
        await self.connect(reconnect=reconnect)

    async def close(self) -> None:
        self._ended.set()
        if not self._said_goodbye and self.online:
            self._said_goodbye = True
            await self._say_goodbye()
        await super().close()

    async def _say_goodbye(self) -> None:
        """Let each cog that has something standing in chat say that it ends."""
        farewells = [
            farewell()
            for cog in self.cogs.values()
            if (farewell := getattr(cog, "farewell", None)) is not None
        ]
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                for outcome in await asyncio.gather(*farewells, return_exceptions=True):
                    if isinstance(outcome, Exception):
                        log.warning("saying goodbye failed: %s", outcome)
        except TimeoutError:
            log.warning("there was no time to say goodbye everywhere")

    async def get_context(self, origin: Any, /, *, cls: Any = None) -> Any:
        return await super().get_context(origin, cls=cls or Reply)

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
        await asyncio.wait_for(session, timeout=2)
    except discord.LoginFailure:
        log.error(BAD_TOKEN)
        return Exit.TOKEN
    except discord.ConnectionClosed as error:
        if error.code == TOKEN_REVOKED:
            log.error(BAD_TOKEN)
            return Exit.TOKEN
        if not stop.is_set():
            log.error("Discord closed the session for good: %s", error)
            return Exit.FAILED
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
