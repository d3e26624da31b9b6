"""Alerts in chat: opened once, edited, resolved; muted, levelled, and safe from REST faults."""

from __future__ import annotations

from typing import Any, cast

import discord
import pytest

from bot.client import DanzarBot
from danzar_gpu import Footprint
from danzar_gpu.history import Event
from tests.bot.world import World, in_world, last
from tests.gpu_memory.rig import ScriptedProbe

FULL = 9.5
"""GiB that a game takes on the second card: 95% are used then."""


def desk(w: World) -> Any:
    return cast(Any, w.bot.get_cog("GPU memory")).alert_desk


def alerts(w: World) -> list[discord.Message]:
    return [
        m
        for m in w.channel.history()
        if m.embeds and str(m.embeds[0].footer.text).startswith("alert ")
    ]


async def fill(w: World, probe: ScriptedProbe, size: float) -> None:
    probe.cards[1].programs["game.exe"] = size
    await w.bot.app_context.gpu_memory_manager.refresh(max_age=0)


@in_world
async def test_an_alert_is_one_message_from_beginning_to_end(
    w: World, probe: ScriptedProbe
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(10)
    assert alerts(w) == []
    await w.env.advance_time(10)
    (opened,) = alerts(w)
    assert opened.embeds[0].title == "⚠️ GPU memory is nearly full"
    assert "Device 1 (RTX 4070 Super) is 97% full" in str(opened.embeds[0].description)
    assert opened.content == ""

    await fill(w, probe, FULL - 0.4)
    await w.env.advance_time(15)
    (edited,) = alerts(w)
    assert edited.id == opened.id
    assert "is 93% full" in str(edited.embeds[0].description)
    assert "97% full" in str(edited.embeds[0].fields[1].value)

    await fill(w, probe, 0.0)
    await w.env.advance_time(50)
    (over,) = alerts(w)
    assert over.id == opened.id
    assert str(over.embeds[0].title).startswith("✅ Over")
    await w.env.advance_time(150)
    assert len(alerts(w)) == 1


@in_world
async def test_a_data_folder_in_trouble_is_told(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    manager = w.bot.app_context.gpu_memory_manager
    with monkeypatch.context() as full:
        full.setattr(type(manager), "storage_trouble", "/home/ada/history.sqlite3 can't be written")
        await w.env.advance_time(10)
        (opened,) = alerts(w)
        assert opened.embeds[0].title == "⚠️ Danzar's data is in trouble"
        assert "kept in memory only" in str(opened.embeds[0].description)
        assert "ada" not in str(opened.embeds[0].description), "a path is nobody's business"
    await w.env.advance_time(60)
    (over,) = alerts(w)
    assert over.embeds[0].title == "✅ Over: Danzar's data is in trouble"


@in_world
async def test_what_was_lost_with_a_damaged_file_is_told(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    words = "history.sqlite3 was damaged; taken over from it: 3 settings"
    event = Event(discord.utils.utcnow().timestamp(), "history-damaged", words)
    w.bot.app_context.gpu_memory_manager.events.append(event)
    await w.env.advance_time(10)
    (opened,) = alerts(w)
    assert words in str(opened.embeds[0].description)


@in_world
async def test_what_flickers_is_one_alert(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    for n in range(40):
        await fill(w, probe, FULL if n % 2 else 0.0)
        await w.env.advance_time(5)
    assert len(alerts(w)) <= 1


@in_world
async def test_nobody_is_told_who_did_not_ask(w: World, probe: ScriptedProbe) -> None:
    await fill(w, probe, FULL)
    await w.env.advance_time(60)
    assert alerts(w) == []
    await w.guest.send(w.channel, "!gpu alerts here")
    await w.guest.slash(w.channel, "gpu alerts here")
    await w.env.advance_time(60)
    assert alerts(w) == []
    await w.owner.slash(w.channel, "gpu alerts here")
    await w.env.advance_time(20)
    assert len(alerts(w)) == 1
    await w.guest.slash(w.channel, "gpu alerts off")
    assert w.channel.id in desk(w).listeners
    await w.owner.slash(w.channel, "gpu alerts off")
    assert desk(w).listeners == {}


@in_world
async def test_a_role_is_mentioned_once_and_only_if_asked_for(
    w: World, probe: ScriptedProbe
) -> None:
    crew = w.guild.create_role("Crew")
    await w.owner.slash(w.channel, "gpu alerts here", mention=crew)
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    (opened,) = alerts(w)
    assert opened.content == f"<@&{crew.id}>"
    posts = [
        r
        for r in w.env.http_requests
        if r.method == "POST" and str(crew.id) in str(r.json) and "messages" in r.path
    ]
    assert len(posts) == 1
    allowed = cast(Any, posts[0].json)["allowed_mentions"]
    assert [int(role) for role in allowed["roles"]] == [crew.id]
    assert allowed["parse"] == []


@in_world
async def test_a_level_leaves_the_smaller_ones_out(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await w.owner.send(w.channel, "!gpu alerts level critical")
    await fill(w, probe, FULL)
    await w.env.advance_time(60)
    assert alerts(w) == []
    probe.cards[0].programs["game.exe"] = 4.5
    await fill(w, probe, 0.0)
    await w.env.advance_time(20)
    (alert,) = alerts(w)
    assert alert.embeds[0].title == "🚨 The main LLM is short of room"


@in_world
async def test_a_mute_holds_new_ones_back_until_it_is_over(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await w.owner.send(w.channel, "!gpu alerts mute 10m")
    await fill(w, probe, FULL)
    for _ in range(59):
        await w.env.advance_time(10)
    assert alerts(w) == []
    await w.env.advance_time(20)
    assert len(alerts(w)) == 1
    await w.owner.send(w.channel, "!gpu alerts mute soon")
    assert "is no time" in last(w).content


@in_world
async def test_a_model_on_the_cpu_is_told_but_not_when_somebody_sent_it(w: World) -> None:
    manager = w.bot.app_context.gpu_memory_manager
    await w.owner.send(w.channel, "!gpu alerts here")
    await manager.acquire("clip", Footprint.of_gb(40), holder="vision-worker")
    manager.choices.offload("yolo", "Ada")
    await manager.acquire("yolo", Footprint.of_gb(0.5), holder="vision-worker")
    await w.env.advance_time(15)
    (alert,) = alerts(w)
    assert alert.embeds[0].title == "⚠️ A model runs on the CPU"
    assert "clip runs on the CPU" in str(alert.embeds[0].description)


@in_world
async def test_a_worker_that_fell_is_told(w: World) -> None:
    manager = w.bot.app_context.gpu_memory_manager
    await w.owner.send(w.channel, "!gpu alerts here")
    await manager.acquire("yolo", Footprint.of_gb(0.5), holder="vision-worker")
    manager.holder_gone("vision-worker", "it was silent for 20 s")
    await w.env.advance_time(5)
    (alert,) = alerts(w)
    assert "it was silent for 20 s" in str(alert.embeds[0].description)
    await w.env.advance_time(120)
    assert str(alerts(w)[0].embeds[0].title).startswith("✅ Over")


@in_world
async def test_a_driver_in_trouble_is_told(w: World, probe: ScriptedProbe) -> None:
    manager = w.bot.app_context.gpu_memory_manager
    await w.owner.send(w.channel, "!gpu alerts here")
    probe.fault = "a GPU is lost"
    with pytest.raises(Exception, match="lost"):
        await manager.refresh(max_age=0)
    await w.env.advance_time(15)
    assert "a GPU is lost" in str(alerts(w)[0].embeds[0].description)


@in_world
async def test_alerts_and_open_messages_outlive_a_restart(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    (opened,) = alerts(w)
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await w.env.advance_time(30)
    assert [m.id for m in alerts(w)] == [opened.id]
    await fill(w, probe, 0.0)
    await w.env.advance_time(60)
    (over,) = alerts(w)
    assert over.id == opened.id
    assert str(over.embeds[0].title).startswith("✅ Over")


@in_world
async def test_what_ended_while_the_bot_was_away_is_brought_to_its_end(
    w: World, probe: ScriptedProbe
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    (opened,) = alerts(w)
    await fill(w, probe, 0.0)
    w.bot = DanzarBot(w.bot.app_context)
    await w.env.restart_bot(w.bot)
    await w.env.advance_time(60)
    (over,) = alerts(w)
    assert over.id == opened.id
    assert str(over.embeds[0].title) == "✅ Over: GPU memory is nearly full"


@pytest.mark.parametrize(("status", "code"), [(500, 0), (403, 50013), (429, 0)])
@in_world
async def test_a_refused_post_is_made_later(
    w: World, probe: ScriptedProbe, status: int, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    w.env.inject_error("POST", "/channels/*/messages", status=status, code=code, times=2)
    await fill(w, probe, FULL)
    await w.env.advance_time(120)
    assert len(alerts(w)) == 1
    assert caplog.text.count("is not up to date") == 1
    assert desk(w).watcher.is_running()


@in_world
async def test_a_deleted_alert_is_posted_again_but_not_its_end(
    w: World, probe: ScriptedProbe
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    await w.owner.delete(alerts(w)[0])
    await fill(w, probe, FULL - 0.4)
    await w.env.advance_time(20)
    assert len(alerts(w)) == 1
    await w.owner.delete(alerts(w)[0])
    await fill(w, probe, 0.0)
    await w.env.advance_time(120)
    assert alerts(w) == []


@in_world
async def test_a_channel_that_is_gone_hears_no_more(
    w: World, probe: ScriptedProbe, caplog: pytest.LogCaptureFixture
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    w.env.inject_error("POST", "/channels/*/messages", status=404, code=10003)
    await fill(w, probe, FULL)
    await w.env.advance_time(30)
    assert desk(w).listeners == {}
    assert "is gone" in caplog.text


@in_world
async def test_what_is_wrong_now_is_shown_on_request(w: World, probe: ScriptedProbe) -> None:
    await w.guest.send(w.channel, "!gpu alerts")
    assert "No alerts come to this channel" in str(last(w).embeds[0].description)
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    await w.guest.slash(w.channel, "gpu alerts status")
    embed = last(w).embeds[0]
    assert "97% full" in str(embed.fields[0].value)
    assert "**all**" in str(embed.description)
    await w.guest.send(w.channel, "!gpu alerts nonsense")
    assert "There is no “nonsense” here." in last(w).content


@in_world
async def test_an_alert_whose_post_was_not_answered_is_not_doubled(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    send, lost = w.bot.http.send_message, 1

    async def losing(channel_id: int, *, params: Any) -> Any:
        nonlocal lost
        answer = await send(channel_id, params=params)
        if lost:
            lost -= 1
            raise ConnectionResetError(104, "the answer was lost")
        return answer

    monkeypatch.setattr(w.bot.http, "send_message", losing)
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    (orphan,) = alerts(w)
    await w.env.advance_time(30)
    await fill(w, probe, FULL - 0.4)
    await w.env.advance_time(30)
    (shown,) = alerts(w)
    assert shown.id == orphan.id
    assert "is 93% full" in str(shown.embeds[0].description)


@pytest.mark.parametrize(("status", "code"), [(500, 0), (403, 50013), (404, 10008), (429, 0)])
@in_world
async def test_a_refused_edit_of_an_alert_is_made_later(
    w: World, probe: ScriptedProbe, status: int, code: int
) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    w.env.inject_error("PATCH", "/channels/*/messages/*", status=status, code=code, times=1)
    await fill(w, probe, FULL - 0.4)
    await w.env.advance_time(60)
    assert "is 93% full" in str(alerts(w)[-1].embeds[0].description)
    assert desk(w).watcher.is_running()


@in_world
async def test_an_alert_says_what_to_do_until_it_is_over(w: World, probe: ScriptedProbe) -> None:
    await w.owner.send(w.channel, "!gpu alerts here")
    await fill(w, probe, FULL)
    await w.env.advance_time(20)
    (opened,) = alerts(w)
    assert "`!gpu processes` shows who holds it" in str(opened.embeds[0].description)
    assert "!gpu alerts mute 2h" in str(opened.embeds[0].footer.text)
    await fill(w, probe, 0.0)
    await w.env.advance_time(60)
    (over,) = alerts(w)
    assert str(over.embeds[0].description).startswith("Last seen: Device 1")
    assert "gpu" not in str(over.embeds[0].footer.text)
