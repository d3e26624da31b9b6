"""What people type: the guide's output, mistakes, permissions, cooldowns."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, cast

import discord
import discord.ext.test as dpytest
import pytest
from discord.ext import commands

from bot.client import DanzarBot
from cogs.access import MayNotControl
from danzar_gpu import MemorySnapshot
from tests.bot.doubles import ScriptedVision, frame_report
from tests.gpu_memory.rig import Card, ScriptedProbe

GUIDE_DEVICE_0 = [
    "📊 Allocated: 6.2GB",
    "📊 Reserved: 7.1GB",
    "📊 Free: 4.9GB",
    "📊 Total: 12.0GB",
    "📊 Utilization: 59.2%",
]
GUIDE_DEVICE_1 = [
    "📊 Allocated: 1.8GB",
    "📊 Reserved: 2.1GB",
    "📊 Free: 9.9GB",
    "📊 Total: 12.0GB",
    "📊 Utilization: 17.5%",
]


def fields(embed: discord.Embed) -> dict[str, str]:
    return {str(field.name): str(field.value) for field in embed.fields}


async def answer_to(text: str) -> discord.Message:
    """Send ``text``; the bot's only answer."""
    await dpytest.message(text)
    return the_answer()


async def answer_to_mistake(text: str, kind: type[BaseException]) -> discord.Message:
    """dpytest raises what the bot's error handler was given; the bot answers all the same."""
    with pytest.raises(kind):
        await dpytest.message(text)
    await dpytest.run_all_events()
    return the_answer()


def the_answer() -> discord.Message:
    message = dpytest.get_message()
    assert dpytest.sent_queue.empty(), "one question, one answer"
    return message


@pytest.mark.parametrize("typed", ["!gpu status", "!gpu", "!GPU Status", "! gpu status"])
async def test_status_shows_the_guides_lines(text_bot: DanzarBot, typed: str) -> None:
    embed = (await answer_to(typed)).embeds[0]
    assert embed.title == "🎯 GPU Memory Status:"
    assert fields(embed) == {
        "Device 0 (RTX 4070):": "\n".join(GUIDE_DEVICE_0),
        "Device 1 (RTX 4070 Super):": "\n".join(GUIDE_DEVICE_1),
        "💡 Recommendations:": "• All GPU devices have adequate memory",
    }


async def test_vision_shows_device_and_reason(text_bot: DanzarBot) -> None:
    embed = (await answer_to("!gpu vision")).embeds[0]
    assert embed.title == "👁️ Best Vision Device:"
    assert embed.description == (
        "Device: cuda:1\nReason: Device 1 (RTX 4070 Super) available with 9.9GB free"
    )


async def test_a_simulated_reading_says_so(text_bot: DanzarBot, probe: ScriptedProbe) -> None:
    probe.source = "simulated"
    status = (await answer_to("!gpu status")).embeds[0]
    vision = (await answer_to("!gpu vision")).embeds[0]
    for embed in (status, vision):
        assert "(simulated)" in str(embed.title)
        assert "simulated" in str(embed.footer.text)


async def test_a_failed_reading_shows_the_old_figures_as_old(
    text_bot: DanzarBot, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await text_bot.app_context.gpu_memory_manager.refresh(max_age=0)
    probe.fault = "a GPU is lost"
    clock = text_bot.app_context.gpu_memory_manager._clock  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(
        text_bot.app_context.gpu_memory_manager, "_clock", lambda: clock() + 42, raising=True
    )
    embed = (await answer_to("!gpu status")).embeds[0]
    assert "could not be read just now: a GPU is lost" in str(embed.description)
    assert "42 s old" in str(embed.description)
    assert "read 42 s ago" in str(embed.footer.text)
    assert "📊 Free: 4.9GB" in fields(embed)["Device 0 (RTX 4070):"]


async def test_a_slow_reading_asks_discord_for_time(
    text_bot: DanzarBot, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = threading.Event()
    monkeypatch.setattr(sys.modules["cogs.gpu"], "SLOW_SECONDS", 0.01)
    read = probe.read

    def read_when_deferred(now: float, *, processes: bool) -> MemorySnapshot:
        assert deferred.wait(timeout=30), "Discord was never asked for time"
        return read(now, processes=processes)

    class Asked:
        async def defer(self, *, ephemeral: bool) -> None:
            assert not ephemeral
            deferred.set()

    # An extension's module is executed anew by each bot, so its class is not the one we import.
    cog = cast(Any, text_bot.get_cog("GPU memory"))
    monkeypatch.setattr(probe, "read", read_when_deferred)
    monkeypatch.setattr(cog.manager, "_raw", None)
    reading = await cog.read(Asked())
    assert [device.index for device in reading.devices] == [0, 1]
    assert not reading.failed


async def test_a_machine_without_a_card(text_bot: DanzarBot, probe: ScriptedProbe) -> None:
    probe.cards.clear()
    probe.source = "none"
    await text_bot.app_context.gpu_memory_manager.refresh(max_age=0)
    embed = (await answer_to("!gpu status")).embeds[0]
    assert "vision runs on the CPU" in " ".join(fields(embed))
    vision = (await answer_to("!gpu vision")).embeds[0]
    assert str(vision.description).startswith("Device: cpu\n")


async def test_sixteen_cards_keep_to_discords_limits(
    text_bot: DanzarBot, probe: ScriptedProbe
) -> None:
    long = "x" * 300
    probe.cards[:] = [Card(f"RTX_4070 *{i}* {long}", programs={"a": 11.8}) for i in range(16)]
    await text_bot.app_context.gpu_memory_manager.refresh(max_age=0)
    embed = (await answer_to("!gpu status")).embeds[0]
    assert len(embed) <= 6000
    assert len(embed.fields) <= 25
    assert all(len(str(f.value)) <= 1024 and len(str(f.name)) <= 256 for f in embed.fields)
    assert "page 1 of 2" in str(embed.footer.text)
    assert r"RTX\_4070 \*0\*" in str(embed.fields[0].name)
    assert "more" in fields(embed)["💡 Recommendations:"]


async def test_nonsense_is_told_what_exists(text_bot: DanzarBot) -> None:
    message = await answer_to_mistake("!gpu montior", commands.TooManyArguments)
    assert "no “montior”" in message.content
    assert "Did you mean `!gpu monitor`?" in message.content
    for name in ("status", "vision", "monitor", "log"):
        assert f"`!gpu {name}`" in message.content


async def test_nonsense_pings_nobody(text_bot: DanzarBot) -> None:
    message = await answer_to_mistake("!gpu @everyone", commands.TooManyArguments)
    assert "@everyone" not in message.content
    assert message.embeds == []


async def test_unknown_commands_are_left_to_other_bots(text_bot: DanzarBot) -> None:
    with pytest.raises(commands.CommandNotFound):
        await dpytest.message("!weather")
    assert dpytest.sent_queue.empty()
    close = await answer_to_mistake("!gpuu", commands.CommandNotFound)
    assert close.content == "Did you mean `!gpu`?"


@pytest.mark.parametrize("command", ["gpu monitor", "gpu log", "vision start", "vision stop"])
async def test_control_needs_a_permission(text_bot: DanzarBot, command: str) -> None:
    manager = text_bot.app_context.gpu_memory_manager
    before = manager.monitoring_enabled
    message = await answer_to_mistake(f"!{command}", MayNotControl)
    assert "Manage Server" in message.content
    assert manager.monitoring_enabled is before


async def test_monitor_really_toggles(text_bot: DanzarBot) -> None:
    await become_manager()
    manager = text_bot.app_context.gpu_memory_manager
    assert manager.monitoring_enabled
    off = await answer_to("!gpu monitor")
    assert not manager.monitoring_enabled
    assert "**off**" in off.content
    on = await answer_to("!gpu monitor")
    assert manager.monitoring_enabled
    assert "**on**" in on.content
    assert "every 30 s" in on.content


async def test_log_writes_the_guides_text(
    text_bot: DanzarBot, caplog: pytest.LogCaptureFixture
) -> None:
    await become_manager()
    with caplog.at_level(logging.INFO, logger="danzar_gpu"):
        message = await answer_to("!gpu log")
    assert "2 devices" in message.content
    lines = caplog.text.splitlines()
    for line in ["Device 0 (RTX 4070):", *(f"  {line}" for line in GUIDE_DEVICE_0)]:
        assert line in lines


async def become_manager() -> None:
    """Give member 0 a role that may manage the server."""
    guild = dpytest.get_config().guilds[0]
    permissions = discord.Permissions(manage_guild=True)
    role = dpytest.backend.make_role("Crew", guild, permissions=permissions.value)
    await dpytest.add_role(0, role)


async def test_too_many_questions_are_slowed_down(text_bot: DanzarBot) -> None:
    for _ in range(3):
        await answer_to("!gpu vision")
    message = await answer_to_mistake("!gpu vision", commands.CommandOnCooldown)
    assert message.content.startswith("⏳ Too fast: again in ")


async def test_an_unexpected_error_gets_an_apology_and_a_traceback(
    text_bot: DanzarBot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("a secret of the inside")

    manager = text_bot.app_context.gpu_memory_manager
    monkeypatch.setattr(manager, "get_best_vision_device", broken)
    message = await answer_to_mistake("!gpu vision", commands.CommandInvokeError)
    assert "Sorry" in message.content
    assert "secret" not in message.content
    reference = message.content.split("`")[1]
    assert f"unexpected error {reference} in command 'gpu vision'" in caplog.text
    assert "ZeroDivisionError: a secret of the inside" in caplog.text


async def test_a_message_that_comes_twice_is_answered_once(text_bot: DanzarBot) -> None:
    message = await dpytest.message("!gpu vision")
    the_answer()
    text_bot.dispatch("message", message)
    await dpytest.run_all_events()
    assert dpytest.sent_queue.empty()


async def test_help_lists_commands_and_shows_examples(text_bot: DanzarBot) -> None:
    listed = (await answer_to("!help")).embeds[0]
    text = "\n".join(fields(listed).values())
    assert "`!gpu status`" in text
    assert "`!vision look`" in text
    one = (await answer_to("!help gpu vision")).embeds[0]
    assert "Example: `!gpu vision`" in str(one.description)
    group = (await answer_to("!help gpu")).embeds[0]
    assert "`!gpu log`" in fields(group)["Commands"]


async def test_about_names_licence_and_source(text_bot: DanzarBot) -> None:
    found = fields((await answer_to("!about")).embeds[0])
    assert found["Licence"] == "AGPL-3.0-or-later"
    assert found["Source"].startswith("https://")


async def test_vision_status(text_bot: DanzarBot) -> None:
    embed = (await answer_to("!vision")).embeds[0]
    found = fields(embed)
    assert "Running" in str(embed.description)
    yolo = found["YOLO (yolo-nano.pt)"]
    assert "🟢 running on cuda:1" in yolo
    assert "1.00GB expected, 0.75GB measured" in yolo
    assert "80 frames, 32 ms each" in yolo
    assert "120 captured · 80 analysed · 30 unchanged · 10 dropped" in found["Frames"]


async def test_look_keeps_a_screen_private(text_bot: DanzarBot, vision: ScriptedVision) -> None:
    vision.report = frame_report("screen")
    message = await answer_to("!vision look")
    found = fields(message.embeds[0])
    assert found["Objects"].splitlines() == [
        "**boss**: 92% at (700, 400)",
        "**enemy** × 2: 81% at (150, 200), 62% at (930, 160)",
    ]
    assert found["Insights"].splitlines() == [
        "`▰▰▰▰▰▰▰▰▱▱` 81% a boss fight",
        "`▰▱▱▱▱▱▱▱▱▱` 12% low health",
    ]
    assert "yolo 31 ms" in found["Time"]
    assert message.attachments == []
    assert message.embeds[0].image.url is None
    assert vision.asked_for_image == [False]


async def test_look_without_vision_says_why(text_bot: DanzarBot, vision: ScriptedVision) -> None:
    vision.state = "off"
    message = await answer_to_mistake("!vision look", commands.CommandInvokeError)
    assert "Vision is off" in message.content
