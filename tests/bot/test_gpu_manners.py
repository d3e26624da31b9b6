"""``!gpu`` at its worst: sixteen cards, hundreds of processes, names that mean harm, strangers."""

from __future__ import annotations

from typing import Any, cast

import discord
import pytest

from danzar_gpu import Footprint
from tests.bot.doubles import ScriptedVision
from tests.bot.test_gpu_control import EVERY_ACT, loaded, manager_of
from tests.bot.test_vision_commands import EVIL, pings_nobody, text_of, within_limits
from tests.bot.world import World, in_world, last, world
from tests.gpu_memory.rig import Card, ScriptedProbe

ACTS = {name.partition(" ")[2]: options for name, options in EVERY_ACT.items() if "gpu" in name}
LOOKS = ("status", "vision", "processes", "models", "fit 2", "fit yolo", "alerts", "profile")


def crowded() -> ScriptedProbe:
    """Sixteen cards, more than two hundred processes; the names are markup and mentions."""
    programs = {f"{EVIL} {i} {'y' * 200}": 0.8 for i in range(13)}
    return ScriptedProbe(*(Card(f"{EVIL} {i} {'x' * 200}", programs=programs) for i in range(16)))


def decent(message: discord.Message) -> bool:
    return (
        all(within_limits(embed) for embed in message.embeds)
        and len(message.content) <= 2000
        and pings_nobody(message)
        and not any("**x**" in text for text in rendered(message))
    )


def rendered(message: discord.Message) -> list[str]:
    """Where Discord renders markup: everywhere but in footers."""
    texts = [message.content]
    for embed in message.embeds:
        texts += [embed.title or "", embed.description or ""]
        texts += [f"{field.name}\n{field.value}" for field in embed.fields]
    return texts


async def test_names_do_no_harm_and_limits_hold_in_every_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogs.gpu_parts.control.MOVE_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr("cogs.gpu_parts.control.LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr("cogs.gpu_parts.control.RELEASE_SECONDS", 0.0)
    async with world(crowded(), ScriptedVision()) as w:
        manager = manager_of(w)
        crew = w.env.create_user("crew", global_name=EVIL[:32])
        role = w.guild.create_role(EVIL, permissions=discord.Permissions(manage_guild=True))
        evil = w.guild.add_member(crew, roles=[role])
        await manager.acquire(EVIL, Footprint.of_gb(0.1), holder=EVIL)
        for number in range(6):
            await manager.acquire(f"{EVIL} {number} {'z' * 150}", Footprint.of_gb(0.01))
        manager.choices.reserve(3.0, EVIL)
        manager.choices.offload(EVIL, EVIL)
        for typed in LOOKS:
            await w.env.advance_time(11)
            await evil.send(w.channel, f"!gpu {typed}")
            assert last(w).author.bot, typed
            assert decent(last(w)), (typed, text_of(last(w)))
        for typed, button in (
            (f'offload "{EVIL}"', "Offload"),
            (f'restore "{EVIL}"', ""),
            ("reserve 2", "Reserve"),
            ("prefer 15", ""),
            ("alerts here", ""),
            ("log", ""),
            ("trim", ""),
            ("dashboard", ""),
            ("reset", "Reset"),
        ):
            await w.env.advance_time(11)
            await evil.send(w.channel, f"!gpu {typed}")
            assert decent(last(w)), (typed, text_of(last(w)))
            if button:
                await evil.click(last(w), label=button)
                assert decent(last(w)), (typed, text_of(last(w)))
        await w.env.advance_time(60)
        shown = [m for m in w.channel.history() if m.author.bot]
        assert any("live panel" in text_of(m) for m in shown)
        assert all(decent(m) for m in shown)


async def test_pages_of_the_crowd_are_decent_to_the_last() -> None:
    async with world(crowded()) as w:
        await w.guest.send(w.channel, "!gpu processes")
        pages = int(str(last(w).embeds[0].footer.text).rpartition("of ")[2])
        assert pages > 10
        for _ in range(pages - 1):
            await w.guest.click(last(w), label="Next")
            assert decent(last(w))
        await w.guest.send(w.channel, "!gpu status")
        await w.guest.click(last(w), label="Next")
        assert "page 2 of 2" in text_of(last(w))
        assert decent(last(w))


@pytest.mark.parametrize("words", ACTS)
@in_world
async def test_who_may_not_changes_nothing_in_either_way(
    w: World, probe: ScriptedProbe, words: str
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await w.owner.send(w.channel, "!gpu dashboard")
    lease = await loaded(w, probe)
    before = standing(w), lease.device, lease.target
    refused = ("Manage Server", "Only the bot's owner")
    typed = " ".join(map(str, ACTS[words].values()))
    await w.guest.send(w.channel, f"!gpu {words} {typed}".strip())
    assert any(said in last(w).content for said in refused)
    result = await w.guest.slash(w.channel, f"gpu {words}", **ACTS[words])
    assert result.response is not None
    assert result.response.ephemeral
    assert any(said in result.response.content for said in refused)
    assert (standing(w), lease.device, lease.target) == before


def standing(w: World) -> tuple[Any, ...]:
    """All that a command of ``!gpu`` can change."""
    manager, cog = manager_of(w), cast(Any, w.bot.get_cog("GPU memory"))
    return (
        manager.config,
        manager.choices.made,
        manager.monitoring_enabled,
        {channel: listener.entry for channel, listener in cog.alert_desk.listeners.items()},
        {channel: panel.entry for channel, panel in cog.dashboard.panels.items()},
        w.bot.app_context.settings,
    )


@in_world
async def test_in_direct_messages_one_may_look_but_only_the_owner_acts(w: World) -> None:
    def answer() -> str:
        message = w.guest.user.dm_channel.last_message
        assert message is not None
        return text_of(message)

    for typed, said in (
        ("status", "GPU Memory Status"),
        ("models", "Main LLM"),
        ("monitor", "only the bot's owner"),
        ("dashboard", "only the bot's owner"),
        ("alerts here", "only the bot's owner"),
    ):
        await w.guest.send_dm(f"!gpu {typed}")
        assert said in answer(), typed
    assert manager_of(w).monitoring_enabled
    w.bot.owner_id = w.guest.id
    await w.env.advance_time(11)
    await w.guest.send_dm("!gpu monitor")
    assert not manager_of(w).monitoring_enabled
    await w.guest.send_dm("!gpu alerts here")
    assert "Alerts come here" in answer()


@in_world
async def test_a_command_that_comes_twice_acts_once(w: World) -> None:
    manager = manager_of(w)
    await w.owner.send(w.channel, "!gpu monitor")
    assert not manager.monitoring_enabled
    question = next(m for m in w.channel.history() if m.content == "!gpu monitor")
    w.bot.dispatch("message", question)
    await w.env.settle()
    assert not manager.monitoring_enabled, "not switched on again"


async def test_another_prefix_is_used_in_every_hint() -> None:
    async with world() as w:
        settings = w.bot.app_context.settings
        discord_settings = settings.discord.model_copy(update={"prefix": "gg "})
        w.bot.app_context.settings = settings.model_copy(update={"discord": discord_settings})
        w.bot.owner_id = w.owner.id
        for typed in ("alerts", "alerts mute 2h", "monitor", "history", "offload yolo"):
            await w.env.advance_time(11)
            await w.owner.send(w.channel, f"gg gpu {typed}")
            shown = text_of(last(w))
            assert last(w).author.bot, typed
            assert "`gg gpu " in shown or "`gg vision " in shown, (typed, shown)
            assert "`!" not in shown
            assert "`gpu " not in shown
        await w.owner.send(w.channel, "gg vision stop")
        await w.env.settle()
        await w.owner.send(w.channel, "gg vision look")
        assert "`gg vision start` starts it" in text_of(last(w))
