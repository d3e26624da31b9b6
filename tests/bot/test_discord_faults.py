"""discord.py's real client on Discord's protocol, served here with everything that breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import repeat

import pytest

from bot import client as client_module
from bot.cli.exits import Exit
from bot.client import DanzarBot, run_on_discord
from bot.context import AppContext
from bot.observability import logs
from tests.bot.doubles import scripted_context
from tests.bot.fake_discord import CHANNEL, FakeDiscord, Fault, until

TOKEN = "MTAw.planted.in-the-session"


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LOGIN_DELAYS", (0.05,))
    monkeypatch.setattr(client_module, "RESEND_SECONDS", 0.05)
    # discord.py waits longer and longer before it repeats or reconnects.
    sleep = asyncio.sleep
    monkeypatch.setattr("discord.http.asyncio.sleep", lambda s: sleep(min(s, 0.05)))


@dataclass
class Session:
    """A bot on the fake Discord."""

    discord: FakeDiscord
    context: AppContext
    running: asyncio.Task[Exit]
    stop: asyncio.Event

    @property
    def bot(self) -> DanzarBot:
        assert self.context.client is not None
        return self.context.client

    async def online(self) -> None:
        await until(lambda: self.context.client is not None and self.bot.online, "a connection")

    async def answers(self, command: str = "!gpu vision") -> None:
        """The bot answers a command, once."""
        before = len(self.discord.messages)
        await self.discord.says(command)
        await until(lambda: len(self.discord.messages) > before, f"an answer to {command}")
        await asyncio.sleep(0.1)
        assert len(self.discord.messages) == before + 1


@asynccontextmanager
async def session(fake: FakeDiscord | None = None) -> AsyncIterator[Session]:
    fake = fake or FakeDiscord()
    stop = asyncio.Event()
    async with fake.serving(), scripted_context() as context:
        running = asyncio.create_task(run_on_discord(context, TOKEN, stop))
        try:
            await until(lambda: context.client, "a bot")
            assert context.client is not None
            context.client._connection.guild_ready_timeout = 0.05
            context.client._connection.heartbeat_timeout = 1.0
            yield Session(fake, context, running, stop)
        finally:
            stop.set()
            await asyncio.wait_for(running, 20)


@asynccontextmanager
async def connected() -> AsyncIterator[Session]:
    async with session() as s:
        await s.online()
        yield s


async def test_a_question_is_answered_and_the_end_is_quick() -> None:
    async with connected() as s:
        await s.answers()
        await until(lambda: s.bot.latency < 10, "a heartbeat's answer")
        s.stop.set()
        async with asyncio.timeout(5):
            assert await s.running is Exit.OK


@pytest.mark.parametrize("fault", ["rate limit", "502", "502 but delivered", "cut but delivered"])
async def test_an_answer_arrives_once_whatever_happens_to_it(fault: Fault) -> None:
    async with connected() as s:
        s.discord.faults.append(fault)
        await s.discord.says("!gpu vision")
        await until(lambda: s.discord.posts == 2, "a second try")
        await until(lambda: s.discord.messages, "the answer")
        await asyncio.sleep(0.1)
        assert len(s.discord.messages) == 1


async def test_an_answer_that_was_cut_off_is_sent_again() -> None:
    async with connected() as s:
        s.discord.faults.append("cut")
        await s.answers()


@pytest.mark.parametrize("fault", ["403", "404", "503", "cut"])
async def test_what_could_not_be_delivered_is_in_the_log(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as s:
        s.discord.faults.extend(repeat(fault, 4))
        with caplog.at_level(logging.WARNING):
            await s.discord.says("!gpu vision")
            await until(lambda: f"could not answer in channel {CHANNEL}" in caplog.text, "words")
        assert s.discord.messages == []
        s.discord.faults.clear()
        await s.answers("!about")
        assert not s.running.done()


async def test_a_message_that_comes_twice_is_answered_once() -> None:
    async with connected() as s:
        await s.discord.says("!gpu vision", times=3)
        await until(lambda: s.discord.messages, "an answer")
        await asyncio.sleep(0.2)
        assert len(s.discord.messages) == 1


@pytest.mark.parametrize("code", [None, 1000, 4000, 4009])
async def test_a_closed_connection_is_resumed_and_nothing_is_lost(code: int | None) -> None:
    async with connected() as s:
        await s.discord.drop(code)
        await s.discord.says("!gpu vision")
        await until(lambda: s.discord.messages, "the answer to what was said meanwhile")
        assert s.discord.heard == ["identify", "resume"]
        await s.online()
        await s.answers("!about")


@pytest.mark.parametrize("resumable", [True, False])
async def test_an_invalid_session_begins_anew(resumable: bool) -> None:
    async with connected() as s:
        await s.discord.invalidate(resumable=resumable)
        await until(lambda: len(s.discord.heard) == 2, "a new connection")
        await s.online()
        await s.answers()


async def test_a_session_that_cannot_be_resumed_begins_anew() -> None:
    async with connected() as s:
        s.discord.resumes = "invalid"
        await s.discord.drop(4000)
        await until(lambda: s.discord.heard == ["identify", "resume", "identify"], "a new one")
        await s.online()
        await s.answers()


async def test_a_zombie_is_noticed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as s:
        s.discord.acks = False
        await until(lambda: "resume" in s.discord.heard, "a new connection")
        s.discord.acks = True
        await s.online()
        await s.answers()


async def test_not_connected_is_not_online() -> None:
    async with connected() as s:
        s.discord.refuse_identify = 4000
        s.discord.resumes = "invalid"
        await s.discord.drop(4000)
        await until(lambda: not s.bot.online, "offline")
        s.discord.refuse_identify = None
        await s.online()


async def test_a_token_that_discord_refuses_ends_it_with_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeDiscord()
    fake.login = "401"
    async with session(fake) as s:
        assert await asyncio.wait_for(s.running, 10) is Exit.TOKEN
    assert "Reset Token" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (4004, Exit.TOKEN, "Reset Token"),
        (4014, Exit.INTENTS, "Message Content Intent"),
        (4013, Exit.FAILED, "for good"),
    ],
)
async def test_a_gateway_that_refuses_for_good_ends_it_with_words(
    code: int, status: Exit, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeDiscord()
    fake.refuse_identify = code
    async with session(fake) as s:
        assert await asyncio.wait_for(s.running, 10) is status
    assert words in caplog.text
    assert fake.heard == ["identify"], "tried once"
    assert TOKEN not in caplog.text


async def test_a_token_in_an_error_reaches_neither_chat_nor_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = StringIO()
    logs.configure("DEBUG", token=TOKEN, stream=written)
    try:
        async with connected() as s:

            def fail(*_: object) -> None:
                raise RuntimeError(f"Authorization: Bot {TOKEN}")

            monkeypatch.setattr(s.context.gpu_memory_manager, "get_best_vision_device", fail)
            await s.answers("!gpu vision")
            [answer] = s.discord.messages
            assert "reference" in str(answer).lower()
            assert "planted" not in str(answer)
    finally:
        logs._secrets.clear()
        logs.configure("WARNING")
    assert "Authorization: Bot <token>" in written.getvalue()
    assert "planted" not in written.getvalue()


async def test_a_token_that_is_revoked_while_it_runs_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as s:
        await s.discord.drop(4004)
        assert await asyncio.wait_for(s.running, 10) is Exit.TOKEN
    assert "Reset Token" in caplog.text


async def test_a_network_that_comes_later_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeDiscord()
    fake.login = "500"
    async with session(fake) as s:
        await until(lambda: caplog.text.count("Discord can't be reached") >= 2, "two tries")
        assert not s.running.done()
        fake.login = "ok"
        await s.online()
        await s.answers()


async def test_a_stop_while_nothing_answers_is_quick() -> None:
    fake = FakeDiscord()
    fake.login = "500"
    async with session(fake) as s:
        await asyncio.sleep(0.2)
        s.stop.set()
        async with asyncio.timeout(5):
            assert await s.running is Exit.OK


async def test_the_panel_says_goodbye_and_the_end_takes_less_than_five_seconds() -> None:
    async with connected() as s:
        await s.discord.says("!gpu dashboard")
        await until(lambda: len(s.discord.messages) == 2, "the panel and the answer")
        s.stop.set()
        async with asyncio.timeout(5):
            assert await s.running is Exit.OK
        [panel] = [m for m in s.discord.messages if m["components"]]
        last = s.discord.edits[-1]
        assert last["id"] == panel["id"]
        assert "Offline since <t:" in last["embeds"][0]["description"]
        assert last["components"] == []


async def test_a_panel_is_posted_once_though_the_post_was_answered_with_an_error() -> None:
    async with connected() as s:
        s.discord.faults.append("502 but delivered")
        await s.discord.says("!gpu dashboard")
        await until(lambda: s.discord.posts == 3, "the panel, once more, and the answer")
        await asyncio.sleep(0.1)
        assert len([m for m in s.discord.messages if m["components"]]) == 1


async def test_a_goodbye_that_nobody_takes_holds_nothing_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    async with connected() as s:
        cog = s.bot.get_cog("GPU memory")
        monkeypatch.setattr(cog, "farewell", stuck)
        s.stop.set()
        async with asyncio.timeout(5):
            assert await s.running is Exit.OK
        assert "no time to say goodbye" in caplog.text


async def test_a_channel_and_a_permission_that_go_away_stop_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as s:
        await s.discord.says("!gpu dashboard")
        await until(lambda: len(s.discord.messages) == 2, "the panel and the answer")
        await s.discord.delete_channel()
        s.discord.faults.extend(repeat("404", 6))
        await s.discord.says("!gpu vision")
        await until(lambda: "could not answer" in caplog.text, "words in the log")
        assert not s.running.done()
