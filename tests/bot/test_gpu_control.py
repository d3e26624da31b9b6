"""Acting on memory from chat: who may, what is asked first, what is answered, what is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import discord
import pytest
from discord.ext import commands

from bot.client import DanzarBot
from danzar_gpu import Footprint, GPUMemoryManager, Lease
from tests.bot.world import World, in_world, last
from tests.gpu_memory.rig import ScriptedProbe, gb

CHANGES = ("offload yolo", "restore yolo", "trim", "reserve 6", "prefer 0", "reset")
SLASH: dict[str, dict[str, Any]] = {
    "offload": {"model": "yolo"},
    "restore": {"model": "yolo"},
    "trim": {},
    "reserve": {"size": "6"},
    "prefer": {"card": "cuda:0"},
    "reset": {},
}


def manager_of(w: World) -> GPUMemoryManager:
    return w.bot.app_context.gpu_memory_manager


async def loaded(w: World, probe: ScriptedProbe, size: float = 0.75) -> Lease:
    """YOLO on the second card, as its worker would hold it."""
    manager = manager_of(w)
    lease = await manager.acquire("yolo", Footprint.of_gb(size), holder="vision-worker")
    manager.holder_memory("vision-worker", 77, {})
    probe.cards[1].ours[77] = gb(size)
    await manager.refresh(max_age=0)
    return lease


def fields(message: discord.Message) -> dict[str, str]:
    return {str(f.name): str(f.value) for f in message.embeds[0].fields}


@pytest.mark.parametrize("words", CHANGES)
@in_world
async def test_without_permission_nothing_changes(
    w: World, probe: ScriptedProbe, words: str
) -> None:
    lease = await loaded(w, probe)
    manager = manager_of(w)
    manager.choices.reserve(7.0, "Ada")
    before = (manager.config, manager.choices.made, lease.device, lease.target)
    await w.guest.send(w.channel, f"!gpu {words}")
    assert "Manage Server" in last(w).content
    name = words.split()[0]
    result = await w.guest.slash(w.channel, f"gpu {name}", **SLASH[name])
    assert result.response is not None
    assert "Manage Server" in result.response.content
    assert (manager.config, manager.choices.made, lease.device, lease.target) == before


@pytest.mark.parametrize("words", ["offload yolo", "reserve 6", "reset"])
@in_world
async def test_what_hurts_is_asked_and_only_whoever_asked_may_say_yes(
    w: World, probe: ScriptedProbe, words: str
) -> None:
    await loaded(w, probe)
    manager = manager_of(w)
    manager.choices.prefer("cuda:0", "Ada")
    before = (manager.config, manager.choices.made)
    await w.owner.send(w.channel, f"!gpu {words}")
    question = last(w)
    assert question.content.startswith("❓")
    row = question.components[0]
    assert isinstance(row, discord.ActionRow)
    yes = row.children[0]
    assert isinstance(yes, discord.Button)
    result = await w.guest.click(question, custom_id=yes.custom_id)
    assert result.response is not None
    assert "belong to whoever asked" in result.response.content
    assert (manager.config, manager.choices.made) == before
    await w.owner.click(question, label="Cancel")
    assert last(w).content == "Nothing was changed."
    assert (manager.config, manager.choices.made) == before


@in_world
async def test_who_lost_the_right_meanwhile_can_not_say_yes(w: World, probe: ScriptedProbe) -> None:
    await loaded(w, probe)
    role = w.guild.create_role("Crew", permissions=discord.Permissions(manage_guild=True))
    crew = w.guild.add_member(w.env.create_user("crew"), roles=[role])
    await crew.send(w.channel, "!gpu offload yolo")
    question = last(w)
    w.env.backend.get_guild(w.guild.id).members[crew.id].role_ids.clear()
    result = await crew.click(question, label="Offload")
    assert result.response is not None
    assert "Manage Server" in result.response.content
    assert manager_of(w).choices.made == ()


@in_world
async def test_a_question_ends_by_itself(w: World, probe: ScriptedProbe) -> None:
    await loaded(w, probe)
    await w.owner.send(w.channel, "!gpu offload yolo")
    await w.env.advance_time(61)
    row = last(w).components[0]
    assert isinstance(row, discord.ActionRow)
    assert all(isinstance(b, discord.Button) and b.disabled for b in row.children)
    assert manager_of(w).choices.made == ()


@in_world
async def test_offload_tells_figures_before_and_after(w: World, probe: ScriptedProbe) -> None:
    lease = await loaded(w, probe)

    def arrive(_snapshot: object) -> None:
        """The worker, as the manager sees it: it follows, and its memory becomes free."""
        if lease.target is not None:
            probe.cards[1].ours.clear()
            lease.moved()

    manager = manager_of(w)
    revoked = lease.revoked.set
    lease.revoked.set = lambda: (revoked(), arrive(None))  # type: ignore[method-assign]
    await w.owner.send(w.channel, "!gpu offload YOLO")
    await w.owner.click(last(w), label="Offload")
    answer = last(w)
    assert answer.embeds[0].title == "⬇️ yolo to the CPU"
    assert "is on **cpu**: owner sent it there" in str(answer.embeds[0].description)
    found = fields(answer)
    assert "Device 1 (RTX 4070 Super): 9.15GB free, 0.75GB held by vision" in found["Before"]
    assert "yolo: cuda:1, 0.75GB" in found["Before"]
    assert "Device 1 (RTX 4070 Super): 9.90GB free\n" in found["After"]
    assert "yolo: cpu, 0.75GB" in found["After"]
    assert [(c.key, c.who) for c in manager.choices.made] == [("offload:yolo", "owner")]
    assert any(e.text == "owner sent yolo to the CPU" for e in manager.events)
    await w.owner.send(w.channel, "!gpu status")
    assert "yolo kept on the CPU by owner" in str(last(w).embeds[0].footer.text)


@in_world
async def test_a_model_that_takes_its_time_is_said_to_be_on_its_way(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogs.gpu_parts.control.MOVE_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr("cogs.gpu_parts.control.LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr("cogs.gpu_parts.control.RELEASE_SECONDS", 0.0)
    await loaded(w, probe)
    await w.owner.send(w.channel, "!gpu offload yolo")
    await w.owner.click(last(w), label="Offload")
    answer = last(w)
    assert "is still on cuda:1, on its way to cpu" in str(answer.embeds[0].description)
    assert "yolo: cuda:1 → cpu (on its way)" in fields(answer)["After"]


@in_world
async def test_restore_lets_it_back(w: World, probe: ScriptedProbe) -> None:
    lease = await loaded(w, probe)
    manager = manager_of(w)
    manager.choices.offload("yolo", "Ada")
    lease.moved()
    revoked = lease.revoked.set
    lease.revoked.set = lambda: (revoked(), lease.moved())  # type: ignore[method-assign]
    await w.owner.send(w.channel, "!gpu restore yolo")
    answer = last(w)
    assert "is on **cuda:1**" in str(answer.embeds[0].description)
    assert "yolo: cpu" in fields(answer)["Before"]
    assert manager.choices.made == ()
    assert any(e.text == "owner let yolo back on a card" for e in manager.events)


@in_world
async def test_there_is_nothing_to_restore_on_a_card(w: World, probe: ScriptedProbe) -> None:
    await loaded(w, probe)
    await w.owner.send(w.channel, "!gpu restore yolo")
    assert "yolo was not sent to the CPU: it is on cuda:1. Nothing was changed." in last(w).content


@in_world
async def test_reserve_changes_what_is_kept_and_says_so(w: World) -> None:
    manager = manager_of(w)
    await w.owner.send(w.channel, "!gpu reserve 6.5 GB")
    assert "Only 6.5GB instead of 8.0GB" in last(w).content
    await w.owner.click(last(w), label="Reserve")
    answer = last(w)
    assert "**8.0GB** before, **6.5GB** now" in str(answer.embeds[0].description)
    assert "1.80GB of it promised to the LLM" in fields(answer)["Before"]
    assert "0.30GB of it promised to the LLM" in fields(answer)["After"]
    assert manager.config.main_llm_memory_reservation_gb == 6.5
    await w.owner.send(w.channel, "!gpu models")
    assert "reservation 6.5GB by owner" in str(last(w).embeds[0].footer.text)


@in_world
async def test_reserve_auto_follows_the_llm(w: World) -> None:
    await w.owner.send(w.channel, "!gpu reserve auto")
    await w.owner.click(last(w), label="Reserve")
    assert manager_of(w).config.main_llm_memory_reservation_gb == "auto"
    assert "learned" in str(last(w).embeds[0].description)


@in_world
async def test_prefer_takes_a_card_by_its_number(w: World) -> None:
    await w.owner.send(w.channel, "!gpu prefer 0")
    assert "preferred **cuda:1** and now prefers **cuda:0**" in str(last(w).embeds[0].description)
    assert manager_of(w).config.vision_device == "cuda:0"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("offload whisper", "I know no model “whisper”. There are: yolo."),
        ("prefer 7", "There is no card “7” here. There are: cuda:0, cuda:1."),
        ("prefer @everyone", "There is no card “"),
        ("reserve much", "is a number of GB between 0 and 1024, or auto"),
        ("reserve -1", "is a number of GB"),
        ("reserve nan", "is a number of GB"),
        ("reserve 1e9", "is a number of GB"),
        ("fit inf", "A size is a number of GB between 0.01 and 1024"),
        ("fit nan", "A size is a number of GB"),
        ("fit -1", "A size is a number of GB"),
        ("fit 2 MB", "A size is a number of GB"),
        ("fit whisper", "I know no model “whisper”"),
        ("fit", "`what` is missing: write `!gpu fit <what>`, for example `!gpu fit 2.5`."),
        ("fit", "See `!help gpu fit`"),
        ("offload", "`model` is missing: write `!gpu offload <model>`"),
        ('offload "yolo', "The quotation marks don't go together"),
        ("restore yolo", "yolo was not sent to the CPU: it is not loaded. Nothing was changed."),
        ("history 3w", "“3w” is no time span. There are: 15m, 1h,"),
        ("history cuda:9", "There is no card “cuda:9” here"),
        ("history 3w cuda:1", "is no time span. There are: 15m, 1h, 24h, 7d, 30d, 1y."),
        ("alerts level everything", "“everything” is not one of all, important, critical."),
        ("alerts mute 2h", "No alerts come to this channel"),
        ("alerts here @Nobody", "“@Nobody” can't stand here: write `!gpu alerts here [mention]`"),
        ("dashboard #nowhere", "There is no “#nowhere” here."),
        ("dashboard stop #nowhere", "“#nowhere” can't stand here"),
    ],
)
@in_world
async def test_mistakes_are_told_what_there_is(w: World, typed: str, said: str) -> None:
    manager = manager_of(w)
    before = (manager.config, manager.choices.made)
    await w.owner.send(w.channel, f"!gpu {typed}")
    answer = last(w)
    assert answer.author.bot
    assert said in answer.content.replace("\\", "")
    assert "@everyone" not in answer.content
    assert (manager.config, manager.choices.made) == before


@in_world
async def test_reset_goes_back_and_tells_what_was_undone(w: World, probe: ScriptedProbe) -> None:
    await loaded(w, probe)
    manager = manager_of(w)
    await w.owner.send(w.channel, "!gpu reset")
    assert "all is as configured" in last(w).content
    manager.choices.reserve(5.0, "Ada")
    manager.choices.prefer("cuda:0", "Bo")
    await w.owner.send(w.channel, "!gpu reset")
    assert "by Ada" in last(w).content
    assert "by Bo" in last(w).content
    await w.owner.click(last(w), label="Reset")
    assert manager.choices.made == ()
    assert manager.config.main_llm_memory_reservation_gb == 8.0
    assert manager.config.vision_device == "cuda:1"
    assert "by Ada" in str(last(w).embeds[0].description)


@in_world
async def test_choices_hold_after_a_restart_of_the_bot(w: World) -> None:
    await w.owner.send(w.channel, "!gpu prefer 0")
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await w.guest.send(w.channel, "!gpu status")
    assert "cuda:0 preferred by owner" in str(last(w).embeds[0].footer.text)


@in_world
async def test_trim_tells_what_was_given_back(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trim() -> tuple[int, int]:
        return gb(1.5), gb(0.5)

    monkeypatch.setattr(cast(Any, w.bot.app_context.vision), "trim", trim, raising=False)
    await w.owner.send(w.channel, "!gpu trim")
    assert "gave back 1.00GB: it held 1.50GB and now holds 0.50GB" in str(
        last(w).embeds[0].description
    )
    assert any("had unused memory given back" in e.text for e in manager_of(w).events)


EVERY_ACT: dict[str, dict[str, Any]] = {
    "gpu monitor": {},
    "gpu log": {},
    "gpu offload": {"model": "yolo"},
    "gpu restore": {"model": "yolo"},
    "gpu trim": {},
    "gpu reserve": {"size": "6"},
    "gpu prefer": {"card": "cuda:0"},
    "gpu reset": {},
    "gpu dashboard start": {},
    "gpu dashboard stop": {},
    "gpu alerts here": {},
    "gpu alerts level": {"level": "all"},
    "gpu alerts mute": {"time": "1h"},
    "gpu alerts off": {},
    "gpu reload": {},
    "vision concepts set": {"phrases": "a; b"},
    "vision concepts profile": {"name": "default"},
    "vision concepts reset": {},
    "vision watch add": {"what": "boss"},
    "vision watch remove": {"number": 1},
    "vision stop": {},
    "vision start": {},
}


@in_world
async def test_answers_to_what_acts_are_for_whoever_asked_alone(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def trim() -> tuple[int, int]:
        return gb(1.5), gb(0.5)

    monkeypatch.setattr("cogs.gpu_parts.control.RELEASE_SECONDS", 0.0)
    monkeypatch.setattr(cast(Any, w.bot.app_context.vision), "trim", trim, raising=False)
    w.bot.app_context.config_path = tmp_path / "mine.yaml"
    await asyncio.to_thread(w.bot.app_context.config_path.touch)
    w.bot.owner_id = w.owner.id
    await loaded(w, probe)
    for name, options in EVERY_ACT.items():
        before = w.channel.last_message
        result = await w.owner.slash(w.channel, name, **options)
        assert result.response is not None, name
        assert result.response.ephemeral, name
        if name not in ("gpu dashboard start", "gpu dashboard stop"):
            assert w.channel.last_message == before, name


@in_world
async def test_every_command_that_acts_is_in_that_list(w: World) -> None:
    """Whatever has a check acts; so that a new one can't be forgotten there."""
    acting = {
        command.qualified_name
        for command in w.bot.walk_commands()
        if command.checks
        and not isinstance(command, commands.Group)
        and isinstance(command, commands.HybridCommand)
    }
    assert acting | {"vision watch add"} == set(EVERY_ACT)
