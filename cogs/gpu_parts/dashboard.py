"""The live panel: one message a channel, edited in place. Two loops that don't wait for each
other: the sampler sees to fresh readings, the editor brings the messages up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import discord
from discord.ext import commands, tasks

from cogs import texts
from cogs.access import button_refusal
from cogs.gpu_parts.faces import offline_embed, panel_embed
from cogs.gpu_parts.holders import process_pages
from cogs.gpu_parts.pictures import PictureFailed, Pictures
from cogs.pages import Pages, answer_failure
from cogs.standing import TRANSIENT, ChannelGone, Face, StandingMessage
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from bot.chat_state import ChatState
    from cogs.host import Host

log = logging.getLogger(__name__)

SECTION = "panels"
LOOP_SECONDS = 10.0
PRESSES = 3
PRESSES_SECONDS = 10.0

Interaction = discord.Interaction[Any]


@dataclass(slots=True)
class Panel:
    """One channel's panel."""

    message: StandingMessage
    paused_by: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        return {"message": self.message.message_id, "paused_by": self.paused_by}


class Dashboard:
    """All panels. ``start`` and ``stop`` with the cog."""

    def __init__(self, bot: commands.Bot, host: Host, chats: ChatState, pictures: Pictures) -> None:
        self.host = host
        self.presses = commands.CooldownMapping[Interaction].from_cooldown(
            PRESSES, PRESSES_SECONDS, lambda interaction: interaction.user.id
        )
        self._bot = bot
        self._chats = chats
        self.pictures = pictures
        self.panels: dict[int, Panel] = {}

    def start(self) -> None:
        """Take up the panels of an earlier run, and begin."""
        for key, entry in self._chats.section(SECTION).items():
            message = entry.get("message")
            if not key.isdecimal() or not isinstance(message, int | None):
                log.warning("a panel that makes no sense is left out: %s %s", key, entry)
                continue
            panel = self._panel(int(key), message)
            paused = entry.get("paused_by")
            panel.paused_by = paused if isinstance(paused, str) else None
        self._bot.add_view(PanelView(self))
        self.sampler.start()
        self.editor.start()

    def stop(self) -> None:
        self.sampler.cancel()
        self.editor.cancel()

    async def farewell(self) -> None:
        """Say in every panel that the bot is going; its next start takes them up again."""
        self.stop()
        # A paused one stays as it is: nobody would edit it back.
        going = [p for p in self.panels.values() if p.paused_by is None]
        await asyncio.gather(*(self._say_offline(panel.message) for panel in going))

    async def _say_offline(self, message: StandingMessage) -> None:
        if message.message_id is None:
            return
        try:
            shown = message.channel.get_partial_message(message.message_id)
            await shown.edit(embed=offline_embed(self.host), view=None)
        except TRANSIENT as error:
            log.warning("the panel of channel %d still looks alive: %s", message.channel_id, error)

    def _panel(self, channel_id: int, message_id: int | None) -> Panel:
        standing = StandingMessage(self._bot, channel_id, texts.PANEL_MARK, message_id)
        panel = self.panels[channel_id] = Panel(standing)
        return panel

    async def open(self, channel_id: int) -> Panel:
        """Post a channel's panel, in place of one that is there already.

        Raises:
            ChannelGone: the channel does not exist (for us).
        """
        before = self.panels.get(channel_id)
        panel = self._panel(channel_id, None)
        # Before the post: a bot that ends right after it must find the message again.
        await self._chats.put(SECTION, str(channel_id), panel.entry)
        if before is not None:
            await before.message.remove()
        await self._update(panel)
        if panel.message.message_id is None and before is None:
            # It was refused, which the answer tells; the editor goes on trying.
            log.info("the panel of channel %d is not there yet", channel_id)
        return panel

    async def close(self, channel_id: int) -> bool:
        """End a channel's panel; whether there was one."""
        panel = self.panels.pop(channel_id, None)
        if panel is None:
            return False
        await self._chats.remove(SECTION, str(channel_id))
        await panel.message.remove()
        return True

    async def set_paused(self, panel: Panel, by: str | None) -> None:
        panel.paused_by = by
        await self._chats.put(SECTION, str(panel.message.channel_id), panel.entry)

    def deleted(self, message_id: int) -> None:
        """Somebody deleted a message; if it was a panel it is posted again."""
        for panel in self.panels.values():
            if panel.message.message_id == message_id:
                log.info("the panel of channel %d was deleted", panel.message.channel_id)
                panel.message.forget()

    def face(self, panel: Panel) -> Face:
        embed = panel_embed(self.host, panel.paused_by)
        return Face(embed, PanelView(self, paused=panel.paused_by is not None))

    async def _update(self, panel: Panel) -> None:
        standing = panel.message
        before = standing.message_id
        # A paused panel keeps its figures, but it is posted again when it was deleted.
        if panel.paused_by is not None and before is not None:
            return
        await standing.keep(self.face(panel))
        if standing.message_id != before:
            await self._chats.put(SECTION, str(standing.channel_id), panel.entry)

    async def edit_all(self) -> None:
        """Bring every panel up to date. Never raises: one broken panel must not stop the rest."""
        for channel_id, panel in tuple(self.panels.items()):
            try:
                await self._update(panel)
            except ChannelGone as gone:
                log.warning("channel %d is gone, and its panel with it: %s", channel_id, gone)
                self.panels.pop(channel_id, None)
                await self._chats.remove(SECTION, str(channel_id))
            except Exception:
                log.exception("the panel of channel %d could not be made", channel_id)

    async def sample(self) -> None:
        """See to a fresh reading, if anybody looks and readings are wanted. Never raises."""
        if not self.host.manager.monitoring_enabled:
            return
        if all(panel.paused_by is not None for panel in self.panels.values()):
            return
        try:
            await self.read(max_age=LOOP_SECONDS - 1)
        except Exception:
            log.exception("the panel's reading failed")

    async def read(self, max_age: float = 1.0) -> None:
        """A fresh reading; if it fails the manager keeps the cause, and the panel shows it."""
        with contextlib.suppress(ProbeError):
            await self.host.manager.refresh(max_age=max_age)

    @tasks.loop(seconds=LOOP_SECONDS)
    async def sampler(self) -> None:
        await self.sample()

    @tasks.loop(seconds=LOOP_SECONDS)
    async def editor(self) -> None:
        await self.edit_all()

    @editor.before_loop
    async def _connected(self) -> None:
        await self._bot.wait_until_ready()


class PanelView(discord.ui.View):
    """The panel's buttons. They outlive a restart: no timeout, fixed ids, one for all panels."""

    def __init__(self, dashboard: Dashboard, *, paused: bool = False) -> None:
        super().__init__(timeout=None)
        self._dashboard = dashboard
        if paused:
            self.pause.label = texts.PANEL_BUTTONS["go_on"]
            self.pause.emoji = discord.PartialEmoji(name="▶️")

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        wait = self._dashboard.presses.update_rate_limit(interaction)
        if wait is None:
            return True
        await interaction.response.send_message(
            texts.TOO_FAST.format(seconds=max(0.1, wait)), ephemeral=True
        )
        return False

    async def on_error(
        self, interaction: Interaction, error: Exception, item: discord.ui.Item[Any], /
    ) -> None:
        await answer_failure(interaction, error, f"the panel's {item!r}")

    async def _panel(self, interaction: Interaction) -> Panel | None:
        panel = self._dashboard.panels.get(interaction.channel_id or 0)
        message = interaction.message
        if panel is not None and message is not None and panel.message.message_id == message.id:
            return panel
        text = texts.PANEL_ENDED.format(prefix=self._dashboard.host.prefix)
        await interaction.response.send_message(text, ephemeral=True)
        return None

    async def _show(self, interaction: Interaction, panel: Panel) -> None:
        face = self._dashboard.face(panel)
        await interaction.edit_original_response(embed=face.embed, view=face.view)
        panel.message.noticed(face.looks)

    @discord.ui.button(
        label=texts.PANEL_BUTTONS["refresh"],
        emoji="🔄",
        style=discord.ButtonStyle.secondary,
        custom_id="danzar:panel:refresh",
    )
    async def refresh(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        panel = await self._panel(interaction)
        if panel is None:
            return
        await interaction.response.defer()
        await self._dashboard.read()
        await self._show(interaction, panel)

    @discord.ui.button(
        label=texts.PANEL_BUTTONS["history"],
        emoji="📈",
        style=discord.ButtonStyle.secondary,
        custom_id="danzar:panel:history",
    )
    async def history(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        try:
            picture = await self._dashboard.pictures.history()
        except PictureFailed as failed:
            await interaction.followup.send(str(failed), ephemeral=True)
            return
        await interaction.followup.send(embed=picture.embed, file=picture.file, ephemeral=True)

    @discord.ui.button(
        label=texts.PANEL_BUTTONS["processes"],
        emoji="🧾",
        style=discord.ButtonStyle.secondary,
        custom_id="danzar:panel:processes",
    )
    async def processes(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        pages = Pages(interaction.user.id, process_pages(self._dashboard.host))
        await interaction.response.send_message(
            embed=pages.embed, view=pages if pages.needed else discord.utils.MISSING, ephemeral=True
        )

    @discord.ui.button(
        label=texts.PANEL_BUTTONS["pause"],
        emoji="⏸️",
        style=discord.ButtonStyle.secondary,
        custom_id="danzar:panel:pause",
    )
    async def pause(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        panel = await self._panel(interaction)
        if panel is None:
            return
        if (why := await button_refusal(interaction)) is not None:
            await interaction.response.send_message(texts.LOCKED.format(reason=why), ephemeral=True)
            return
        await interaction.response.defer()
        by = interaction.user.display_name if panel.paused_by is None else None
        await self._dashboard.set_paused(panel, by)
        await self._show(interaction, panel)
