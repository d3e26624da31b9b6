"""Starts the real bot as a subject (``benchmarks.subjects.whole_bot``)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.process import Subject, subject
from benchmarks.runs import Run
from benchmarks.subjects.materials import LIVE_FPS


@dataclass(frozen=True, slots=True)
class StartedBot:
    """A bot that has answered once."""

    program: Subject
    first_answer_seconds: float
    """From the start of its process."""


@asynccontextmanager
async def bot(run: Run, design: str, *, autostart: bool) -> AsyncIterator[StartedBot]:
    """A bot on a simulated rig without cards for vision: its models run on the CPU.

    It watches a 1080p film as it runs, and its models look as often as they can.
    """
    film = run.folder / "live.mp4"
    config = _write_settings(run.folder, film, autostart=autostart)
    spawned = time.time()
    module = "benchmarks.subjects.whole_bot"
    async with subject(module, design, str(config), str(film), repr(spawned)) as program:
        yield StartedBot(program, program.greeting["seconds"])


def _write_settings(folder: Path, film: Path, *, autostart: bool) -> Path:
    """The configuration, as a file that the bot reads itself."""
    path = folder / f"bot-{'auto' if autostart else 'manual'}.yaml"
    content = {
        "capture": {"source": "video", "path": str(film), "loop": True, "fps": LIVE_FPS},
        "yolo": {"processing_fps": LIVE_FPS},
        "clip": {"processing_fps": LIVE_FPS},
        "vision": {"autostart": autostart},
        "data": {"folder": str(folder / "data")},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
