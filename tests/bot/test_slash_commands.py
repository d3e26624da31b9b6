"""Slash commands, buttons, roles and virtual time, on simcord."""

from __future__ import annotations

import discord
import pytest

from bot.settings import DiscordSettings, Settings, VisionSettings
from cogs.pages import BUTTONS_SECONDS
from tests.bot.doubles import ScriptedVision, frame_report
from tests.bot.world import last, world
from tests.gpu_memory.rig import Card, ScriptedProbe, guide_rig, settle


async def test_slash_status_equals_the_typed_one() -> None:
    async with world() as w:
        await w.guest.slash(w.channel, "gpu status")
        slash = last(w).embeds[0].to_dict()
        await w.guest.send(w.channel, "!gpu status")
        typed = last(w).embeds[0].to_dict()
    assert slash["fields"] == typed["fields"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert slash["title"] == "🎯 GPU Memory Status:"  # pyright: ignore[reportTypedDictNotRequiredAccess]


async def test_every_command_is_there_as_slash_command() -> None:
    async with world() as w:
        available = set(w.guest.available_commands(w.channel))
    assert {
        "gpu status",
        "gpu vision",
        "gpu monitor",
        "gpu log",
        "vision status",
        "vision look",
        "vision start",
        "vision stop",
        "about",
    } <= available


async def test_a_guest_may_not_control_by_slash_either() -> None:
    async with world() as w:
        manager = w.bot.app_context.gpu_memory_manager
        result = await w.guest.slash(w.channel, "gpu monitor")
        assert manager.monitoring_enabled
        assert result.response is not None
        assert result.response.ephemeral
        assert "Manage Server" in result.response.content
        await w.owner.slash(w.channel, "gpu monitor")
        assert not manager.monitoring_enabled


async def test_a_role_may_be_given_control() -> None:
    settings = Settings(discord=DiscordSettings(control_role="Game Crew"))
    async with world(settings=settings) as w:
        manager = w.bot.app_context.gpu_memory_manager
        await w.guest.send(w.channel, "!gpu monitor")
        assert "the role “Game Crew”" in last(w).content
        assert manager.monitoring_enabled
        crew = w.guild.add_member(
            w.env.create_user("crew"), roles=[w.guild.create_role("Game Crew")]
        )
        await crew.send(w.channel, "!gpu monitor")
        assert not manager.monitoring_enabled


async def test_everyone_may_control_where_that_is_configured() -> None:
    settings = Settings(discord=DiscordSettings(control_permission="everyone"))
    async with world(settings=settings) as w:
        await w.guest.slash(w.channel, "gpu monitor")
        assert not w.bot.app_context.gpu_memory_manager.monitoring_enabled


async def test_a_toggled_poller_outlives_the_command_that_started_it() -> None:
    settings = Settings.model_validate(
        {"gpu_memory": {"memory_check_interval": 0.1, "pressure_check_interval": 0.1}}
    )
    probe = ScriptedProbe(*guide_rig())
    async with world(probe, settings=settings) as w:
        await w.owner.send(w.channel, "!gpu monitor")
        # Were it the command's own task, simcord would wait for its end here, in vain.
        await w.owner.send(w.channel, "!gpu monitor")
        assert "**on**" in last(w).content
        reads = probe.reads
        await settle(lambda: probe.reads > reads)


async def test_refresh_reads_again_and_edits_the_message() -> None:
    probe = ScriptedProbe(*guide_rig())
    async with world(probe) as w:
        await w.guest.send(w.channel, "!gpu status")
        message = last(w)
        probe.cards[1].programs["game.exe"] = 9.4
        await w.bot.app_context.gpu_memory_manager.refresh(max_age=0)
        await w.guest.click(message, label="Refresh")
        assert last(w).id == message.id
        assert "📊 Free: 0.5GB" in str(last(w).embeds[0].fields[1].value)


async def test_buttons_belong_to_whoever_asked() -> None:
    async with world() as w:
        await w.guest.send(w.channel, "!gpu status")
        result = await w.owner.click(last(w), label="Refresh")
        assert result.response is not None
        assert result.response.ephemeral
        assert "belong to whoever asked" in result.response.content


async def test_pages_of_many_cards() -> None:
    probe = ScriptedProbe(*(Card(f"Card {i}") for i in range(16)))
    async with world(probe) as w:
        await w.guest.send(w.channel, "!gpu status")
        message = last(w)
        assert message.embeds[0].fields[0].name == "Device 0 (Card 0):"
        await w.guest.click(message, label="Next")
        assert last(w).embeds[0].fields[0].name == "Device 8 (Card 8):"
        assert "page 2 of 2" in str(last(w).embeds[0].footer.text)
        await w.guest.click(last(w), label="Previous")
        assert last(w).embeds[0].fields[0].name == "Device 0 (Card 0):"


async def test_buttons_are_disabled_when_their_time_is_over() -> None:
    async with world() as w:
        await w.guest.send(w.channel, "!gpu status")
        await w.env.advance_time(BUTTONS_SECONDS + 1)
        row = last(w).components[0]
        assert isinstance(row, discord.ActionRow)
        assert all(isinstance(b, discord.Button) and b.disabled for b in row.children)


async def test_a_deleted_status_message_does_no_harm() -> None:
    async with world() as w:
        await w.guest.send(w.channel, "!gpu status")
        await w.owner.delete(last(w))
        await w.env.advance_time(BUTTONS_SECONDS + 1)
        await w.guest.send(w.channel, "!gpu vision")
        assert "Best Vision Device" in str(last(w).embeds[0].title)
        assert w.env.errors == []


async def test_the_cooldown_ends_with_time() -> None:
    async with world() as w:
        for _ in range(4):
            await w.guest.send(w.channel, "!gpu vision")
        assert "Too fast" in last(w).content
        await w.env.advance_time(7)
        await w.guest.send(w.channel, "!gpu vision")
        assert "Best Vision Device" in str(last(w).embeds[0].title)


@pytest.mark.parametrize(
    ("source", "shared", "demo", "shown"),
    [
        ("screen", False, False, False),
        ("scene", False, False, False),
        ("screen", True, False, True),
        ("screen", False, True, False),
        ("scene", False, True, True),
    ],
)
async def test_frames_are_posted_only_where_they_may_be(
    source: str, shared: bool, demo: bool, shown: bool
) -> None:
    settings = Settings(vision=VisionSettings(share_frames=shared))
    vision = ScriptedVision(frame_report(source))
    async with world(vision=vision, settings=settings, demo=demo) as w:
        await w.guest.slash(w.channel, "vision look")
        message = last(w)
        assert bool(message.attachments) is shown
        assert (message.embeds[0].image.url is not None) is shown
        assert message.embeds[0].title == "👁️ What I see"


async def test_vision_stops_and_starts() -> None:
    vision = ScriptedVision()
    async with world(vision=vision) as w:
        await w.owner.send(w.channel, "!vision stop")
        assert vision.state == "off"
        result = await w.owner.slash(w.channel, "vision look")
        assert result.response is not None
        assert "Vision is off" in result.response.content
        await w.owner.send(w.channel, "!vision start")
        assert vision.state == "running"


async def test_a_refused_answer_is_logged_and_nothing_breaks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        w.env.inject_error("POST", "/channels/*/messages", status=403, code=50013, times=2)
        await w.guest.send(w.channel, "!gpu vision")
        assert "could not answer" in caplog.text
        await w.guest.send(w.channel, "!gpu vision")
        assert "Best Vision Device" in str(last(w).embeds[0].title)


async def test_only_the_owner_syncs() -> None:
    async with world() as w:
        await w.owner.send(w.channel, "!sync")
        assert "Only the bot's owner" in last(w).content
        w.bot.owner_id = w.owner.id
        await w.owner.send(w.channel, "!sync")
        assert "slash commands everywhere" in last(w).content
