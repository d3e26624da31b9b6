"""``!gpu status``: a reading in the guide's lines, with a small bar for each card above them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import discord

from cogs import texts
from cogs.bars import LEGEND, bar
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from cogs.gpu_parts.faces import chosen_words
from cogs.pages import BUTTONS_SECONDS, OwnView
from danzar_gpu import report
from danzar_gpu.advice import ALL_WELL
from danzar_gpu.memory import DeviceMemory
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from cogs.host import Host

__all__ = ["BUTTONS_SECONDS", "Reading", "StatusView", "footer", "status_embed", "take_reading"]

log = logging.getLogger(__name__)

DEVICES_PER_PAGE = 8

Interaction = discord.Interaction[Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What can be shown now: the newest figures, and why they are not newer if they aren't."""

    devices: tuple[DeviceMemory, ...]
    recommendations: tuple[str, ...]
    source: str
    note: str | None = None
    failed: bool = False
    tight: bool = False

    @property
    def simulated(self) -> bool:
        return self.source == "simulated"

    @property
    def pages(self) -> int:
        return max(1, -(-len(self.devices) // DEVICES_PER_PAGE))


async def take_reading(host: Host) -> Reading:
    """A fresh reading, or the last one with the reason why it isn't fresh."""
    manager = host.manager
    note = None
    failed = False
    try:
        await manager.refresh(max_age=1.0)
    except ProbeError as error:
        failed = True
        reason = sentence(str(error), host.prefix)
        note = texts.STATUS_UNREADABLE.format(reason=reason)
    devices = tuple(manager.get_all_devices_memory_info().values())
    if note is not None and devices:
        oldest = report.age_text(max(device.age_seconds for device in devices))
        note = texts.STATUS_OLD.format(note=note, age=oldest)
    elif not failed:
        note = report.stale_note(devices)
    recommendations = tuple(manager.get_memory_recommendations())
    tight = recommendations != (ALL_WELL,)
    return Reading(devices, recommendations, manager.source, note, failed, tight)


def status_embed(host: Host, reading: Reading, page: int = 0) -> discord.Embed:
    """The guide's status, within Discord's limits: at most eight devices a page."""
    first = page * DEVICES_PER_PAGE
    devices = reading.devices[first : first + DEVICES_PER_PAGE]
    above = [shortened(reading.note, 1000)] if reading.note else []
    above += bars(host, devices)
    embed = discord.Embed(
        title=report.titled(report.STATUS_TITLE, reading.simulated),
        description="\n".join(above) or None,
        colour=FAILED if reading.failed else TIGHT if reading.tight else CALM,
    )
    for device in devices:
        name = shortened(f"{plain(device.label)}:", 256)
        embed.add_field(name=name, value="\n".join(report.device_lines(device)), inline=False)
    if not reading.devices and not reading.failed:
        embed.add_field(name=report.NO_DEVICES, value=texts.STATUS_NO_DRIVER)
        embed.colour = NEUTRAL
    if reading.recommendations:
        advice = (sentence(line, host.prefix) for line in reading.recommendations)
        items = fitted(report.bullets(advice))
        embed.add_field(name=report.RECOMMENDATIONS_TITLE, value=items, inline=False)
    words = footer(host, reading)
    if reading.pages > 1:
        words += " · " + texts.STATUS_PAGE.format(page=page + 1, pages=reading.pages)
    embed.set_footer(text=words)
    return embed


def bars(host: Host, devices: tuple[DeviceMemory, ...]) -> list[str]:
    """A bar for each card, and what its colours mean."""
    shares = host.manager.shares()
    width = max((len(str(d.index)) for d in devices), default=1)
    lines = [
        texts.STATUS_BAR.format(
            card=f"{d.index:>{width}}", bar=bar(shares[d.index]), percent=d.utilization_percent
        )
        for d in devices
        if d.index in shares
    ]
    return [*lines, LEGEND] if lines else []


def footer(host: Host, reading: Reading) -> str:
    """Source and age of a reading, and what was chosen in chat."""
    words = [texts.STATUS_SOURCES.get(reading.source, reading.source)]
    if reading.devices:
        age = max(device.age_seconds for device in reading.devices)
        words.append(texts.STATUS_AGE.format(age=report.age_text(age)))
    words.append(texts.STATUS_MONITORING["on" if host.manager.monitoring_enabled else "off"])
    if chosen := chosen_words(host.manager.choices.made):
        words.append(shortened(chosen, 300))
    return " · ".join(words)


class StatusView(OwnView):
    """Refresh and page buttons below a status, for whoever asked for it."""

    def __init__(self, host: Host, author_id: int, reading: Reading) -> None:
        super().__init__(author_id)
        self.host = host
        self.reading = reading
        self.page = 0
        self._arrange()

    def _arrange(self) -> None:
        """Page buttons only where there are pages, and disabled at either end."""
        several = self.reading.pages > 1
        for button in (self.back, self.forward):
            if several and button not in self.children:
                self.add_item(button)
            elif not several and button in self.children:
                self.remove_item(button)
        self.back.disabled = self.page == 0
        self.forward.disabled = self.page >= self.reading.pages - 1

    async def _show(self, interaction: Interaction) -> None:
        self._arrange()
        embed = status_embed(self.host, self.reading, self.page)
        await interaction.edit_original_response(embed=embed, view=self)

    @discord.ui.button(label=texts.BUTTON_REFRESH, emoji="🔄", style=discord.ButtonStyle.secondary)
    async def refresh(
        self, interaction: Interaction, _button: discord.ui.Button[StatusView]
    ) -> None:
        await interaction.response.defer()
        self.reading = await take_reading(self.host)
        self.page = min(self.page, self.reading.pages - 1)
        await self._show(interaction)

    @discord.ui.button(label=texts.BUTTON_BACK, emoji="◀️", style=discord.ButtonStyle.secondary)
    async def back(self, interaction: Interaction, _button: discord.ui.Button[StatusView]) -> None:
        await interaction.response.defer()
        self.page = max(0, self.page - 1)
        await self._show(interaction)

    @discord.ui.button(label=texts.BUTTON_NEXT, emoji="▶️", style=discord.ButtonStyle.secondary)
    async def forward(
        self, interaction: Interaction, _button: discord.ui.Button[StatusView]
    ) -> None:
        await interaction.response.defer()
        self.page = min(self.reading.pages - 1, self.page + 1)
        await self._show(interaction)
