"""A local chat page around the real bot, on simcord: no Discord, no token.

simcord was made for tests, where time stands still and one operation runs at a time. Here it
serves people, which takes some seams that are not its public interface (``SEAMS``; the version
is pinned exactly, and a test checks that they are there):

- the backend's clock: ours is the wall clock, so messages carry the right time, cooldowns and
  button timeouts run by themselves, and ``time.monotonic`` means the same inside and outside of
  commands;
- ``Env._record_error``: a person's mistake is answered by the bot and is no failed test;
- ``Preview._action``: a ticker fires due timers and publishes new messages, which must not
  overlap with what someone does in the page: both take one lock, and an action gets the page's
  newest revision, since the ticker may have published one meanwhile;
- ``Preview._get_page`` and ``Preview._pages``, to know that revision, and to bring the newest
  message into view: a picture that loads late would leave it below the edge.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

# Bound here, before simcord replaces time.monotonic: this one stays the real one.
from time import localtime, monotonic
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import simcord
from discord.ext import commands
from simcord._clock import Clock
from simcord.preview import Preview

if TYPE_CHECKING:
    from bot.client import DanzarBot

log = logging.getLogger(__name__)

SEAMS: tuple[tuple[type, str], ...] = (
    (Clock, "advance"),
    (Clock, "now"),
    (simcord.Env, "_record_error"),
    (Preview, "_action"),
    (Preview, "_get_page"),
)

EPHEMERAL = 1 << 6
TICK_SECONDS = 0.4
CLOSE_SECONDS = 10.0
SETTLE_SECONDS = 20.0
KEPT_EVENTS = 500
MESSAGE_EVENTS = frozenset(
    {"MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE", "MESSAGE_REACTION_ADD"}
)


class WallClock(Clock):
    """simcord's clock, running with the real one; ``elapsed`` equals ``time.monotonic()``."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._epoch = datetime.now(UTC) - timedelta(seconds=monotonic())

    @property
    def elapsed(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        # simcord steps to a timer that is due within microseconds; the step is kept.
        self._ahead += seconds


class LiveEnv(simcord.Env):
    """An environment for people: runs on the wall clock, and errors are the bot's to answer."""

    def __init__(self, bot: DanzarBot) -> None:
        super().__init__(bot, check_errors=False, settle_timeout=SETTLE_SECONDS)
        self.backend.clock = WallClock()

    def _record_error(self, error: BaseException) -> None:
        if not isinstance(error, commands.CommandError):
            log.debug("in the chat page: %r", error, exc_info=error)


class PageUnavailable(Exception):
    """The page can't be served: its port is taken, or simcord's own files are damaged."""


class ChatPage:
    """The channel, its people, and the page's address. Made by ``open_chat_page``."""

    def __init__(
        self,
        env: LiveEnv,
        channel: simcord.ChannelHandle,
        person: simcord.MemberActor,
        preview: Preview,
        on_message: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self._env = env
        self._channel = channel
        self._person = person
        self._preview = preview
        self._on_message = on_message
        self._lock = asyncio.Lock()
        self._changed = False
        self._last_request: object = None
        self._original_action = preview._action  # pyright: ignore[reportPrivateUsage]
        preview._action = self._action  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        env.backend.subscribers.append(self._noticed)

    @property
    def url(self) -> str:
        """The page's address. Whoever has it can act in the page."""
        return self._preview.url

    @property
    def channel_id(self) -> int:
        return self._channel.id

    async def send(self, text: str) -> None:
        """Send ``text`` as the page's person; returns when the bot has answered."""
        async with self._lock:
            try:
                await self._person.send(self._channel, text[:2000])
            except TimeoutError:
                log.warning("the bot is still busy with %r", text[:80])

    async def tick(self) -> None:
        """Fire due timers and show what is new."""
        async with self._lock:
            try:
                await self._env.settle()
                self._notice_private_edits()
                if self._changed:
                    self._changed = False
                    await self._preview.refresh()
            except TimeoutError as error:
                log.warning("the chat page: %s", error)
            del self._env.backend.transcript[:-KEPT_EVENTS]
            del self._env.backend.http_requests[:-KEPT_EVENTS]

    def _notice_private_edits(self) -> None:
        """Edits of what only one person may see come without an event."""
        requests = self._env.backend.http_requests
        for request in reversed(requests):
            if request is self._last_request:
                break
            self._changed |= request.method == "PATCH" and "/webhooks/" in request.path
        self._last_request = requests[-1] if requests else None

    async def keep_live(self) -> None:
        """Tick until the page is closed: by its own menu, or by us."""
        closed = asyncio.ensure_future(self._preview.wait_closed())
        try:
            while not closed.done():
                try:
                    await self.tick()
                except simcord.SetupError:
                    # The page may have been ended in the middle of a tick; all else is a defect.
                    await asyncio.wait({closed}, timeout=CLOSE_SECONDS)
                    if not closed.done():
                        raise
                await asyncio.wait({closed}, timeout=TICK_SECONDS)
        finally:
            closed.cancel()

    async def _action(self, context_id: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._lock:
            page = self._preview._get_page(context_id)  # pyright: ignore[reportPrivateUsage]
            # A repeated request must stay as it was, or it isn't known for a repetition.
            if "published_revision" in body and body.get("sequence") == page.last_sequence + 1:
                body = {**body, "published_revision": page.revision}
            return await self._original_action(context_id, body)

    def _noticed(self, event: str, payload: Mapping[str, Any]) -> None:
        if event in MESSAGE_EVENTS:
            self._changed = True
        if event != "MESSAGE_CREATE":
            return
        if not int(payload.get("flags") or 0) & EPHEMERAL:
            for page in self._preview._pages.values():  # pyright: ignore[reportPrivateUsage]
                page.target_id = int(payload["id"])
        if self._on_message is not None:
            self._on_message(payload)


def local_zone() -> str:
    """The name of this machine's time zone; ``UTC`` where it can't be told."""
    link = Path("/etc/localtime")
    names = [os.environ.get("TZ", "").lstrip(":")]
    if link.is_symlink():
        names.append(os.path.realpath(link).partition("zoneinfo/")[2])
    for name in names:
        if name:
            with suppress(ZoneInfoNotFoundError, ValueError, OSError):
                return ZoneInfo(name).key
    return zone_of(localtime().tm_gmtoff)


def zone_of(seconds: int) -> str:
    """The zone that always is so far ahead of UTC: Windows has names of its own for all others."""
    hours, rest = divmod(-seconds, 3600)  # these names count westwards
    return f"Etc/GMT{hours:+d}" if hours and not rest else "UTC"


@asynccontextmanager
async def open_chat_page(
    bot: DanzarBot,
    *,
    port: int = 0,
    on_message: Callable[[Mapping[str, Any]], None] | None = None,
) -> AsyncIterator[ChatPage]:
    """Attach ``bot`` to a channel with two people in it, and serve the page on this machine.

    The first person owns the server and the bot and may do everything; the guest may not control.
    ``on_message`` is called with every message's payload. Raises ``PageUnavailable``.
    """
    env = LiveEnv(bot)
    env.backend.bot_user.name = "Danzar"
    await env.start()
    try:
        owner = env.create_user("you", global_name="You")
        guild = env.create_guild("Danzar", owner=owner)
        channel = guild.create_text_channel("game-night", topic="Danzar on this machine")
        person = guild.add_member(owner)
        bot.owner_id = owner.id  # whoever sits at this machine runs the bot
        guest = guild.add_member(env.create_user("guest", global_name="Guest"))
        await bot.tree.sync()
        preview = env.preview(
            channel,
            viewers=[person, guest],
            layout="channel",
            timezone=local_zone(),
            port=port,
        )
        try:
            await preview.__aenter__()
        except simcord.SetupError as error:
            raise PageUnavailable(str(error)) from error
        try:
            yield ChatPage(env, channel, person, preview, on_message)
        finally:
            await preview.close()
    finally:
        await env.shutdown()
        await bot.close()
