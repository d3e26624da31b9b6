"""Where a cog finds what it works with: in Danzar's own bot, and in somebody else's.

Danzar's bot carries an ``app_context``. Any other ``commands.Bot`` needs one attribute, a started
``GPUMemoryManager``, before the extension is loaded::

    bot.gpu_memory_manager = manager
    await bot.load_extension("cogs.gpu")

Optional beside it: ``bot.danzar_settings`` (a ``Settings``: who may control) and
``bot.vision_pipeline`` (a ``VisionPipeline``: the models that can be named, and `cogs.vision`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from discord.ext import commands

from bot.settings import Settings
from danzar_gpu import GPUMemoryManager

if TYPE_CHECKING:
    from bot.context import AppContext
    from bot.vision.pipeline import VisionPipeline

log = logging.getLogger(__name__)


class NothingToShow(RuntimeError):
    """The bot has neither an ``app_context`` nor a ``gpu_memory_manager``."""


@dataclass(frozen=True, slots=True)
class Host:
    """What there is in this bot."""

    manager: GPUMemoryManager
    settings: Settings
    vision: VisionPipeline | None
    context: AppContext | None
    """Danzar's own; ``None`` in somebody else's bot."""
    _background: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def simulated(self) -> bool:
        return self.manager.source == "simulated"

    def run_in_background(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Run ``work`` beside everything else; failures are logged."""
        if self.context is not None:
            self.context.run_in_background(work, what)
            return

        async def logged() -> None:
            try:
                await work
            except Exception:
                log.exception("%s failed", what)

        task = contextvars.Context().run(asyncio.ensure_future, logged())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def may_share(self, source: str, channel: object = None) -> bool:
        """Whether a frame of this source may be posted in that channel."""
        if self.context is not None:
            return self.context.may_share(source, channel)
        return self.settings.vision.may_share_in(channel)


def host_of(bot: commands.Bot) -> Host:
    """What ``bot`` carries. Raises ``NothingToShow`` with the line that is missing."""
    context: AppContext | None = getattr(bot, "app_context", None)
    if context is not None:
        return Host(context.gpu_memory_manager, context.settings, context.vision, context)
    manager = getattr(bot, "gpu_memory_manager", None)
    if not isinstance(manager, GPUMemoryManager):
        raise NothingToShow(
            "Danzar's cogs need a manager: set `bot.gpu_memory_manager = GPUMemoryManager(...)` "
            "before `await bot.load_extension(...)`; docs/embedding.md shows it"
        )
    settings = getattr(bot, "danzar_settings", None) or Settings()
    return Host(manager, settings, getattr(bot, "vision_pipeline", None), None)
