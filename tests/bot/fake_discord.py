"""Discord's gateway and REST on this machine, for discord.py's real client, with faults to order.

Only what the bot uses, in the form that Discord documents. What arrives is kept as Discord keeps
it: a message whose ``nonce`` was enforced is never there twice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from unittest.mock import patch

import yarl
from aiohttp import WSMsgType, web
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.utils import time_snowflake, utcnow

GUILD, CHANNEL, BOT, PERSON, ROLE = 100, 200, 300, 400, 100
EVERYTHING = str((1 << 53) - 1)
TIME = "2026-01-01T00:00:00+00:00"

Fault = Literal[
    "rate limit", "502", "502 but delivered", "503", "403", "404", "cut", "cut but delivered"
]


class FakeDiscord:
    """One guild, one channel, one person who may do everything."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        """What the bot posted, as Discord has it."""
        self.edits: list[dict[str, Any]] = []
        self.posts = 0
        """How often the bot tried to post."""
        self.faults: deque[Fault] = deque()
        """What happens to the next posts, one each."""
        self.login: Literal["ok", "401", "500"] = "ok"
        self.refuse_identify: int | None = None
        """Close code for whoever identifies."""
        self.acks = True
        """Whether heartbeats are answered; a socket that does not is a zombie."""
        self.resumes: Literal["resumed", "invalid"] = "resumed"
        self.heard: list[str] = []
        """``identify``, ``resume``, in their order."""
        self.interval_ms = 200
        self.url = ""
        self._ids = _ids()
        self._sequence = itertools.count(1)
        self._sockets: set[web.WebSocketResponse] = set()
        self._missed: list[dict[str, Any]] = []
        self._nonces: dict[str, dict[str, Any]] = {}

    # --- what happens on Discord ------------------------------------------------------------

    async def says(self, content: str, *, times: int = 1, person: int = PERSON) -> None:
        """A person writes; ``times`` is how often Discord tells the bot of it."""
        number = str(next(self._ids))
        for _ in range(times):
            await self.dispatch("MESSAGE_CREATE", _message(number, person, content))

    async def delete_channel(self) -> None:
        await self.dispatch("CHANNEL_DELETE", _channel())

    async def create_channel(self) -> None:
        await self.dispatch("CHANNEL_CREATE", _channel())

    async def dispatch(self, kind: str, data: dict[str, Any]) -> None:
        """An event; while nobody is connected it waits for a resume."""
        event = {"op": 0, "t": kind, "s": next(self._sequence), "d": data}
        if not self._sockets:
            self._missed.append(event)
        for socket in tuple(self._sockets):
            await socket.send_json(event)

    async def drop(self, code: int | None = None) -> None:
        """Close every connection: with a code, or cut without a word."""
        for socket in tuple(self._sockets):
            self._sockets.discard(socket)
            if code is not None:
                await socket.close(code=code)
            else:
                transport = socket._req.transport if socket._req is not None else None
                assert transport is not None
                transport.abort()

    async def invalidate(self, *, resumable: bool) -> None:
        for socket in tuple(self._sockets):
            await socket.send_json({"op": 9, "d": resumable})

    # --- gateway ----------------------------------------------------------------------------

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": self.interval_ms}})
        try:
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    await self._heard(socket, json.loads(frame.data))
        finally:
            self._sockets.discard(socket)
        return socket

    async def _heard(self, socket: web.WebSocketResponse, sent: dict[str, Any]) -> None:
        match sent["op"]:
            case 1 if self.acks:
                await socket.send_json({"op": 11})
            case 2:
                self.heard.append("identify")
                if self.refuse_identify is not None:
                    await socket.close(code=self.refuse_identify)
                    return
                await self._ready(socket)
            case 6:
                self.heard.append("resume")
                if self.resumes == "invalid":
                    self.resumes = "resumed"
                    await socket.send_json({"op": 9, "d": False})
                    return
                missed, self._missed = self._missed, []
                for event in missed:
                    await socket.send_json(event)
                self._sockets.add(socket)
                await self.dispatch("RESUMED", {})
            case _:
                pass

    async def _ready(self, socket: web.WebSocketResponse) -> None:
        self._missed = []
        self._sockets.add(socket)
        ready = {
            "v": 10,
            "user": _user(BOT),
            "guilds": [{"id": str(GUILD), "unavailable": True}],
            "session_id": f"session-{len(self.heard)}",
            "resume_gateway_url": self.url.replace("http", "ws") + "/gateway",
            "application": {"id": str(BOT), "flags": 0},
        }
        await self.dispatch("READY", ready)
        await self.dispatch("GUILD_CREATE", _guild())

    # --- REST -------------------------------------------------------------------------------

    async def _me(self, _request: web.Request) -> web.Response:
        if self.login == "401":
            return _error(401, 0, "401: Unauthorized")
        if self.login == "500":
            return _error(503, 0, "upstream connect error")
        return _json(_user(BOT))

    async def _application(self, _request: web.Request) -> web.Response:
        owner = _user(PERSON)
        found = {"id": str(BOT), "name": "Danzar", "owner": owner, "description": "", "icon": None}
        found |= {"bot_public": True, "bot_require_code_grant": False, "verify_key": "", "flags": 0}
        return _json(found)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.posts += 1
        body = await _body(request)
        fault = self.faults.popleft() if self.faults else None
        if fault is None or "delivered" in fault:
            message = self._deliver(body)
            if fault is None:
                return _json(message)
        match fault:
            case "rate limit":
                limited = {"message": "You are being rate limited.", "retry_after": 0.05}
                headers = {"Via": "1.1 google", "Retry-After": "0.05"}
                return _json({**limited, "global": False}, status=429, headers=headers)
            case "403":
                return _error(403, 50013, "Missing Permissions")
            case "404":
                return _error(404, 10003, "Unknown Channel")
            case "502" | "502 but delivered":
                return _error(502, 0, "bad gateway")
            case "503":
                return _error(503, 0, "unavailable")
            case _:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()

    def _deliver(self, body: dict[str, Any]) -> dict[str, Any]:
        nonce = str(body.get("nonce"))
        if body.get("enforce_nonce") and nonce in self._nonces:
            return self._nonces[nonce]
        message = _message(str(next(self._ids)), BOT, body.get("content") or "")
        message["embeds"] = body.get("embeds") or []
        message["components"] = body.get("components") or []
        self.messages.append(message)
        self._nonces[nonce] = message
        return message

    async def _edit(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self.edits.append({"id": request.match_info["message"], **body})
        return _json(_message(request.match_info["message"], BOT, ""))

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _history(self, _request: web.Request) -> web.Response:
        return _json(self.messages[::-1])

    def _routes(self) -> web.Application:
        app = web.Application()
        messages = "/api/channels/{channel}/messages"
        app.router.add_get("/gateway", self._gateway)
        app.router.add_get("/gateway/", self._gateway)
        app.router.add_get("/api/users/@me", self._me)
        app.router.add_get("/api/oauth2/applications/@me", self._application)
        app.router.add_post(messages, self._post)
        app.router.add_get(messages, self._history)
        app.router.add_patch(messages + "/{message}", self._edit)
        app.router.add_delete(messages + "/{message}", self._nothing)
        app.router.add_post("/api/channels/{channel}/typing", self._nothing)
        return app

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve at ``url`` on the loopback."""
        runner = web.AppRunner(self._routes(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await self.drop(1000)
            await runner.cleanup()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The same, and let this process's discord.py come here."""
        async with self.open():
            base, gateway = addresses(self.url)
            with (
                patch.object(Route, "BASE", base),
                patch.object(DiscordWebSocket, "DEFAULT_GATEWAY", gateway),
            ):
                yield


def addresses(url: str) -> tuple[str, yarl.URL]:
    """What ``Route.BASE`` and ``DiscordWebSocket.DEFAULT_GATEWAY`` have to be."""
    return f"{url}/api", yarl.URL(url.replace("http", "ws") + "/gateway")


def _ids() -> Iterator[int]:
    """As on Discord they tell the time: a live panel that looks old would be posted anew."""
    number = 0
    while True:
        number = max(number + 1, time_snowflake(utcnow()))
        yield number


async def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    """Wait until it holds."""
    for _ in range(round(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never came: {what}")


async def _body(request: web.Request) -> dict[str, Any]:
    if request.content_type == "application/json":
        return await request.json()
    form = await request.post()
    return json.loads(str(form.get("payload_json") or "{}"))


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # discord.py wants the type without a charset.
    kind = {"Content-Type": "application/json"}
    return web.Response(
        body=json.dumps(data).encode(), status=status, headers={**kind, **(headers or {})}
    )


def _error(status: int, code: int, words: str) -> web.Response:
    return _json({"code": code, "message": words}, status=status)


def _user(number: int) -> dict[str, Any]:
    name = "Danzar" if number == BOT else "ada"
    user = {"id": str(number), "username": name, "discriminator": "0", "avatar": None}
    return {**user, "global_name": None, "bot": number == BOT}


def _member(number: int) -> dict[str, Any]:
    return {
        "user": _user(number),
        "roles": [],
        "joined_at": TIME,
        "deaf": False,
        "mute": False,
        "flags": 0,
    }


def _message(number: str, author: int, content: str) -> dict[str, Any]:
    member = _member(author)
    del member["user"]
    return {
        "id": number,
        "channel_id": str(CHANNEL),
        "guild_id": str(GUILD),
        "author": _user(author),
        "member": {**member, "flags": 0},
        "content": content,
        "timestamp": TIME,
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "components": [],
        "pinned": False,
        "type": 0,
    }


def _channel() -> dict[str, Any]:
    channel = {"id": str(CHANNEL), "type": 0, "name": "general", "position": 0}
    return {**channel, "permission_overwrites": [], "guild_id": str(GUILD)}


def _guild() -> dict[str, Any]:
    role = {"id": str(ROLE), "name": "@everyone", "permissions": EVERYTHING, "position": 0}
    role |= {"color": 0, "hoist": False, "managed": False, "mentionable": False, "flags": 0}
    return {
        "id": str(GUILD),
        "name": "Home",
        "owner_id": str(PERSON),
        "roles": [role],
        "channels": [_channel()],
        "members": [_member(BOT)],
        "member_count": 2,
        "emojis": [],
        "stickers": [],
        "features": [],
        "threads": [],
        "voice_states": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
        "premium_tier": 0,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "mfa_level": 0,
        "nsfw_level": 0,
        "preferred_locale": "en-US",
        "afk_timeout": 60,
        "system_channel_flags": 0,
    }
