"""A bar for each model in the console while it loads; what others print appears above."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from bot.vision.pipeline import ServiceStatus, VisionPipeline

STEP_SECONDS = 0.1
UNSETTLED = ("waiting", "loading", "moving")


async def show_loading(pipeline: VisionPipeline, console: Console) -> None:
    """Show the bars until each model runs or won't; nothing where there is no terminal."""
    if not console.is_terminal:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {name: bars.add_task(name, total=1.0, state="") for name in pipeline.services}
        while loading(pipeline):
            for name, status in pipeline.services.items():
                bars.update(
                    tasks[name],
                    completed=fraction(status),
                    state=status.progress or status.state,
                    description=f"{name} {status.model}".strip(),
                )
            await asyncio.sleep(STEP_SECONDS)


def loading(pipeline: VisionPipeline) -> bool:
    """Whether something is still on its way."""
    if pipeline.state != "running":
        return pipeline.state == "starting"
    return any(status.state in UNSETTLED for status in pipeline.services.values())


def fraction(status: ServiceStatus) -> float:
    """How far a model is, 0 to 1, from words such as ``reading (40%)``."""
    if status.state == "running":
        return 1.0
    percent = re.search(r"(\d+(?:\.\d+)?)\s*%", status.progress)
    return min(1.0, float(percent.group(1)) / 100) if percent else 0.0
