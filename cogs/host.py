"""Where a cog finds what it works with: in Danzar's own bot, and in somebody else's.

Danzar's bot carries an ``app_context``. Any other ``commands.Bot`` needs one attribute, a started
``GPUMemoryManager``, before the extension is loaded::

    bot.gpu_memory_manager = manager
    await bot.load_extension("cogs.gpu")

Optional beside it: ``bot.danzar_settings`` (a ``Settings``: who may control) and
``bot.vision_pipeline`` (a ``VisionPipeline``: the models that can be named, and `cogs.vision`).
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from discord.ext import commands

from bot.background import Background
from bot.chat_state import ChatState
from bot.settings import Settings
from cogs import texts
from danzar_gpu import GPUMemoryManager

if TYPE_CHECKING:
    from bot.context import AppContext
    from bot.vision.pipeline import VisionPipeline


class NothingToShow(RuntimeError):
    """The bot has neither an ``app_context`` nor a ``gpu_memory_manager``."""


@dataclass(frozen=True, slots=True)
class Host:
    """What there is in this bot."""

    manager: GPUMemoryManager
    given: Settings
    """Those at the start; ``settings`` are those in use."""
    vision: VisionPipeline | None
    context: AppContext | None
    """Danzar's own; ``None`` in somebody else's bot."""
    given_prefix: str = "/"
    chats: ChatState = field(default_factory=ChatState)
    """What chats were told to keep; in somebody else's bot as long as the cog is loaded."""
    background: Background = field(default_factory=Background)

    @property
    def settings(self) -> Settings:
        """The settings in use: a reload replaces them."""
        return self.given if self.context is None else self.context.settings

    @property
    def prefix(self) -> str:
        """What stands before a typed command, where no command's own context is at hand."""
        return self.given_prefix if self.context is None else self.settings.discord.prefix

    @property
    def simulated(self) -> bool:
        return self.manager.source == "simulated"

    def titled(self, title: str) -> str:
        """A heading of figures: simulated ones say so wherever they are shown."""
        return texts.TITLE_SIMULATED.format(title=title) if self.simulated else title

    def run_in_background(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Run ``work`` beside everything else; failures are logged."""
        self.background.run(work, what)

    def may_share(self, source: str, channel: object = None) -> bool:
        """Whether a frame of this source may be posted in that channel."""
        if self.context is not None:
            return self.context.may_share(source, channel)
        return self.settings.vision.may_share_in(channel)


def host_of(bot: commands.Bot) -> Host:
    """What ``bot`` carries. Raises ``NothingToShow`` with the line that is missing."""
    context: AppContext | None = getattr(bot, "app_context", None)
    if context is not None:
        return Host(
            context.gpu_memory_manager,
            context.settings,
            context.vision,
            context,
            prefix_of(bot),
            context.chats,
            context.background,
        )
    manager = getattr(bot, "gpu_memory_manager", None)
    if not isinstance(manager, GPUMemoryManager):
        raise NothingToShow(
            "Danzar's cogs need a manager: set `bot.gpu_memory_manager = GPUMemoryManager(...)` "
            "before `await bot.load_extension(...)`; docs/embedding.md shows it"
        )
    settings = getattr(bot, "danzar_settings", None) or Settings()
    return Host(manager, settings, getattr(bot, "vision_pipeline", None), None, prefix_of(bot))


def prefix_of(bot: commands.Bot) -> str:
    """The prefix, or the first of several; ``/`` where only a message tells: slash always works."""
    context: AppContext | None = getattr(bot, "app_context", None)
    if context is not None:
        return context.settings.discord.prefix
    prefix: Any = getattr(bot, "command_prefix", None)
    if isinstance(prefix, list | tuple) and prefix:
        prefix = cast("tuple[Any, ...]", prefix)[0]
    return prefix if isinstance(prefix, str) else "/"
