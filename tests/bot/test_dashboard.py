"""The live panel: edited in place, on change only, mended whatever Discord or people do to it."""

from __future__ import annotations

from typing import Any, cast

import discord
import pytest
import simcord

from bot.client import DanzarBot
from danzar_gpu import Footprint
from tests.bot.world import World, in_world, last, world
from tests.gpu_memory.rig import Card, ScriptedProbe

TICK = 10.0


def dashboard(w: World) -> Any:
    """The cog's class is made anew with each load: there is nothing better to call it."""
    return cast(Any, w.bot.get_cog("GPU memory")).dashboard


def panels(w: World, channel: simcord.ChannelHandle | None = None) -> list[discord.Message]:
    return [
        m
        for m in (channel or w.channel).history()
        if m.embeds and "GPU memory, live" in str(m.embeds[0].title)
    ]


def edits(w: World) -> int:
    """Edits of channel messages so far (a button's own answer goes another way)."""
    return sum(r.method == "PATCH" and "/channels/" in r.path for r in w.env.http_requests)


def field(message: discord.Message, name: str) -> str:
    return next(str(f.value) for f in message.embeds[0].fields if f.name == name)


async def open_panel(w: World) -> discord.Message:
    await w.owner.send(w.channel, "!gpu dashboard")
    (panel,) = panels(w)
    return panel


async def minutes(w: World, count: int) -> None:
    """Let time pass in small steps: each has its own limit of real time."""
    for _ in range(count):
        await w.env.advance_time(60)


async def change(w: World, probe: ScriptedProbe, size: float) -> None:
    """Another program takes memory, and a reading sees it."""
    probe.cards[1].programs["game.exe"] = size
    await w.bot.app_context.gpu_memory_manager.refresh(max_age=0)


@in_world
async def test_a_panel_shows_each_card_and_has_its_buttons(w: World) -> None:
    panel = await open_panel(w)
    llm = field(panel, "Device 0 (RTX 4070)")
    assert llm.splitlines() == [
        "🟦🟦🟦🟦🟦🟦🟪🟪🟧⬛⬛⬛ **59%**",
        "🟦 LLM 6.2 · 🟪 promised 1.8 · 🟧 other 0.9 · ⬛ free 3.1 GB",
    ]
    assert "🟧 other 2.1 · ⬛ free 9.9 GB" in field(panel, "Device 1 (RTX 4070 Super)")
    row = panel.components[0]
    assert isinstance(row, discord.ActionRow)
    labels = [b.label for b in row.children if isinstance(b, discord.Button)]
    assert labels == ["Refresh", "History", "Processes", "Pause"]
    assert f"in <#{w.channel.id}>" in last(w).content


@in_world
async def test_it_is_edited_in_place_and_only_on_change(w: World, probe: ScriptedProbe) -> None:
    panel = await open_panel(w)
    await w.env.advance_time(6 * TICK)
    assert edits(w) == 0
    await change(w, probe, 4.0)
    await w.env.advance_time(TICK)
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    await w.env.advance_time(6 * TICK)
    assert edits(w) == 1
    assert [m.id for m in panels(w)] == [panel.id]


@in_world
async def test_it_is_edited_every_ten_seconds_at_most(w: World, probe: ScriptedProbe) -> None:
    await open_panel(w)
    for second in range(60):
        await change(w, probe, 1.0 + second / 20)
        await w.env.advance_time(1)
    assert 5 <= edits(w) <= 7


@in_world
async def test_temperature_power_and_the_last_move_are_shown(w: World) -> None:
    manager = w.bot.app_context.gpu_memory_manager
    lease = await manager.acquire("yolo", Footprint.of_gb(0.5), holder="vision-worker")
    manager.choices.offload("yolo", "Ada")
    panel = await open_panel(w)
    assert field(panel, "Models") == "**yolo** on cuda:1 → cpu"
    moved = field(panel, "Last move")
    assert "yolo leaves cuda:1 for cpu: Ada sent it there" in moved
    assert moved.startswith("<t:")
    assert "yolo kept on the CPU by Ada" in str(panel.embeds[0].footer.text)
    lease.moved()
    await w.env.advance_time(TICK)
    assert field(panels(w)[0], "Models") == "**yolo** on cpu"


@in_world
async def test_it_is_posted_anew_before_it_is_an_hour_old(w: World) -> None:
    first = await open_panel(w)
    await minutes(w, 50)
    assert [m.id for m in panels(w)] == [first.id]
    await minutes(w, 7)
    (second,) = panels(w)
    assert second.id != first.id
    age = second.created_at - first.created_at
    assert age.total_seconds() < 3600


@in_world
async def test_one_that_somebody_deleted_comes_back(w: World) -> None:
    first = await open_panel(w)
    await w.owner.delete(first)
    assert panels(w) == []
    await w.env.advance_time(TICK)
    (second,) = panels(w)
    assert second.id != first.id


@in_world
async def test_one_that_vanished_unnoticed_comes_back_with_the_next_change(
    w: World, probe: ScriptedProbe
) -> None:
    await open_panel(w)
    w.env.inject_error("PATCH", "/channels/*/messages/*", status=404, code=10008)
    await change(w, probe, 4.0)
    await w.env.advance_time(TICK)
    assert "free 5.9 GB" in field(panels(w)[-1], "Device 1 (RTX 4070 Super)")
    await change(w, probe, 5.0)
    await w.env.advance_time(TICK)
    assert "free 4.9 GB" in field(panels(w)[-1], "Device 1 (RTX 4070 Super)")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(500, 0, "500"), (403, 50013, "I may not post there"), (429, 0, "429")],
)
@in_world
async def test_refused_edits_are_tried_again_more_slowly_and_said_once(
    w: World,
    probe: ScriptedProbe,
    status: int,
    code: int,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await open_panel(w)
    w.env.inject_error("PATCH", "/channels/*/messages/*", status=status, code=code, times=3)
    await change(w, probe, 4.0)
    await w.env.advance_time(30 * TICK)
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    assert edits(w) == 4
    warnings = [r for r in caplog.records if "is not up to date" in r.message]
    assert len(warnings) == 1
    assert words in warnings[0].message
    assert "is up to date again" in caplog.text or warnings
    assert w.bot.app_context.gpu_memory_manager.monitoring_enabled
    assert dashboard(w).editor.is_running()
    assert dashboard(w).sampler.is_running()


@in_world
async def test_tries_become_rarer(w: World, probe: ScriptedProbe) -> None:
    await open_panel(w)
    w.env.inject_error("PATCH", "/channels/*/messages/*", status=503, times=None)
    await change(w, probe, 4.0)
    await minutes(w, 10)
    assert 5 <= edits(w) <= 7


@in_world
async def test_a_post_whose_answer_was_lost_is_found_not_doubled(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = w.bot.http.send_message
    lost = 1

    async def losing(channel_id: int, *, params: Any) -> Any:
        nonlocal lost
        answer = await send(channel_id, params=params)
        if lost and "embed" in str(params.payload):
            lost -= 1
            raise ConnectionResetError(104, "the answer was lost")
        return answer

    monkeypatch.setattr(w.bot.http, "send_message", losing)
    await w.owner.send(w.channel, "!gpu dashboard")
    assert "not there yet" in last(w).content
    assert "the answer was lost" in last(w).content
    (orphan,) = panels(w)
    await w.env.advance_time(2 * TICK)
    assert [m.id for m in panels(w)] == [orphan.id]
    assert dashboard(w).panels[w.channel.id].message.message_id == orphan.id


@in_world
async def test_a_post_that_failed_for_good_is_made_later(w: World) -> None:
    w.env.inject_error("POST", f"/channels/{w.channel.id}/messages", status=500, times=1)
    await w.owner.slash(w.channel, "gpu dashboard start")
    assert panels(w) == []
    await w.env.advance_time(3 * TICK)
    assert len(panels(w)) == 1


@in_world
async def test_a_channel_that_is_gone_ends_its_panel_alone(
    w: World, probe: ScriptedProbe, caplog: pytest.LogCaptureFixture
) -> None:
    await open_panel(w)
    other = w.guild.create_text_channel("status")
    await w.owner.send(w.channel, f"!gpu dashboard {other.mention}")
    assert len(panels(w, other)) == 1
    w.env.inject_error(
        "PATCH", f"/channels/{w.channel.id}/messages/*", status=404, code=10003, times=None
    )
    await change(w, probe, 4.0)
    await w.env.advance_time(2 * TICK)
    assert set(dashboard(w).panels) == {other.id}
    assert "is gone" in caplog.text
    assert "free 5.9 GB" in field(panels(w, other)[0], "Device 1 (RTX 4070 Super)")


@in_world
async def test_there_is_one_panel_a_channel(w: World) -> None:
    await open_panel(w)
    await w.env.advance_time(TICK)
    await w.owner.slash(w.channel, "gpu dashboard start")
    assert len(panels(w)) == 1


@in_world
async def test_stop_deletes_it_and_it_stays_away(w: World, probe: ScriptedProbe) -> None:
    await open_panel(w)
    await w.owner.send(w.channel, "!gpu dashboard stop")
    assert panels(w) == []
    await change(w, probe, 4.0)
    await w.env.advance_time(3 * TICK)
    assert panels(w) == []
    await w.env.advance_time(TICK)
    await w.owner.send(w.channel, "!gpu dashboard stop")
    assert "no panel" in last(w).content


@in_world
async def test_it_is_found_again_after_a_restart(w: World, probe: ScriptedProbe) -> None:
    panel = await open_panel(w)
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await change(w, probe, 4.0)
    await w.env.advance_time(2 * TICK)
    assert [m.id for m in panels(w)] == [panel.id]
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    await change(w, probe, 5.0)
    await w.guest.click(panels(w)[0], custom_id="danzar:panel:refresh")
    assert "free 4.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")


@in_world
async def test_buttons_of_a_paused_panel_work_after_a_restart(
    w: World, probe: ScriptedProbe
) -> None:
    panel = await open_panel(w)
    await w.owner.click(panel, label="Pause")
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await change(w, probe, 4.0)
    await w.env.advance_time(3 * TICK)
    assert "free 9.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    await w.owner.click(panels(w)[0], label="Go on")
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")


@in_world
async def test_anybody_may_refresh_but_not_in_a_hurry(w: World, probe: ScriptedProbe) -> None:
    panel = await open_panel(w)
    await change(w, probe, 4.0)
    await w.guest.click(panel, label="Refresh")
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    for _ in range(2):
        await w.guest.click(panel, label="Refresh")
    result = await w.guest.click(panel, label="Refresh")
    assert result.response is not None
    assert result.response.ephemeral
    assert "Too fast" in result.response.content
    await w.env.advance_time(3 * TICK)
    assert edits(w) == 0


@in_world
async def test_processes_come_to_whoever_pressed_alone(w: World) -> None:
    panel = await open_panel(w)
    result = await w.guest.click(panel, label="Processes")
    assert result.response is not None
    assert result.response.ephemeral
    assert "ollama" in str(result.response.embeds[0].description)


@in_world
async def test_pause_needs_control_and_holds_the_figures(w: World, probe: ScriptedProbe) -> None:
    panel = await open_panel(w)
    result = await w.guest.click(panel, label="Pause")
    assert result.response is not None
    assert "Manage Server" in result.response.content
    assert dashboard(w).panels[w.channel.id].paused_by is None
    await w.owner.click(panel, label="Pause")
    assert "**Paused** by owner" in str(panels(w)[0].embeds[0].description)
    await change(w, probe, 4.0)
    await w.env.advance_time(3 * TICK)
    assert "free 9.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")
    assert edits(w) == 0
    await w.owner.click(panels(w)[0], label="Go on")
    assert "free 5.9 GB" in field(panels(w)[0], "Device 1 (RTX 4070 Super)")


@in_world
async def test_buttons_of_a_panel_that_ended_say_so(w: World) -> None:
    panel = await open_panel(w)
    w.env.inject_error("DELETE", "/channels/*/messages/*", status=403, code=50013)
    await w.owner.send(w.channel, "!gpu dashboard stop")
    result = await w.guest.click(panel, label="Refresh")
    assert result.response is not None
    assert "has ended" in result.response.content


@in_world
async def test_a_guest_can_neither_post_nor_end_one(w: World) -> None:
    await w.guest.send(w.channel, "!gpu dashboard")
    await w.guest.send(w.channel, "!gpu dashboard start")
    await w.guest.slash(w.channel, "gpu dashboard start")
    assert panels(w) == []
    await open_panel(w)
    await w.guest.send(w.channel, "!gpu dashboard stop")
    await w.guest.slash(w.channel, "gpu dashboard stop")
    assert len(panels(w)) == 1


@in_world
async def test_a_failing_reading_is_shown_and_the_loops_go_on(
    w: World, probe: ScriptedProbe
) -> None:
    await open_panel(w)
    probe.fault = "a GPU is lost"
    await dashboard(w).read(max_age=0)
    await w.env.advance_time(TICK)
    assert "can't be read now: a GPU is lost" in str(panels(w)[0].embeds[0].description)
    probe.fault = None
    await dashboard(w).read(max_age=0)
    await w.env.advance_time(TICK)
    assert panels(w)[0].embeds[0].description is None


async def test_sixteen_cards_fit_into_one_panel() -> None:
    cards = (Card("RTX *4090* " + "x" * 200, programs={"a": 11.5}) for _ in range(16))
    async with world(ScriptedProbe(*cards)) as w:
        panel = await open_panel(w)
        embed = panel.embeds[0]
        assert len(embed) <= 6000
        assert len([f for f in embed.fields if "Device" in str(f.name)]) == 16
