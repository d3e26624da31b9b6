"""What slash commands suggest: what fits what was typed, within Discord's limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.settings import ClipSettings, Settings
from cogs import autocomplete
from danzar_gpu import Footprint
from tests.bot.doubles import ScriptedVision, scripted_context
from tests.gpu_memory.rig import Card, ScriptedProbe

PHRASES = tuple(f"phrase {i}" for i in range(40))


async def suggested(callback: Any, current: str, context: Any) -> list[tuple[str, str]]:
    bot = SimpleNamespace(app_context=context)
    found = await callback(cast(Any, SimpleNamespace(client=bot)), current)
    assert len(found) <= 25
    assert all(1 <= len(c.name) <= 100 and 1 <= len(c.value) <= 100 for c in found)
    return [(c.value, c.name) for c in found]


async def test_cards_are_found_by_index_and_by_name() -> None:
    async with scripted_context() as context:
        every = await suggested(autocomplete.cards, "", context)
        assert every == [
            ("cuda:0", "cuda:0 RTX 4070 (4.9GB free)"),
            ("cuda:1", "cuda:1 RTX 4070 Super (9.9GB free)"),
        ]
        assert [v for v, _ in await suggested(autocomplete.cards, "super", context)] == ["cuda:1"]
        assert [v for v, _ in await suggested(autocomplete.cards, "CUDA:0", context)] == ["cuda:0"]
        assert await suggested(autocomplete.cards, "tesla", context) == []


async def test_many_cards_with_long_names_keep_to_the_limits() -> None:
    probe = ScriptedProbe(*(Card(f"Card {i} {'x' * 200}") for i in range(40)))
    async with scripted_context(probe=probe) as context:
        assert len(await suggested(autocomplete.cards, "", context)) == 25


async def test_models_are_those_of_vision_and_whoever_holds_a_lease() -> None:
    async with scripted_context() as context:
        manager = context.gpu_memory_manager
        async with manager.lease("captions", Footprint.of_gb(0.5), holder="theirs"):
            found = dict(await suggested(autocomplete.models, "", context))
        assert found["yolo"] == "yolo (yolo-nano.pt) on cuda:1"
        assert found["captions"] == "captions on cuda:1"


async def test_profiles_classes_phrases_and_spans() -> None:
    profiles = {"default": ("a", "b"), "racing": ("c", "d", "e")}
    settings = Settings(clip=ClipSettings(profiles=profiles))
    vision = ScriptedVision()
    vision.concepts = PHRASES
    async with scripted_context(settings=settings, vision=vision) as context:
        assert await suggested(autocomplete.profiles, "rac", context) == [
            ("racing", "racing (3 phrases)")
        ]
        assert ("health_bar", "health bar") in await suggested(
            autocomplete.classes, "health b", context
        )
        assert [v for v, _ in await suggested(autocomplete.phrases, "phrase 39", context)] == [
            "phrase 39"
        ]
        both = [v for v, _ in await suggested(autocomplete.watchable, "", context)]
        assert "boss" in both
        assert "phrase 0" in both
        assert [v for v, _ in await suggested(autocomplete.spans, "", context)] == [
            "15m",
            "1h",
            "24h",
            "7d",
            "30d",
            "1y",
        ]


@pytest.mark.parametrize(
    "callback", [autocomplete.models, autocomplete.cards, autocomplete.phrases]
)
async def test_a_bot_without_a_manager_suggests_nothing(callback: Any) -> None:
    interaction = cast(Any, SimpleNamespace(client=SimpleNamespace()))
    assert await callback(interaction, "") == []


async def test_a_value_that_is_too_long_is_not_suggested() -> None:
    vision = ScriptedVision()
    vision.concepts = ("x" * 101, "short")
    async with scripted_context(vision=vision) as context:
        assert [v for v, _ in await suggested(autocomplete.phrases, "", context)] == ["short"]
