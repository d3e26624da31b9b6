"""``!gpu``: what the cards hold, which one vision would take, and the poller's switch."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import discord
from discord.ext import commands

from cogs.access import controls
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from cogs.host import host_of
from danzar_gpu import report
from danzar_gpu.advice import ALL_WELL
from danzar_gpu.memory import DeviceMemory
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from bot.client import DanzarBot

log = logging.getLogger(__name__)

DEVICES_PER_PAGE = 8
BUTTONS_SECONDS = 300
SLOW_SECONDS = 1.5
"""Discord waits three seconds for an answer to a slash command: ask for more time before."""


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


class GpuCommands(commands.Cog, name="GPU memory"):
    """What holds the GPU memory, and where vision may run."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot
        self.host = host_of(bot)
        self.manager = self.host.manager

    @commands.hybrid_group(
        name="gpu", case_insensitive=True, ignore_extra=False, brief="GPU memory"
    )
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def gpu(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the GPU memory; alone it is the same as `gpu status`.

        Example: `{prefix}gpu`
        """
        await self.show_status(ctx)

    @gpu.command(name="status", brief="GPU memory of all devices")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def status(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the current GPU memory of all devices.

        *Allocated* is what programs use, *reserved* all that is not free, *free* what the driver
        would still give away.

        Example: `{prefix}gpu status`
        """
        await self.show_status(ctx)

    @gpu.command(name="vision", brief="Best device for vision")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def vision(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the best available device for vision, and why it is that one.

        Example: `{prefix}gpu vision`
        """
        reading = await self.read(ctx)
        device, reason = self.manager.get_best_vision_device()
        lines = [f"Device: {report.device_text(device)}", f"Reason: {sentence(reason)}"]
        if reading.note:
            lines.append(reading.note)
        embed = discord.Embed(
            title=report.titled(report.VISION_TITLE, reading.simulated),
            description=shortened("\n".join(lines), 2000),
            colour=FAILED if device is None else TIGHT if device == "cpu" else CALM,
        )
        embed.set_footer(text=self.footer(reading))
        await ctx.send(embed=embed)

    @gpu.command(name="monitor", brief="Switch monitoring on or off")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def monitor(self, ctx: commands.Context[DanzarBot]) -> None:
        """Switches the monitoring of GPU memory on or off.

        While it is on, the cards are read at intervals, and high use is warned about.

        Example: `{prefix}gpu monitor`
        """
        config = self.manager.config
        if self.host.set_monitoring(not self.manager.monitoring_enabled):
            text = (
                "🟢 GPU memory monitoring is **on**: a reading every "
                f"{config.memory_check_interval:g} s (sooner while memory is tight), and a warning "
                f"above {config.high_utilization_percent:g}%."
            )
        else:
            text = (
                "🔴 GPU memory monitoring is **off**: no readings, no warnings. "
                "`gpu status` still reads the cards when it is asked to."
            )
        await ctx.send(text)

    @gpu.command(name="log", brief="Write the status to the log")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def log(self, ctx: commands.Context[DanzarBot]) -> None:
        """Writes the current GPU memory status to the console's log.

        Example: `{prefix}gpu log`
        """
        reading = await self.read(ctx)
        self.manager.log_memory_status()
        count = len(reading.devices)
        devices = "1 device" if count == 1 else f"{count} devices"
        simulated = " (simulated)" if reading.simulated else ""
        note = f"\n{reading.note}" if reading.note else ""
        await ctx.send(f"📝 The GPU memory status of {devices}{simulated} is in the log.{note}")

    async def show_status(self, ctx: commands.Context[DanzarBot]) -> None:
        reading = await self.read(ctx)
        view = StatusView(self, ctx.author.id, reading)
        view.message = await ctx.send(embed=self.status_embed(reading), view=view)

    async def read(self, ctx: commands.Context[DanzarBot] | None = None) -> Reading:
        """A fresh reading, or the last one with the reason why it isn't fresh."""
        reading = asyncio.ensure_future(self._reading())
        if ctx is not None:
            await asyncio.wait({reading}, timeout=SLOW_SECONDS)
            if not reading.done():
                await ctx.defer()
        return await reading

    async def _reading(self) -> Reading:
        note = None
        failed = False
        try:
            await self.manager.refresh(max_age=1.0)
        except ProbeError as error:
            failed = True
            note = f"⚠️ The cards could not be read just now: {sentence(str(error))}"
        devices = tuple(self.manager.get_all_devices_memory_info().values())
        if failed and devices:
            oldest = report.age_text(max(device.age_seconds for device in devices))
            note = f"{note}\nThe figures below are {oldest} old."
        elif not failed:
            note = report.stale_note(devices)
        recommendations = tuple(self.manager.get_memory_recommendations())
        tight = recommendations != (ALL_WELL,)
        return Reading(devices, recommendations, self.manager.source, note, failed, tight)

    def status_embed(self, reading: Reading, page: int = 0) -> discord.Embed:
        """The guide's status, within Discord's limits: at most eight devices a page."""
        embed = discord.Embed(
            title=report.titled(report.STATUS_TITLE, reading.simulated),
            description=shortened(reading.note, 1000) if reading.note else None,
            colour=FAILED if reading.failed else TIGHT if reading.tight else CALM,
        )
        first = page * DEVICES_PER_PAGE
        for device in reading.devices[first : first + DEVICES_PER_PAGE]:
            name = shortened(f"{plain(device.label)}:", 256)
            embed.add_field(name=name, value="\n".join(report.device_lines(device)), inline=False)
        if not reading.devices and not reading.failed:
            embed.add_field(name=report.NO_DEVICES, value="No NVIDIA driver answers here.")
            embed.colour = NEUTRAL
        if reading.recommendations:
            items = fitted(report.bullets(sentence(line) for line in reading.recommendations))
            embed.add_field(name=report.RECOMMENDATIONS_TITLE, value=items, inline=False)
        footer = self.footer(reading)
        if reading.pages > 1:
            footer += f" · page {page + 1} of {reading.pages}"
        embed.set_footer(text=footer)
        return embed

    def footer(self, reading: Reading) -> str:
        parts = {
            "simulated": "simulated rig, no real card",
            "none": "no NVIDIA driver",
        }
        words = [parts.get(reading.source, reading.source)]
        if reading.devices:
            age = max(device.age_seconds for device in reading.devices)
            words.append(f"read {report.age_text(age)} ago")
        words.append("monitoring on" if self.manager.monitoring_enabled else "monitoring off")
        return " · ".join(words)


class StatusView(discord.ui.View):
    """Refresh and page buttons below a status, for whoever asked for it."""

    def __init__(self, cog: GpuCommands, author_id: int, reading: Reading) -> None:
        super().__init__(timeout=BUTTONS_SECONDS)
        self.cog = cog
        self.author_id = author_id
        self.reading = reading
        self.page = 0
        self.message: discord.Message | None = None
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

    async def interaction_check(self, interaction: discord.Interaction, /) -> bool:
        if interaction.user.id == self.author_id:
            return True
        await interaction.response.send_message(
            "These buttons belong to whoever asked. `gpu status` gives you your own.",
            ephemeral=True,
        )
        return False

    async def on_timeout(self) -> None:
        for button in (self.refresh, self.back, self.forward):
            button.disabled = True
        if self.message is not None:
            try:
                await self.message.edit(view=self)
            except discord.HTTPException as error:
                log.debug("the status message is gone or can't be edited: %s", error)

    async def _show(self, interaction: discord.Interaction) -> None:
        self._arrange()
        embed = self.cog.status_embed(self.reading, self.page)
        await interaction.edit_original_response(embed=embed, view=self)

    @discord.ui.button(label="Refresh", emoji="🔄", style=discord.ButtonStyle.secondary)
    async def refresh(
        self, interaction: discord.Interaction, _button: discord.ui.Button[StatusView]
    ) -> None:
        await interaction.response.defer()
        self.reading = await self.cog.read()
        self.page = min(self.page, self.reading.pages - 1)
        await self._show(interaction)

    @discord.ui.button(label="Previous", emoji="◀️", style=discord.ButtonStyle.secondary)
    async def back(
        self, interaction: discord.Interaction, _button: discord.ui.Button[StatusView]
    ) -> None:
        await interaction.response.defer()
        self.page = max(0, self.page - 1)
        await self._show(interaction)

    @discord.ui.button(label="Next", emoji="▶️", style=discord.ButtonStyle.secondary)
    async def forward(
        self, interaction: discord.Interaction, _button: discord.ui.Button[StatusView]
    ) -> None:
        await interaction.response.defer()
        self.page = min(self.reading.pages - 1, self.page + 1)
        await self._show(interaction)


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(GpuCommands(bot))
