"""``!gpu profile`` and ``!gpu reload``: what is known of the models, and a new configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot import profile
from bot.observability import logs
from bot.profile import ModelProfile, MoveLine, Timing
from tests.bot.test_vision_commands import EVIL, pings_nobody, text_of, within_limits
from tests.bot.world import World, in_world, last


def known(**changes: Any) -> ModelProfile:
    values: dict[str, Any] = {
        "model": "yolo-nano.pt fp32 640px x4",
        "service": "yolo",
        "device_name": "RTX 4070 Super",
        "predicted_bytes": 1 << 30,
        "measured_bytes": 3 << 28,
        "measurements": 5,
        "fell_bytes": None,
        "load": Timing(3, 1.25, 2.5),
        "offload": Timing(1, 0.0125, 0.0125),
        "restore": None,
        "move": None,
        "frames": 80,
        "p50_ms": 31.4,
        "p95_ms": 44.6,
        "p99_ms": 60.0,
        "moves": (
            MoveLine(1000.0, "load", "", "RTX 4070 Super", 1.25, 1 << 30, "room for it"),
            MoveLine(2000.0, "offload", "RTX 4070 Super", "CPU", 0.0125, 1 << 30, "a game came"),
        ),
    }
    return ModelProfile(**{**values, **changes})


def profiled(monkeypatch: pytest.MonkeyPatch, *found: ModelProfile) -> None:
    async def profiles(_context: object) -> tuple[ModelProfile, ...]:
        return found

    monkeypatch.setattr(profile, "profiles", profiles, raising=False)


@in_world
async def test_a_profile_tells_memory_times_and_moves(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled(monkeypatch, known())
    await w.guest.send(w.channel, "!gpu profile")
    typed = last(w).embeds[0]
    assert typed.fields[0].name == "YOLO (yolo-nano.pt fp32 640px x4) on RTX 4070 Super"
    assert str(typed.fields[0].value).splitlines() == [
        "memory: 1.00GB predicted · 0.75GB measured (5×)",
        "time: load 1.2 s (3×, 2.5 s at worst) · leave 12 ms (once)",
        "80 frames: 31 ms each, 95% within 45 ms, 99% within 60 ms",
        "<t:2000:R> leave: RTX 4070 Super → CPU in 12 ms, a game came",
        "<t:1000:R> load: RTX 4070 Super in 1.2 s, room for it",
    ]
    await w.guest.slash(w.channel, "gpu profile")
    assert last(w).embeds[0].fields == typed.fields


@in_world
async def test_what_is_not_known_is_not_told(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"predicted_bytes": None, "measured_bytes": None, "measurements": 0, "frames": 0}
    none = {"load": None, "offload": None, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    bare = known(**nothing, **none, moves=(), fell_bytes=2 << 30, service="")
    profiled(monkeypatch, bare)
    await w.guest.send(w.channel, "!gpu profile")
    field = last(w).embeds[0].fields[0]
    assert field.value == "memory: ran out when it needed 2.00GB"
    assert field.name == "yolo-nano.pt fp32 640px x4 on RTX 4070 Super"
    profiled(monkeypatch)
    await w.guest.send(w.channel, "!gpu profile")
    assert "`!vision start` loads them" in text_of(last(w))


@in_world
async def test_many_profiles_are_pages_within_discords_limits(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 400
    moves = tuple(MoveLine(float(i), "load", long, long, 1.0, 1, EVIL + long) for i in range(9))
    profiled(monkeypatch, *(known(model=f"{i} {EVIL} {long}", moves=moves) for i in range(30)))
    await w.guest.send(w.channel, "!gpu profile")
    for page in range(2, 9):
        message = last(w)
        assert within_limits(message.embeds[0])
        assert pings_nobody(message)
        await w.guest.click(message, label="Next")
        assert f"page {page} of 8" in str(last(w).embeds[0].footer.text)


@in_world
async def test_a_profile_of_what_really_ran(w: World) -> None:
    """On what the manager keeps, without a stand-in: nothing has run yet."""
    await w.guest.send(w.channel, "!gpu profile")
    assert last(w).embeds[0].title == "⏱️ What the models take"
    assert w.env.errors == []


# --- reload -----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


async def written(path: Path, text: str) -> None:
    await asyncio.to_thread(path.write_text, text, encoding="utf-8")


@in_world
async def test_only_the_owner_reloads_and_sees_what_changed(w: World, config: Path) -> None:
    context = w.bot.app_context
    context.config_path = config
    await written(config, "discord: {prefix: '?'}\ndata: {folder: elsewhere}\n")
    before = context.settings
    await w.guest.send(w.channel, "!gpu reload")
    assert "Only the bot's owner" in last(w).content
    result = await w.guest.slash(w.channel, "gpu reload")
    assert result.response is not None
    assert "Only the bot's owner" in result.response.content
    assert result.response.ephemeral
    await w.owner.send(w.channel, "!gpu reload")
    assert "Only the bot's owner" in last(w).content, "managing the server is not enough"
    assert context.settings is before

    w.bot.owner_id = w.owner.id
    result = await w.owner.slash(w.channel, "gpu reload")
    assert result.response is not None
    assert result.response.ephemeral
    found = {f.name: f.value for f in result.response.embeds[0].fields}
    assert found["In use now"] == "• discord.prefix: ! → ?"
    assert "data.folder" in str(found["Needs a restart"])
    await w.guest.send(w.channel, "?gpu alerts")
    assert "`?gpu alerts here` changes that" in text_of(last(w)), "the new prefix, in words, too"
    logs.configure("WARNING")


@in_world
async def test_a_refused_configuration_changes_nothing_and_says_where(
    w: World, config: Path
) -> None:
    context = w.bot.app_context
    context.config_path = config
    w.bot.owner_id = w.owner.id
    await written(config, "yolo:\n  device: cuda1\n")
    before = context.settings
    await w.owner.send(w.channel, "!gpu reload")
    assert "refused, and nothing changed" in last(w).content
    assert "mine.yaml:2: yolo.device" in last(w).content.replace("\\", "")
    assert context.settings is before


@in_world
async def test_a_file_as_before_changes_nothing(w: World, config: Path) -> None:
    w.bot.app_context.config_path = config
    w.bot.owner_id = w.owner.id
    await written(config, "")
    await w.owner.send(w.channel, "!gpu reload")
    assert "Nothing changed" in text_of(last(w))
    logs.configure("WARNING")
