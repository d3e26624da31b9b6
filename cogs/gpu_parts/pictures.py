"""``!gpu history``: memory over time as a picture, drawn by a child process."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import discord

from bot.history_chart import MOST_POINTS, CardHistory, ChartError, Mark, history_png
from cogs import texts
from cogs.embeds import CALM, plain, shortened
from danzar_gpu.history import Event, Sample, fullest
from danzar_gpu.memory import DeviceMemory, gib

if TYPE_CHECKING:
    from cogs.host import Host

DAY = 24 * 3600.0
SPANS = {"15m": 900.0, "1h": 3600.0, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}
DEFAULT_SPAN = "1h"
KEPT_SECONDS = 10.0
"""One picture serves everybody who asks within so long."""
MOST_CARDS = 4
"""More would be too small to read on a phone."""
MARKED = ("moved", "move-failed", "holder-gone")
MOST_MARKS = 60
"""More lines than that would hide what they mark."""
FILE_NAME = "history.png"
_MOVE = re.compile(r"^(.+) moved from \S+ to (\S+)$")


class PictureFailed(Exception):
    """There is no picture; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is sent."""

    embed: discord.Embed
    png: bytes

    @property
    def file(self) -> discord.File:
        return discord.File(io.BytesIO(self.png), FILE_NAME)


class Pictures:
    """Draws one picture at a time, and keeps the newest of each kind for a moment."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._turn = asyncio.Lock()
        self._kept: dict[tuple[str, int | None], tuple[float, Picture]] = {}

    async def history(self, span: str = DEFAULT_SPAN, card: int | None = None) -> Picture:
        """The last ``span`` (a key of ``SPANS``) of one card, or of the first few.

        Raises:
            PictureFailed: nothing was read in that time, or it could not be drawn.
        """
        async with self._turn:
            kept = self._kept.get((span, card))
            if kept is not None and time.monotonic() - kept[0] < KEPT_SECONDS:
                return kept[1]
            picture = await self._draw(span, card)
            self._kept[span, card] = (time.monotonic(), picture)
            return picture

    async def _draw(self, span: str, card: int | None) -> Picture:
        host, manager = self._host, self._host.manager
        devices = manager.get_all_devices_memory_info()
        shown = [d for i, d in sorted(devices.items()) if card in (None, i)][:MOST_CARDS]
        if not shown:
            raise PictureFailed(texts.HISTORY_NO_CARD)
        since = time.time() - SPANS[span]
        samples = await manager.samples(since)
        cards = [found for d in shown if (found := self._card(d, samples)) is not None]
        if not cards:
            words = texts.HISTORY_SPANS[span]
            raise PictureFailed(texts.HISTORY_EMPTY.format(span=words, prefix=host.prefix))
        title = texts.HISTORY_TITLE.format(span=texts.HISTORY_SPANS[span])
        moved = marks(await manager.past_events(since), since)[-MOST_MARKS:]
        try:
            png = await history_png(cards, moved, title, simulated=host.simulated)
        except ChartError as error:
            reason = plain(str(error))
            raise PictureFailed(texts.HISTORY_FAILED.format(reason=reason)) from error
        return Picture(self._embed(title, cards, len(devices) > len(shown) and card is None), png)

    def _card(self, device: DeviceMemory, samples: Iterable[Sample]) -> CardHistory | None:
        manager = self._host.manager
        own = fullest([s for s in samples if s.uuid == device.uuid], MOST_POINTS)
        if len(own) < 2:
            return None
        on_llm_card = device.index == manager.config.main_llm_index
        return CardHistory(
            title=shortened(device.label, 60),
            total_gb=device.total_gb,
            at=[s.at for s in own],
            llm=[gib(s.llm_bytes) for s in own],
            ours=[gib(s.our_bytes) for s in own],
            other=[
                gib(max(0, s.total_bytes - s.free_bytes - s.llm_bytes - s.our_bytes)) for s in own
            ],
            reserved_for_llm_gb=gib(manager.reservation_bytes) if on_llm_card else None,
            warn_percent=manager.config.high_utilization_percent,
        )

    def _embed(self, title: str, cards: Sequence[CardHistory], more: bool) -> discord.Embed:
        first = min(card.at[0] for card in cards)
        words = texts.HISTORY_SINCE.format(first=first)
        if more:
            others = texts.HISTORY_MORE.format(count=MOST_CARDS, prefix=self._host.prefix)
            words = f"{words} {others}"
        embed = discord.Embed(
            title=self._host.titled(texts.HISTORY_HEADING.format(title=title)),
            description=words,
            colour=CALM,
        )
        embed.set_image(url=f"attachment://{FILE_NAME}")
        return embed


def marks(events: Iterable[Event], since: float) -> list[Mark]:
    """Where models moved."""
    return [
        Mark(event.at, shortened(_MOVE.sub(r"\1 → \2", event.text), 40))
        for event in events
        if event.kind in MARKED and event.at >= since
    ]
