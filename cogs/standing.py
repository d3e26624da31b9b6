"""A message of ours that stays: posted once, edited on change, mended when something breaks it.

What can happen to it, and what is done then:

- nothing to change: nothing is sent;
- somebody deleted it (404): it is posted again;
- it is nearly an hour old (Discord refuses many edits of old messages, error 30046): a new one is
  posted and the old one deleted;
- our post was not answered (a lost reply): before another is posted, the channel is searched for
  it, so that there are never two;
- 403, 429, 5xx, a cut connection: the next try waits, longer each time, and the log says why once;
- the channel itself is gone: ``ChannelGone``.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import discord

from cogs import texts

log = logging.getLogger(__name__)

UNKNOWN_CHANNEL = 10003
UNKNOWN_GUILD = 10004
TOO_MANY_EDITS_OF_OLD = 30046
REPOST_AFTER_SECONDS = 55 * 60.0
EDIT_GAP_SECONDS = 9.5
"""Editors run each ten seconds; a timer that fires a little early must not skip a turn."""
FIRST_PAUSE_SECONDS = 9.5
LONGEST_PAUSE_SECONDS = 300.0
TIME_LIMIT_SECONDS = 30.0
SEARCHED_MESSAGES = 30

TRANSIENT = (discord.HTTPException, aiohttp.ClientError, OSError, TimeoutError)


class ChannelGone(Exception):
    """The channel or the server does not exist any more, or not for us."""


@dataclass(slots=True)
class Face:
    """What the message shows."""

    embed: discord.Embed
    view: discord.ui.View | None = None
    content: str | None = None
    """Shown above the embed, and only at the post: an edit would mention nobody anyway."""
    allowed_mentions: discord.AllowedMentions = field(default_factory=discord.AllowedMentions.none)
    worth_posting: bool = True
    """Whether it is posted where there is no message to edit; the end of an alert is not."""

    @property
    def looks(self) -> str:
        """The same for two faces that a person could not tell apart (but for the time)."""
        shown = dict(self.embed.to_dict())
        shown.pop("timestamp", None)
        components = self.view.to_components() if self.view is not None else []
        return json.dumps([shown, components], sort_keys=True, default=str)


class StandingMessage:
    """One such message. ``mark`` is a text in its footer by which it is known among ours."""

    def __init__(
        self,
        client: discord.Client,
        channel_id: int,
        mark: str,
        message_id: int | None = None,
        *,
        repost: bool = True,
    ) -> None:
        self.channel_id = channel_id
        self.message_id = message_id
        self.mark = mark
        self.trouble = ""
        """Why it could not be brought up to date, for people; empty when all is well."""
        self._client = client
        self._repost = repost
        self._looks = ""
        self._edited_at = float("-inf")
        self._not_before = float("-inf")
        self._failures = 0
        # A post that may have succeeded: also when the bot ended before it could note the id.
        self._unanswered = False

    @property
    def channel(self) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(self.channel_id)

    async def keep(self, face: Face) -> bool:
        """Bring the message up to date, if it is due; whether it is up to date now.

        Raises:
            ChannelGone: there is nowhere to post any more.
        """
        now = time.monotonic()
        if now < self._not_before:
            return False
        try:
            async with asyncio.timeout(TIME_LIMIT_SECONDS):
                shown = await self._keep(face, now)
        except TRANSIENT as error:
            self._failed(error, now)
            return False
        if self._failures:
            log.info("%s in channel %d is up to date again", self.mark, self.channel_id)
        self._failures, self.trouble = 0, ""
        return shown

    def noticed(self, embed_looks: str) -> None:
        """It was edited by other means (a button's answer) and shows this now."""
        self._looks = embed_looks
        self._edited_at = time.monotonic()

    def forget(self) -> None:
        """It was deleted: the next ``keep`` posts it again."""
        self.message_id = None
        self._looks = ""

    async def remove(self) -> bool:
        """Delete it; ``False`` when Discord did not let us (the log says why)."""
        if self.message_id is None:
            return True
        try:
            await self.channel.get_partial_message(self.message_id).delete()
        except discord.NotFound:
            pass
        except TRANSIENT as error:
            log.warning("%s in channel %d stays: %s", self.mark, self.channel_id, error)
            return False
        self.message_id = None
        return True

    async def _keep(self, face: Face, now: float) -> bool:
        if self.message_id is None and not face.worth_posting and not self._unanswered:
            return True
        if self.message_id is None or (self._repost and self._is_old(self.message_id)):
            await self._post(face, now)
            return True
        if face.looks == self._looks:
            return True
        if now - self._edited_at < EDIT_GAP_SECONDS:
            return False
        try:
            await self._edit(face, now)
        except discord.NotFound as error:
            _raise_if_gone(error)
            log.info("%s in channel %d was deleted", self.mark, self.channel_id)
            self.forget()
            if face.worth_posting:
                await self._post(face, now)
        except discord.HTTPException as error:
            if error.code != TOO_MANY_EDITS_OF_OLD:
                raise
            await self._post(face, now)
        return True

    async def _edit(self, face: Face, now: float) -> None:
        assert self.message_id is not None
        message = self.channel.get_partial_message(self.message_id)
        self._edited_at = now  # also where it fails: a refused edit counts for the limits
        await message.edit(embed=face.embed, view=face.view)
        self._looks = face.looks

    async def _post(self, face: Face, now: float) -> None:
        before = self.message_id
        if self._unanswered and (found := await self._lost(before)) is not None:
            log.info("%s in channel %d: the post had arrived", self.mark, self.channel_id)
            self._unanswered = False
            self.message_id = found
            await self._edit(face, now)
        else:
            await self._send(face, now)
        if before is not None:
            await self._drop(before)

    async def _send(self, face: Face, now: float) -> None:
        content: Any = face.content
        try:
            self._unanswered = True
            message = await self.channel.send(
                content,
                embed=face.embed,
                view=face.view or discord.utils.MISSING,
                allowed_mentions=face.allowed_mentions,
                # discord.py repeats a post after a server's error: by this Discord knows it again.
                nonce=secrets.randbits(63),
            )
        except discord.HTTPException as error:
            # Below 500 Discord has said no: nothing was posted.
            self._unanswered = error.status >= 500
            if isinstance(error, discord.NotFound):
                _raise_if_gone(error)
            raise
        self._unanswered = False
        self.message_id, self._looks, self._edited_at = message.id, face.looks, now

    async def _lost(self, before: int | None) -> int | None:
        """The id of the post that was never answered."""
        user = self._client.user
        try:
            async for message in self.channel.history(limit=SEARCHED_MESSAGES):
                ours = user is not None and message.author.id == user.id
                if ours and message.id != before and _is_marked(message, self.mark):
                    return message.id
        except discord.Forbidden:
            log.debug("the history of channel %d may not be read", self.channel_id)
        return None

    async def _drop(self, message_id: int) -> None:
        try:
            await self.channel.get_partial_message(message_id).delete()
        except discord.NotFound:
            pass
        except TRANSIENT as error:
            log.warning("an old message in channel %d stays: %s", self.channel_id, error)

    @staticmethod
    def _is_old(message_id: int) -> bool:
        age = discord.utils.utcnow() - discord.utils.snowflake_time(message_id)
        return age >= datetime.timedelta(seconds=REPOST_AFTER_SECONDS)

    def _failed(self, error: BaseException, now: float) -> None:
        self._failures += 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
        self._not_before = now + pause
        why = _words(error)
        if why != self.trouble:
            log.warning(
                "%s in channel %d is not up to date: %s; the next try is in %.0f s",
                self.mark,
                self.channel_id,
                why,
                pause,
            )
        self.trouble = why


def _is_marked(message: discord.Message, mark: str) -> bool:
    return any(mark in (embed.footer.text or "") for embed in message.embeds)


def _raise_if_gone(error: discord.NotFound) -> None:
    if error.code in (UNKNOWN_CHANNEL, UNKNOWN_GUILD):
        raise ChannelGone(str(error)) from error


def _words(error: BaseException) -> str:
    if isinstance(error, discord.Forbidden):
        return texts.STANDING_FORBIDDEN
    if isinstance(error, TimeoutError):
        return texts.STANDING_SILENT
    if isinstance(error, discord.HTTPException):
        return texts.STANDING_REFUSED.format(error=error)
    return str(error)
