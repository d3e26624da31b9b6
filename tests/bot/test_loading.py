"""The bars in the console while models load."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import StringIO
from typing import cast

import pytest
from rich.console import Console

from bot.loading import fraction, show_loading
from bot.vision.pipeline import VisionPipeline
from tests.bot.doubles import ScriptedVision
from tests.gpu_memory.rig import settle


def loading_vision(progress: str) -> ScriptedVision:
    vision = ScriptedVision()
    status = replace(vision.services["yolo"], state="loading", progress=progress)
    vision.services["yolo"] = status
    return vision


async def test_bars_are_shown_until_the_models_run() -> None:
    vision = loading_vision("opening (10%)")
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    showing = asyncio.create_task(show_loading(cast(VisionPipeline, vision), console))
    async with asyncio.timeout(20):
        await settle(lambda: "opening (10%)" in screen.getvalue())
        vision.services["yolo"] = replace(vision.services["yolo"], state="running")
        await showing
    assert "yolo yolo-nano.pt" in screen.getvalue()


async def test_a_log_file_gets_no_bars() -> None:
    file = StringIO()
    pipeline = cast(VisionPipeline, loading_vision("opening (10%)"))
    async with asyncio.timeout(20):
        await show_loading(pipeline, Console(file=file))
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("progress", "expected"),
    [("", 0.0), ("opening (10%)", 0.1), ("loading weights 45.5 %", 0.455), ("900 %", 1.0)],
)
def test_the_share_is_read_from_the_words(progress: str, expected: float) -> None:
    assert fraction(loading_vision(progress).services["yolo"]) == pytest.approx(expected)
