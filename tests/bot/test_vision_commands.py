"""``!vision`` beyond look: ask, concepts, watch, classes, timeline; text, slash, and time."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import discord
import pytest
import simcord
from discord.ext import commands

from bot.chat_state import ChatState
from bot.client import DanzarBot
from bot.context import open_context
from bot.settings import ClipSettings, Settings, VisionSettings
from bot.vision.chosen import KEY, SECTION, recalled
from bot.vision.reports import Detection, FrameReport, Insight
from tests.bot.doubles import ScriptedVision, frame_report, scripted_context
from tests.bot.test_browser import COMMANDS
from tests.bot.world import World, last, world
from tests.gpu_memory.rig import ScriptedProbe, guide_rig, settle

EVIL = "@everyone <@&123456789012345678> **x** `y` [z](http://evil.test)"


def text_of(message: discord.Message) -> str:
    """Everything a person reads in a message."""
    parts = [message.content]
    for embed in message.embeds:
        parts += [embed.title or "", embed.description or "", embed.footer.text or ""]
        parts += [f"{field.name}\n{field.value}" for field in embed.fields]
    return "\n".join(parts)


def within_limits(embed: discord.Embed) -> bool:
    return (
        len(embed) <= 6000
        and len(embed.fields) <= 25
        and all(len(str(f.value)) <= 1024 and len(str(f.name)) <= 256 for f in embed.fields)
        and len(embed.description or "") <= 4096
        and len(embed.title or "") <= 256
    )


def pings_nobody(message: discord.Message) -> bool:
    shown = text_of(message)
    return not (
        message.mentions
        or message.role_mentions
        or message.mention_everyone
        or "@everyone" in shown
        or "<@&123456789012345678>" in shown
    )


# --- ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "word"),
    [(0.93, "Yes"), (0.7, "Probably."), (0.5, "can't tell"), (0.2, "Probably not"), (0.04, "No,")],
)
async def test_ask_answers_with_a_word_and_a_figure(probability: float, word: str) -> None:
    vision = ScriptedVision()
    vision.scores["the boss is near death"] = probability
    async with world(vision=vision) as w:
        await w.guest.send(w.channel, '!vision ask "is the boss near death?"')
        shown = text_of(last(w))
        assert "is the boss near death?" in shown
        assert word in shown
        assert f"{probability:.0%} “the boss is near death”" in shown
        assert "A guess from one frame" in shown
        assert "50% is no better" in shown


async def test_ask_by_slash_suggests_the_profiles_phrases() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        choices = await w.guest.autocomplete(w.channel, "vision ask", "question", "low")
        assert [choice["value"] for choice in choices] == ["low health"]
        await w.guest.slash(w.channel, "vision ask", question="low health")
        assert vision.scored == [("low health",)]
        assert "“low health”" in text_of(last(w))


async def test_a_slow_question_is_answered_at_once_and_edited() -> None:
    vision = ScriptedVision()
    vision.slow_seconds = 5
    async with world(vision=vision) as w:
        await w.guest.send(w.channel, "!vision ask a dragon")
        await w.env.advance_time(2)
        message = last(w)
        assert "Looking for “a dragon”" in message.content
        await w.env.advance_time(4)
        assert last(w).id == message.id
        assert last(w).content == ""
        assert "I can't tell" in text_of(last(w))


async def test_ask_says_what_to_do_without_vision_or_words() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.guest.send(w.channel, "!vision ask")
        assert "`question` is missing" in last(w).content
        assert "!help vision ask" in last(w).content
        await w.guest.send(w.channel, '!vision ask "?"')
        assert "say what to look for" in last(w).content
        vision.state = "off"
        await w.guest.send(w.channel, "!vision ask a dragon")
        assert "`!vision start` starts it" in last(w).content


# --- concepts, classes, timeline --------------------------------------------------------------


async def test_concepts_are_shown_changed_and_reset() -> None:
    vision = ScriptedVision()
    profiles = {"default": ("a", "b"), "Racing": ("a race", "a crash", "the pit lane")}
    settings = Settings(clip=ClipSettings(profiles=profiles))
    vision.concepts = profiles["default"]
    async with world(vision=vision, settings=settings) as w:
        await w.guest.send(w.channel, "!vision concepts")
        assert "Profile “default”" in text_of(last(w))
        assert "Racing (3 phrases)" in text_of(last(w))
        await w.owner.send(w.channel, "!vision concepts profile racing")
        assert vision.concepts == profiles["Racing"]
        assert "outlives a restart; `!vision concepts reset` goes back" in text_of(last(w))
        await w.owner.send(w.channel, "!vision concepts set a boss; low health ;a boss")
        assert vision.concepts == ("a boss", "low health")
        await w.guest.slash(w.channel, "vision concepts show")
        assert "Chosen in chat by owner <t:" in text_of(last(w))
        await w.env.advance_time(11)
        result = await w.owner.slash(w.channel, "vision concepts reset")
        assert vision.concepts == profiles["default"]
        assert result.response is not None
        assert result.response.ephemeral
        choices = await w.owner.autocomplete(w.channel, "vision concepts profile", "name", "rac")
        assert [choice["value"] for choice in choices] == ["Racing"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("profile chess", "there is no profile “chess”; there are: default"),
        ("set only one", "give two at least"),
        ("set " + "; ".join(f"p{i}" for i in range(65)), "65 phrases are too many"),
        (f"set a; {'x' * 201}", "is too long"),
    ],
)
async def test_concepts_refuses_in_words(typed: str, words: str) -> None:
    vision = ScriptedVision()
    before = vision.concepts
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, f"!vision concepts {typed}")
        assert words in last(w).content
        assert vision.concepts == before


@pytest.mark.parametrize(
    "typed",
    [
        "concepts set a; b",
        "concepts profile default",
        "concepts reset",
        "watch boss",
        "watch remove 1",
    ],
)
async def test_a_guest_changes_nothing_by_text_or_slash(typed: str) -> None:
    vision = ScriptedVision()
    before = vision.concepts
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision watch enemy")
        await w.guest.send(w.channel, f"!vision {typed}")
        assert "Manage Server" in last(w).content
        desk = w.bot.cogs["Vision"].desk  # pyright: ignore[reportAttributeAccessIssue]
        assert [watch.what for watch in desk.watches.values()] == ["enemy"]
        slash = {
            "watch boss": ("vision watch add", {"what": "boss"}),
            "watch remove 1": ("vision watch remove", {"number": 1}),
            "concepts set a; b": ("vision concepts set", {"phrases": "a; b"}),
            "concepts profile default": ("vision concepts profile", {"name": "default"}),
            "concepts reset": ("vision concepts reset", {}),
        }
        name, options = slash[typed]
        result = await w.guest.slash(w.channel, name, **options)
        assert result.response is not None
        assert "Manage Server" in result.response.content
        assert [watch.what for watch in desk.watches.values()] == ["enemy"]
        assert vision.concepts == before


async def test_classes_tell_what_is_there() -> None:
    async with world() as w:
        await w.guest.send(w.channel, "!vision classes")
        shown = text_of(last(w))
        assert "**enemy**: 2 on the newest frame, 81% at best" in shown
        assert "**minimap**: not on the newest frame" in shown
        await w.guest.slash(w.channel, "vision classes")
        assert "**boss**: 1 on the newest frame" in text_of(last(w))


async def test_the_timeline_is_short() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.guest.send(w.channel, "!vision timeline")
        assert "Nothing was seen yet" in text_of(last(w))
        start = time.time() - 600
        for t in range(300):
            phrase = f"phrase {t // 20}"
            vision.see(frame_report(captured_at=start + t, insights=(Insight(phrase, 0.8),)))
        await w.guest.slash(w.channel, "vision timeline")
        lines = str(last(w).embeds[0].description).splitlines()
        assert len(lines) == 10
        assert lines[0].startswith(f"<t:{start + 280:.0f}:T> **phrase 14** 80% for 19 s so far")
        assert "enemy × 2" in lines[0]


# --- watch ------------------------------------------------------------------------------------


async def see(w: World, vision: ScriptedVision, *reports: FrameReport) -> None:
    for report in reports:
        vision.see(report)
    await w.env.settle()


def fight(now: float) -> FrameReport:
    return frame_report(captured_at=now)


def peace(now: float) -> FrameReport:
    return frame_report(captured_at=now, detections=(), insights=())


async def test_a_watch_tells_once_in_one_message_that_is_edited() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision watch boss")
        assert "when **boss** (object) is there for 2 s" in last(w).content
        added = last(w).id
        await see(w, vision, *(fight(t) for t in range(1000, 1010)))
        alert = last(w)
        assert alert.id != added
        assert "🔴 **There** since <t:1000:R>" in text_of(alert)
        await see(w, vision, *(peace(t) for t in range(1010, 1020)))
        assert last(w).id == alert.id
        assert "⚪ **Gone** since <t:1010:R>" in text_of(last(w))
        await see(w, vision, *(fight(t) for t in range(1020, 1030)))
        assert last(w).id == alert.id, "within the cooldown it is the same message"
        assert "seen 2 times" in text_of(last(w))
        await see(w, vision, *(peace(t) for t in range(1030, 1040)))
        await see(w, vision, *(fight(t) for t in range(1200, 1210)))
        assert last(w).id != alert.id
        assert pings_nobody(last(w))


async def test_a_watched_phrase_is_scored() -> None:
    vision = ScriptedVision()
    vision.scores["a dragon"] = 0.9
    async with world(vision=vision) as w:
        await w.owner.slash(w.channel, "vision watch add", what='"a dragon"')
        for t in range(1000, 1008):
            await see(w, vision, peace(t))
        assert "a dragon" in text_of(last(w))
        assert "90% at best" in text_of(last(w))


async def test_an_alert_that_somebody_deleted_is_posted_again() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision watch boss")
        await see(w, vision, *(fight(t) for t in range(1000, 1005)))
        first = last(w)
        await w.owner.delete(first)
        await see(w, vision, *(peace(t) for t in range(1005, 1015)))
        assert last(w).id != first.id
        assert "**Gone**" in text_of(last(w))


async def test_a_refused_alert_is_logged_and_the_next_news_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision watch boss")
        w.env.inject_error("POST", "/channels/*/messages", status=403, code=50013, times=1)
        await see(w, vision, *(fight(t) for t in range(1000, 1005)))
        assert "could not tell that 'boss'" in caplog.text
        await see(w, vision, *(peace(t) for t in range(1005, 1015)))
        assert "**Gone**" in text_of(last(w))


async def test_watches_are_listed_removed_and_kept_apart_by_server() -> None:
    async with world() as w:
        await w.guest.send(w.channel, "!vision watch")
        assert "Manage Server" in last(w).content
        await w.owner.send(w.channel, "!vision watch")
        assert "`what` is missing: write `!vision watch <what>`" in last(w).content
        await w.guest.send(w.channel, "!vision watch list")
        assert "Nothing yet" in text_of(last(w))
        await w.owner.send(w.channel, "!vision watch add low health")
        assert "**low health** (phrase)" in last(w).content
        await w.owner.send(w.channel, "!vision watch low health")
        assert "already: number 1" in last(w).content
        await w.guest.slash(w.channel, "vision watch list")
        assert "`1` **low health** (phrase)" in text_of(last(w))

        stranger = w.env.create_user("stranger")
        elsewhere = w.env.create_guild("Elsewhere", owner=stranger)
        there = elsewhere.create_text_channel("general")
        await elsewhere.add_member(stranger).send(there, "!vision watch remove 1")
        assert there.last_message is not None
        assert "no watch number 1 here" in there.last_message.content

        result = await w.owner.slash(w.channel, "vision watch remove", number=1)
        assert result.response is not None
        assert result.response.ephemeral
        assert "no more" in result.response.content
        await w.owner.send(w.channel, "!vision watch remove 1")
        assert "there is no watch number 1 here" in last(w).content
        await w.owner.send(w.channel, "!vision watch remove boss")
        assert "“boss” can't stand here: write `!vision watch remove <number>`" in last(w).content


# --- the switch -------------------------------------------------------------------------------


async def test_a_start_is_answered_at_once_and_edited_with_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vision = ScriptedVision()
    service = vision.services["yolo"]
    async with world(vision=vision) as w:
        # An extension's module is executed anew by each bot; its background has its own time.
        monkeypatch.setattr(sys.modules["cogs.vision"], "PROGRESS_SECONDS", 0.05)
        await w.owner.send(w.channel, "!vision stop")
        await w.env.settle()
        assert "its memory is free" in last(w).content
        vision.services["yolo"] = replace(service, state="loading")
        await w.env.advance_time(11)
        await w.owner.send(w.channel, "!vision start")
        message = last(w)
        await settle(lambda: "YOLO ⏳ loading" in last(w).content)
        vision.services["yolo"] = service
        await settle(lambda: last(w).content.startswith("👁️ Vision runs"))
        assert last(w).id == message.id
        assert "YOLO 🟢 running" in last(w).content


async def test_the_answer_to_a_slash_command_is_edited_too() -> None:
    async with world() as w:
        result = await w.owner.slash(w.channel, "vision stop")
        response = result.response
        assert response is not None
        await settle(lambda: "its memory is free" in response.content)


async def test_the_answer_to_an_admins_slash_command_is_for_them_alone() -> None:
    async with world() as w:
        for name, options in (
            ("vision start", {}),
            ("vision stop", {}),
            ("vision watch add", {"what": "boss"}),
            ("vision concepts set", {"phrases": "a; b"}),
        ):
            result = await w.owner.slash(w.channel, name, **options)
            assert result.response is not None
            assert result.response.ephemeral, name


# --- manners ----------------------------------------------------------------------------------


async def test_pictures_are_posted_in_listed_channels_alone() -> None:
    vision = ScriptedVision(frame_report("screen"))
    async with world(vision=vision) as w:
        private = w.guild.create_text_channel("private")
        shared = VisionSettings(share_channels=(w.channel.id,))
        context = w.bot.app_context
        context.settings = context.settings.model_copy(update={"vision": shared})
        await w.guest.send(w.channel, "!vision look")
        assert last(w).attachments
        await w.guest.send(private, "!vision look")
        assert private.last_message is not None
        assert not private.last_message.attachments
        assert "the picture is private" in text_of(private.last_message)


async def test_names_smuggle_no_mentions() -> None:
    vision = ScriptedVision(
        frame_report(
            detections=(Detection(EVIL, 0.9, (0, 0, 9, 9)),), insights=(Insight(EVIL, 0.9),)
        )
    )
    vision.source = vision.state_reason = EVIL
    vision.concepts = (EVIL, "b")
    async with world(vision=vision) as w:
        vision.see(vision.report)
        for typed in (
            "look",
            "status",
            "timeline",
            "concepts",
            f"ask {EVIL}",
            f"watch {EVIL}",
            "watch list",
        ):
            await w.env.advance_time(11)
            await w.owner.send(w.channel, f"!vision {typed}")
            assert last(w).author.bot, typed
            assert pings_nobody(last(w)), (typed, text_of(last(w)))
            assert "**x**" not in text_of(last(w)), typed
        evil = vision.report.insights
        for t in range(2000, 2005):
            await see(w, vision, frame_report(captured_at=t, insights=evil))
        assert "🔔" in text_of(last(w))
        assert pings_nobody(last(w))


async def test_two_hundred_objects_keep_to_discords_limits() -> None:
    many = tuple(Detection(f"thing {i} {'x' * 300}", 0.9, (0, 0, i, i)) for i in range(200))
    phrases = tuple(Insight(f"phrase {i} {'y' * 190}", 0.5) for i in range(100))
    vision = ScriptedVision(frame_report(detections=many, insights=phrases))
    vision.concepts = tuple(phrase.text for phrase in phrases)[:64]
    async with world(vision=vision) as w:
        for t in range(20):
            vision.see(frame_report(captured_at=1000.0 + t, detections=many, insights=phrases))
        for typed in ("look", "classes", "timeline", "concepts"):
            await w.guest.send(w.channel, f"!vision {typed}")
            assert within_limits(last(w).embeds[0]), typed
        await w.env.advance_time(10)
        await w.guest.send(w.channel, "!vision look")
        assert "more" in text_of(last(w))


def dm_answer(w: World) -> discord.Message:
    message = w.guest.user.dm_channel.last_message
    assert message is not None
    return message


async def test_in_direct_messages_one_may_look_but_only_the_owner_controls() -> None:
    async with world() as w:
        await w.guest.send_dm("!vision look")
        assert "What I see" in text_of(dm_answer(w))
        await w.guest.send_dm("!vision watch boss")
        assert "only the bot's owner" in text_of(dm_answer(w))
        desk = w.bot.cogs["Vision"].desk  # pyright: ignore[reportAttributeAccessIssue]
        assert not desk.watches
        w.bot.owner_id = w.guest.id
        await w.guest.send_dm("!vision watch boss")
        assert [watch.guild_id for watch in desk.watches.values()] == [None]


async def test_every_command_has_an_example_in_its_help() -> None:
    async with world() as w:
        w.bot.owner_id = w.owner.id
        for command in w.bot.walk_commands():
            shown = command.help or ""
            assert re.search(r"Examples?:\s+`\{prefix\}", shown), command.qualified_name
        await w.guest.send(w.channel, "!help vision watch")
        shown = text_of(last(w))
        assert 'Example: `!vision watch "low health"`' in shown
        assert "`!vision watch remove <number>`" in shown
        await w.guest.send(w.channel, "!help")
        listed = text_of(last(w))
        for line in (
            "`!vision ask <question>` Whether something is on the screen",
            "`!vision stop` Stop vision and free its memory 🔒",
            "`!vision watch <what>` Tell when something appears 🔒 · also `list`, `remove`",
            "also `here`, `level`, `mute`, `off`, `status`",
        ):
            assert line in listed
        await w.env.advance_time(10)
        await w.guest.send(w.channel, "!help gpu alerts level")
        assert last(w).embeds[0].title == "!gpu alerts level <all|important|critical>"
        assert within_limits(last(w).embeds[0])


async def test_the_browsers_table_holds_every_command() -> None:
    async with scripted_context() as context, DanzarBot(context) as bot:
        await bot.setup_hook()
        there_are = {
            command.qualified_name
            for command in bot.walk_commands()
            if not isinstance(command, commands.Group) and command.qualified_name != "help"
        }
        await bot.close()
    groups_that_answer = {"vision concepts", "vision watch"}
    assert {asked.name for asked in COMMANDS} == (there_are - {"sync"}) | groups_that_answer


# --- what outlives a restart --------------------------------------------------------------------


async def restarted(w: World) -> None:
    """The bot ends and starts again with what it has kept; its models stay as they are."""
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await w.env.settle()


async def test_watches_and_their_message_outlive_a_restart() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision watch enemy")
        await w.owner.send(w.channel, "!vision watch boss")
        await w.owner.send(w.channel, "!vision watch remove 1")
        await see(w, vision, *(fight(t) for t in range(1000, 1005)))
        told = last(w)
        assert "**There**" in text_of(told)
        await restarted(w)
        assert last(w).id == told.id
        assert "**Gone** since" in text_of(last(w)), "nothing is in sight yet"
        await w.guest.send(w.channel, "!vision watch list")
        assert "`2` **boss** (object)" in text_of(last(w))
        assert "enemy" not in text_of(last(w))
        now = time.time()
        await see(w, vision, *(fight(now + t) for t in range(5)))
        channel = w.env.bot.get_partial_messageable(w.channel.id)
        found = await channel.fetch_message(told.id)
        assert "seen 2 times" in text_of(found), "sooner than the cooldown: the same message"
        await w.owner.send(w.channel, "!vision watch minimap")
        assert "remove 3`" in text_of(last(w)), "no number is used twice"


async def test_chosen_phrases_outlive_a_restart_and_are_shown_as_chosen(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"data": {"folder": str(tmp_path)}, "vision": {"autostart": False}}
    )
    probe = ScriptedProbe(*guide_rig())
    async with open_context(settings, probe) as context:
        bot = DanzarBot(context)
        async with simcord.run(bot, check_errors=False) as env:
            user = env.create_user("owner", global_name="Ada *A*")
            guild = env.create_guild("Home", owner=user)
            channel, owner = guild.create_text_channel("general"), guild.add_member(user)
            await owner.send(channel, "!vision concepts set a boss; a shop")
    async with open_context(settings, probe) as context:
        assert context.vision.concepts == ("a boss", "a shop")
        bot = DanzarBot(context)
        async with simcord.run(bot, check_errors=False) as env:
            user = env.create_user("owner")
            guild = env.create_guild("Home", owner=user)
            channel, owner = guild.create_text_channel("general"), guild.add_member(user)
            await owner.send(channel, "!vision concepts")
            assert channel.last_message is not None
            assert r"Chosen in chat by Ada \*A\* <t:" in text_of(channel.last_message)
            await owner.send(channel, "!vision concepts reset")
    async with open_context(settings, probe) as context:
        assert context.vision.concepts == settings.clip.concepts


@pytest.mark.parametrize(
    "kept", [{}, {"phrases": "x"}, {"phrases": ["a"], "who": "Ada", "at": 1}, {"phrases": 7}]
)
async def test_kept_phrases_that_make_no_sense_are_left_out(
    kept: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    chats = ChatState()
    await chats.put(SECTION, KEY, kept)
    assert recalled(chats) is None
    assert "make no sense" in caplog.text


async def test_kept_watches_that_make_no_sense_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        await w.owner.send(w.channel, "!vision watch boss")
        chats = w.bot.app_context.chats
        for broken in ({}, {**chats.section("watches")["1"], "kind": "smell"}):
            await chats.put("watches", str(len(broken) + 5), broken)
        await restarted(w)
        desk = w.bot.cogs["Vision"].desk  # pyright: ignore[reportAttributeAccessIssue]
        assert list(desk.watches) == [1]
        assert caplog.text.count("makes no sense") == 2
