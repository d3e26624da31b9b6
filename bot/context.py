"""What cogs and services are given: opened in order, closed in reverse, once."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.background import Background
from bot.chat_state import ChatState
from bot.lock import locked
from bot.misfits import misfits
from bot.settings import DEFAULT_PATH
from danzar_gpu import GPUMemoryConfig, GPUMemoryManager
from danzar_gpu.history import HistoryStore
from danzar_gpu.monitor import ProbeReader
from danzar_gpu.probes import MemoryProbe, ProbeError, ProbeName, open_probe

if TYPE_CHECKING:
    from bot.client import DanzarBot
    from bot.settings import Settings
    from bot.vision.pipeline import VisionPipeline

log = logging.getLogger(__name__)

PRIVATE_FREE_SOURCE = "scene"
"""The frame source that holds nothing of anyone's: Danzar draws it itself."""


@dataclass(slots=True)
class AppContext:
    """The open resources of a running bot."""

    settings: Settings
    gpu_memory_manager: GPUMemoryManager
    vision: VisionPipeline
    demo: bool = False
    """Whether this is the local chat page: the rendered scene may be shown there."""
    started_at: float = field(default_factory=time.time)
    """Unix time of the start."""
    chats: ChatState = field(default_factory=ChatState)
    """What chats were told to keep: panels, alerts, watches, phrases."""
    background: Background = field(default_factory=Background)
    config_path: Path = DEFAULT_PATH
    """The file that a reload reads again."""
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One reload after the other."""
    client: DanzarBot | None = None
    """The bot, once it was made: what health and metrics know of Discord."""

    def may_share(self, source: str, channel: object = None) -> bool:
        """Whether a frame of this source may be posted in that channel."""
        shared = self.settings.vision.may_share_in(channel)
        return shared or (self.demo and source == PRIVATE_FREE_SOURCE)

    def run_in_background(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run ``work`` beside everything else, in a context of its own; failures are logged."""
        return self.background.run(work, what)

    def start_vision(self) -> None:
        """Start vision in the background, with bars in the console while its models load."""
        self.run_in_background(self.vision.start(), "starting vision")
        self.run_in_background(self._show_loading(), "showing progress")

    async def _show_loading(self) -> None:
        if not sys.stderr.isatty():
            return  # before rich is imported, which takes a thirtieth of the start
        from rich.console import Console

        from bot.loading import show_loading

        await asyncio.sleep(0)  # by now the start is under way
        await show_loading(self.vision, Console(stderr=True))

    async def finish_background(self) -> None:
        """Cancel what still runs in the background and wait until it has ended."""
        await self.background.finish()


@asynccontextmanager
async def open_context(
    settings: Settings,
    probe: MemoryProbe,
    *,
    demo: bool = False,
    config_path: Path = DEFAULT_PATH,
) -> AsyncIterator[AppContext]:
    """Open the manager, then vision (if it starts with the bot); close both in reverse.

    Vision comes up in the background: the first answers don't wait for its models.

    Raises:
        AlreadyRunning: another bot uses the same data folder.
    """
    from bot.vision.chosen import recalled
    from bot.vision.pipeline import VisionPipeline

    async with AsyncExitStack() as stack:
        folder = Path(settings.data.folder)
        # What a scripted rig did must not be learned from.
        learns = probe.source != "simulated"
        # The chat page's channel is a new one each time: nothing of it is worth keeping.
        keeps_chats = not demo
        store = HistoryStore(folder / "history.sqlite3")
        if learns or keeps_chats:
            stack.enter_context(locked(folder))
        stack.push_async_callback(asyncio.to_thread, store.close)
        manager = GPUMemoryManager(settings.gpu_memory, probe, store=store if learns else None)
        # First, so that whatever start() left half open is closed, too.
        stack.push_async_callback(manager.close)
        await manager.start()
        for misfit in misfits(settings.gpu_memory, manager.snapshot):
            log.warning("%s", misfit)
        vision = VisionPipeline(settings, manager)
        stack.push_async_callback(vision.stop)
        chats = ChatState(store if keeps_chats else None)
        await asyncio.to_thread(chats.load, folder / "chats.json")
        if (chosen := recalled(chats)) is not None:
            vision.choose_from(chosen.phrases)
        context = AppContext(
            settings, manager, vision, demo=demo, chats=chats, config_path=config_path
        )
        stack.push_async_callback(context.finish_background)
        if settings.vision.autostart:
            context.start_vision()
        yield context


async def first_reading(probe: MemoryProbe) -> str:
    """Why this probe shows no card at its first reading; empty if it shows one.

    A driver that does not answer is waited for in vain no longer than a reading may take.
    """
    limit = GPUMemoryConfig().probe_timeout_seconds
    try:
        snapshot = await ProbeReader(probe, time.monotonic, limit).read(processes=True)
    except ProbeError as error:
        return str(error)
    if probe.source != "none":
        return ""
    return "; ".join(snapshot.faults) or "no NVIDIA driver was found"


async def open_probe_off_loop(name: ProbeName) -> MemoryProbe:
    """``open_probe`` in a thread: a driver call may take a second, or hang for a while."""
    return await asyncio.to_thread(open_probe, name)
