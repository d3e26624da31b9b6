"""``!gpu``: what holds the cards, the live panel, acting, alerts. The parts do the work
(``cogs/gpu_parts``); here are the commands, who may use them, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import discord
from discord import app_commands
from discord.ext import commands

from cogs import autocomplete, texts
from cogs.access import button_refusal, controls
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from cogs.gpu_parts.alerts import AlertDesk, Listener, duration, level_words
from cogs.gpu_parts.control import Action, Control, names_card
from cogs.gpu_parts.dashboard import Dashboard
from cogs.gpu_parts.holders import fit_embed, models_embed, process_pages
from cogs.gpu_parts.pictures import DEFAULT_SPAN, SPANS, PictureFailed, Pictures
from cogs.gpu_parts.profiles import profile_pages
from cogs.gpu_parts.reloading import reloaded_embed
from cogs.gpu_parts.status import Reading, StatusView, footer, status_embed, take_reading
from cogs.host import host_of
from cogs.pages import Confirm, Pages
from cogs.standing import ChannelGone
from cogs.usage import Misuse
from danzar_gpu import report
from danzar_gpu.alerts import Level

SLOW_SECONDS = 1.5
"""Discord waits three seconds for an answer to a slash command: ask for more time before."""

Context = commands.Context[Any]
PER_USER = commands.BucketType.user
PER_GUILD = commands.BucketType.guild


class GpuCommands(commands.Cog, name="GPU memory"):
    """What holds the GPU memory, and where vision may run."""

    def __init__(self, bot: commands.Bot) -> None:
        self.bot = bot
        self.host = host_of(bot)
        self.manager = self.host.manager
        chats = self.host.chats
        self.pictures = Pictures(self.host)
        self.dashboard = Dashboard(bot, self.host, chats, self.pictures)
        self.alert_desk = AlertDesk(bot, self.host, chats)
        self.control = Control(self.host)

    async def cog_load(self) -> None:
        self.dashboard.start()
        self.alert_desk.start()

    async def cog_unload(self) -> None:
        self.dashboard.stop()
        self.alert_desk.stop()

    async def farewell(self) -> None:
        """Called once before the bot closes its connection."""
        await self.dashboard.farewell()

    @commands.Cog.listener()
    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        self.dashboard.deleted(payload.message_id)

    @commands.Cog.listener()
    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        for message_id in payload.message_ids:
            self.dashboard.deleted(message_id)

    # Looking

    @commands.hybrid_group(
        name="gpu", case_insensitive=True, ignore_extra=False, brief="GPU memory"
    )
    @commands.cooldown(3, 6, PER_USER)
    async def gpu(self, ctx: Context) -> None:
        """Shows the GPU memory; alone it is the same as `gpu status`.

        Example: `{prefix}gpu`
        """
        await self.show_status(ctx)

    @gpu.command(name="status", brief="GPU memory of all devices")
    @commands.cooldown(3, 6, PER_USER)
    async def status(self, ctx: Context) -> None:
        """Shows the current GPU memory of all devices.

        *Allocated* is what programs use, *reserved* all that is not free, *free* what the driver
        would still give away.

        Example: `{prefix}gpu status`
        """
        await self.show_status(ctx)

    @gpu.command(name="vision", brief="Best device for vision")
    @commands.cooldown(3, 6, PER_USER)
    async def vision(self, ctx: Context) -> None:
        """Shows the best available device for vision, and why it is that one.

        Example: `{prefix}gpu vision`
        """
        reading = await self.read(ctx)
        device, reason = self.manager.get_best_vision_device()
        lines = [
            texts.STATUS_DEVICE.format(device=report.device_text(device)),
            texts.STATUS_REASON.format(reason=sentence(reason, self.host.prefix)),
        ]
        if reading.note:
            lines.append(reading.note)
        embed = discord.Embed(
            title=report.titled(report.VISION_TITLE, reading.simulated),
            description=shortened("\n".join(lines), 2000),
            colour=FAILED if device is None else TIGHT if device == "cpu" else CALM,
        )
        embed.set_footer(text=footer(self.host, reading))
        await ctx.send(embed=embed)

    @gpu.command(name="processes", aliases=["ps"], brief="Who holds GPU memory")
    @commands.cooldown(3, 6, PER_USER)
    async def processes(self, ctx: Context) -> None:
        """Shows which programs hold memory on which card: ours, the main LLM's, or others'.

        Example: `{prefix}gpu processes`
        """
        await self.read(ctx)
        await self.show_pages(ctx, process_pages(self.host))

    @gpu.command(name="models", brief="Models: where, how large, why there")
    @commands.cooldown(3, 6, PER_USER)
    async def models(self, ctx: Context) -> None:
        """Shows each of our models and the main LLM: device, memory, idle time, what would fit.

        Example: `{prefix}gpu models`
        """
        await self.read(ctx)
        await ctx.send(embed=models_embed(self.host))

    @gpu.command(name="profile", brief="What models take, in memory and time")
    @commands.cooldown(3, 6, PER_USER)
    async def profile(self, ctx: Context) -> None:
        """Shows what each model took on each kind of device: memory, loading, moves, frames.

        Example: `{prefix}gpu profile`
        """
        context = self.host.context
        if context is None:
            raise Misuse(texts.PROFILE_ELSEWHERE.format(prefix=ctx.clean_prefix))
        from bot.profile import profiles

        async with ctx.typing():
            found = await profiles(context)
        await self.show_pages(ctx, profile_pages(self.host, found))

    @gpu.command(name="fit", brief="Would a model fit, and where?")
    @app_commands.describe(what="GB, or the name of a model")
    @app_commands.autocomplete(what=autocomplete.models)
    @commands.cooldown(3, 6, PER_USER)
    async def fit(self, ctx: Context, *, what: str) -> None:
        """Tells whether so many GB, or another such model, would fit; where, and who would move.

        Examples: `{prefix}gpu fit 2.5` · `{prefix}gpu fit clip`
        """
        wanted = self.control.size_or_model(what)
        reading = await self.read(ctx)
        answer = self.manager.fit(wanted.need, wanted.name, wanted.holder)
        if answer is None:
            await ctx.send(reading.note or texts.NO_READING)
            return
        await ctx.send(embed=fit_embed(self.host, wanted.title, wanted.need, answer))

    @gpu.command(name="history", brief="Memory over time, as a picture")
    @app_commands.describe(span="15m, 1h, 24h, 7d, 30d or 1y", card="only this card: cuda:1")
    @app_commands.autocomplete(span=autocomplete.spans, card=autocomplete.cards)
    @commands.cooldown(2, 10, PER_USER)
    async def history(
        self, ctx: Context, span: str = DEFAULT_SPAN, card: str | None = None
    ) -> None:
        """Draws the memory of each card over time: who held it, and where models moved.

        Examples: `{prefix}gpu history` · `{prefix}gpu history 24h` ·
        `{prefix}gpu history 15m cuda:1`
        """
        span = span.lower()
        if span not in SPANS:
            if card is not None or not names_card(span):
                known = ", ".join(SPANS)
                raise Misuse(texts.HISTORY_NO_SPAN.format(span=shortened(span, 20), known=known))
            span, card = DEFAULT_SPAN, span
        index = None if card is None else int(self.control.card_named(card).removeprefix("cuda:"))
        async with ctx.typing():
            try:
                picture = await self.pictures.history(span, index)
            except PictureFailed as failed:
                await ctx.send(str(failed))
                return
        await ctx.send(embed=picture.embed, file=picture.file)

    # The panel

    @gpu.group(
        name="dashboard",
        case_insensitive=True,
        ignore_extra=False,
        brief="A live panel, edited in place",
    )
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def dashboard_group(
        self, ctx: Context, channel: discord.TextChannel | None = None
    ) -> None:
        """Posts one message here (or in another channel) that always shows the cards as they are.

        Examples: `{prefix}gpu dashboard` · `{prefix}gpu dashboard #status` ·
        `{prefix}gpu dashboard stop`
        """
        await self.open_panel(ctx, channel)

    @dashboard_group.command(name="start", ignore_extra=False, brief="Post the live panel")
    @app_commands.describe(channel="where; else here")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def dashboard_start(
        self, ctx: Context, channel: discord.TextChannel | None = None
    ) -> None:
        """Posts the live panel here, or in another channel; one for each channel.

        Example: `{prefix}gpu dashboard start #status`
        """
        await self.open_panel(ctx, channel)

    @dashboard_group.command(name="stop", ignore_extra=False, brief="End the live panel")
    @app_commands.describe(channel="where; else here")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def dashboard_stop(
        self, ctx: Context, channel: discord.TextChannel | None = None
    ) -> None:
        """Ends a channel's live panel and deletes its message.

        Example: `{prefix}gpu dashboard stop`
        """
        where = channel or ctx.channel
        self._require_reach(ctx, channel)
        ended = await self.dashboard.close(where.id)
        await ctx.send(texts.PANEL_CLOSED if ended else texts.PANEL_NONE, ephemeral=True)

    # Acting

    @gpu.command(name="monitor", brief="Switch monitoring on or off")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def monitor(self, ctx: Context) -> None:
        """Switches the monitoring of GPU memory on or off.

        While it is on, the cards are read at intervals, and high use is warned about.

        Example: `{prefix}gpu monitor`
        """
        config = self.manager.config
        if self.manager.monitoring_enabled:
            self.manager.stop_monitoring()
        else:
            self.manager.start_monitoring()
        if self.manager.monitoring_enabled:
            text = texts.MONITOR_ON.format(
                interval=config.memory_check_interval, percent=config.high_utilization_percent
            )
        else:
            text = texts.MONITOR_OFF.format(prefix=self.host.prefix)
        await ctx.send(text, ephemeral=True)

    @gpu.command(name="log", brief="Write the status to the log")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def log(self, ctx: Context) -> None:
        """Writes the current GPU memory status to the console's log.

        Example: `{prefix}gpu log`
        """
        reading = await self.read(ctx, ephemeral=True)
        self.manager.log_memory_status()
        count = len(reading.devices)
        devices = texts.LOGGED_DEVICES["one" if count == 1 else "many"].format(count=count)
        text = texts.LOGGED.format(devices=self.host.titled(devices))
        await ctx.send(f"{text}\n{reading.note}" if reading.note else text, ephemeral=True)

    @gpu.command(name="offload", brief="Send a model to the CPU")
    @app_commands.autocomplete(model=autocomplete.models)
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def offload(self, ctx: Context, model: str) -> None:
        """Sends a model to the CPU, where it stays until it is restored. Asks first.

        Example: `{prefix}gpu offload clip`
        """
        name, who = self.control.model_named(model), ctx.author.display_name
        warning = self.control.warning_of_offload(name)
        await self.confirm(ctx, warning, texts.OFFLOAD, lambda: self.control.offload(name, who))

    @gpu.command(name="restore", brief="Let a model back on a card")
    @app_commands.autocomplete(model=autocomplete.models)
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def restore(self, ctx: Context, model: str) -> None:
        """Lets a model that was sent to the CPU back on a card, as soon as one has room.

        Example: `{prefix}gpu restore clip`
        """
        name, who = self.control.model_named(model), ctx.author.display_name
        await self.act(ctx, lambda: self.control.restore(name, who))

    @gpu.command(name="trim", brief="Give unused GPU memory back")
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def trim(self, ctx: Context) -> None:
        """Lets the vision worker give memory that it keeps for later back to the driver.

        Example: `{prefix}gpu trim`
        """
        await self.act(ctx, lambda: self.control.trim(ctx.author.display_name))

    @gpu.command(name="reserve", brief="Keep more or less for the main LLM")
    @app_commands.describe(size="GB, or auto")
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def reserve(self, ctx: Context, *, size: str) -> None:
        """Keeps another amount free for the main LLM; `auto` follows what it really uses.

        Examples: `{prefix}gpu reserve 6` · `{prefix}gpu reserve auto`
        """
        wanted, who = self.control.reservation(size), ctx.author.display_name
        warning = self.control.warning_of_reserve(wanted)
        await self.confirm(ctx, warning, texts.RESERVE, lambda: self.control.reserve(wanted, who))

    @gpu.command(name="prefer", brief="Choose vision's card")
    @app_commands.autocomplete(card=autocomplete.cards)
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def prefer(self, ctx: Context, card: str) -> None:
        """Lets vision prefer a card; whether it has room is decided as always.

        Example: `{prefix}gpu prefer cuda:1`
        """
        device, who = self.control.card_named(card), ctx.author.display_name
        await self.act(ctx, lambda: self.control.prefer(device, who))

    @gpu.command(name="reset", brief="Undo what was chosen in chat")
    @commands.cooldown(2, 10, PER_USER)
    @controls()
    async def reset(self, ctx: Context) -> None:
        """Goes back to the configuration: reservation, vision's card, offloaded models.

        Example: `{prefix}gpu reset`
        """
        if not self.manager.choices.made:
            await ctx.send(texts.RESET_NOTHING, ephemeral=True)
            return
        warning, who = self.control.warning_of_reset(), ctx.author.display_name
        await self.confirm(ctx, warning, texts.RESET, lambda: self.control.reset(who))

    @gpu.command(name="reload", brief="Read the configuration again")
    @commands.is_owner()
    @commands.cooldown(2, 10)
    async def reload(self, ctx: Context) -> None:
        """Reads the configuration again and uses it; a mistake in it changes nothing.

        What was chosen in chat stays chosen. For the bot's owner.

        Example: `{prefix}gpu reload`
        """
        context = self.host.context
        if context is None:
            raise Misuse(texts.RELOAD_ELSEWHERE)
        from bot.reload import reload
        from bot.settings import SettingsError

        async with ctx.typing(ephemeral=True):
            try:
                done = await reload(context, who=ctx.author.display_name)
            except SettingsError as error:
                problems = plain(shortened(str(error), 1500))
                await ctx.send(texts.RELOAD_REFUSED.format(problems=problems), ephemeral=True)
                return
        await ctx.send(embed=reloaded_embed(done), ephemeral=True)

    # Alerts

    @gpu.group(
        name="alerts", case_insensitive=True, ignore_extra=False, brief="Alerts in this channel"
    )
    @commands.cooldown(3, 6, PER_USER)
    async def alerts(self, ctx: Context) -> None:
        """Shows whether this channel hears alerts, which, and what is wrong now.

        Example: `{prefix}gpu alerts`
        """
        await self.show_alerts(ctx)

    @alerts.command(name="status", brief="What this channel hears")
    @commands.cooldown(3, 6, PER_USER)
    async def alerts_status(self, ctx: Context) -> None:
        """Shows whether this channel hears alerts, which, and what is wrong now.

        Example: `{prefix}gpu alerts status`
        """
        await self.show_alerts(ctx)

    @alerts.command(name="here", ignore_extra=False, brief="Send alerts to this channel")
    @app_commands.describe(mention="a role to mention when an alert opens; else nobody")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def alerts_here(self, ctx: Context, mention: discord.Role | None = None) -> None:
        """Sends alerts to this channel: one message for each, edited until it is over.

        Nobody is mentioned, unless a role is named.

        Examples: `{prefix}gpu alerts here` · `{prefix}gpu alerts here @Crew`
        """
        listener = await self.alert_desk.listen(ctx.channel.id, mention.id if mention else None)
        kinds = level_words(listener.level)
        text = texts.ALERTS_HERE.format(kinds=kinds)
        if mention is not None:
            text = texts.ALERTS_HERE_MENTION.format(kinds=kinds, role=plain(mention.name))
        await ctx.send(text, ephemeral=True)

    @alerts.command(name="off", brief="No alerts in this channel")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def alerts_off(self, ctx: Context) -> None:
        """Ends the alerts in this channel.

        Example: `{prefix}gpu alerts off`
        """
        ended = await self.alert_desk.leave(ctx.channel.id)
        await ctx.send(texts.ALERTS_OFF if ended else texts.ALERTS_OFF_ALREADY, ephemeral=True)

    @alerts.command(name="level", brief="Which alerts")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def alerts_level(
        self, ctx: Context, level: Literal["all", "important", "critical"]
    ) -> None:
        """Chooses which alerts come: all, important (no model on the CPU), or critical.

        Example: `{prefix}gpu alerts level important`
        """
        listener = self._listener(ctx)
        await self.alert_desk.set_level(listener, level)
        kinds = level_words(listener.level)
        await ctx.send(texts.ALERTS_FROM_NOW.format(kinds=kinds), ephemeral=True)

    @alerts.command(name="mute", brief="No new alerts for a while")
    @app_commands.describe(time="30m, 2h, 1d; off ends it")
    @commands.cooldown(2, 10, PER_GUILD)
    @controls()
    async def alerts_mute(self, ctx: Context, time: str) -> None:
        """Holds new alerts back for a while. What is still wrong then is told then.

        Examples: `{prefix}gpu alerts mute 2h` · `{prefix}gpu alerts mute off`
        """
        listener = self._listener(ctx)
        await self.alert_desk.mute(listener, duration(time))
        if self.alert_desk.is_muted(listener):
            text = texts.ALERTS_MUTE.format(until=listener.muted_until)
        else:
            text = texts.ALERTS_UNMUTE
        await ctx.send(text, ephemeral=True)

    # How it is answered

    async def show_status(self, ctx: Context) -> None:
        reading = await self.read(ctx)
        view = StatusView(self.host, ctx.author.id, reading)
        view.message = await ctx.send(embed=status_embed(self.host, reading), view=view)

    async def show_pages(self, ctx: Context, embeds: Sequence[discord.Embed]) -> None:
        pages = Pages(ctx.author.id, embeds)
        if pages.needed:
            pages.message = await ctx.send(embed=pages.embed, view=pages)
        else:
            await ctx.send(embed=pages.embed)

    async def show_alerts(self, ctx: Context) -> None:
        desk = self.alert_desk
        listener = desk.listeners.get(ctx.channel.id)
        if listener is None:
            words = texts.ALERTS_NONE.format(prefix=self.host.prefix)
        else:
            level: Level = listener.level
            words = texts.ALERTS_LEVEL.format(level=level, kinds=level_words(level))
            if desk.is_muted(listener):
                words += "\n" + texts.ALERTS_MUTED.format(until=listener.muted_until)
            if listener.role_id is not None:
                words += "\n" + texts.ALERTS_MENTION.format(role=listener.role_id)
        title = self.host.titled(texts.ALERTS_TITLE)
        embed = discord.Embed(title=title, description=words, colour=NEUTRAL)
        lines = [
            texts.ALERTS_LINE.format(text=sentence(shortened(alert.text, 300), self.host.prefix))
            for alert in desk.open
        ]
        embed.add_field(name=texts.ALERTS_NOW, value=fitted(lines) or texts.ALERTS_NOTHING)
        await ctx.send(embed=embed)

    async def open_panel(self, ctx: Context, channel: discord.TextChannel | None) -> None:
        self._require_reach(ctx, channel)
        where = channel or ctx.channel
        await ctx.defer(ephemeral=True)
        try:
            panel = await self.dashboard.open(where.id)
        except ChannelGone:
            await self.dashboard.close(where.id)
            raise Misuse(texts.CHANNEL_UNSEEN) from None
        if panel.message.trouble:
            reason = sentence(panel.message.trouble, self.host.prefix)
            text = texts.PANEL_NOT_YET.format(reason=reason)
        else:
            text = texts.PANEL_POSTED.format(channel=where.id)
        await ctx.send(text, ephemeral=True)

    async def act(self, ctx: Context, action: Action) -> None:
        """Do it at once and show the figures before and after."""
        async with ctx.typing(ephemeral=True):
            outcome = await action()
        await ctx.send(embed=outcome.embed(self.host, ctx.author.display_name), ephemeral=True)

    async def confirm(self, ctx: Context, warning: str, yes: str, action: Action) -> None:
        """Ask first, for what hurts; then as ``act``."""

        async def go(interaction: discord.Interaction[Any]) -> None:
            await interaction.response.edit_message(content=texts.ON_IT, view=None)
            outcome = await action()
            embed = outcome.embed(self.host, interaction.user.display_name)
            await interaction.edit_original_response(content=None, embed=embed)

        view = Confirm(ctx.author.id, go, button_refusal, yes=yes)
        question = texts.QUESTION.format(warning=warning)
        view.message = await ctx.send(question, view=view, ephemeral=True)

    async def read(self, ctx: Context | None = None, *, ephemeral: bool = False) -> Reading:
        """A fresh reading, or the last one with the reason why it isn't fresh.

        When it takes long Discord is told that the answer will come, ``ephemeral`` or not.
        """
        reading = asyncio.ensure_future(take_reading(self.host))
        if ctx is not None:
            await asyncio.wait({reading}, timeout=SLOW_SECONDS)
            if not reading.done():
                await ctx.defer(ephemeral=ephemeral)
        return await reading

    def _listener(self, ctx: Context) -> Listener:
        listener = self.alert_desk.listeners.get(ctx.channel.id)
        if listener is None:
            raise Misuse(texts.ALERTS_NOT_HERE.format(prefix=ctx.clean_prefix))
        return listener

    @staticmethod
    def _require_reach(ctx: Context, channel: discord.TextChannel | None) -> None:
        """Nobody may have the bot post where they could not post themselves."""
        if channel is None:
            return
        member = ctx.author
        if not isinstance(member, discord.Member) or channel.guild.id != member.guild.id:
            raise Misuse(texts.CHANNEL_ELSEWHERE)
        if not channel.permissions_for(member).send_messages:
            raise Misuse(texts.CHANNEL_NOT_YOURS)


async def setup(bot: commands.Bot) -> None:
    await bot.add_cog(GpuCommands(bot))
