"""``!vision``: what the models see, what they are asked, and their switch."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import discord
from discord import app_commands
from discord.ext import commands

from bot.context import PRIVATE_FREE_SOURCE
from bot.vision import chosen
from bot.vision.asking import MAX_CHARACTERS, phrase_of
from bot.vision.pipeline import VisionUnavailable
from bot.vision.reports import FrameReport
from bot.vision.timeline import Timeline
from bot.vision.watches import SUSTAIN_SECONDS, TooManyWatches, Watch, WatchDesk
from cogs import autocomplete, texts
from cogs.access import controls
from cogs.embeds import NEUTRAL, fitted, plain, sentence, shortened
from cogs.errors import in_our_words
from cogs.host import NothingToShow, host_of
from cogs.usage import Misuse
from cogs.vision_alerts import WatchAlerts
from cogs.vision_embeds import (
    ask_embed,
    classes_embed,
    concepts_embed,
    look_embed,
    progress_text,
    status_embed,
    timeline_embed,
    watch_lines,
)

if TYPE_CHECKING:
    from bot.client import DanzarBot

log = logging.getLogger(__name__)

SLOW_SECONDS = 1.5
"""Discord waits three seconds for an answer to a slash command: ask for more time before."""
PROGRESS_SECONDS = 2.0
START_LIMIT_SECONDS = 600.0
MOST_PHRASES = 64
COMING = ("loading", "moving")
WATCHES = "watches"

Answer = TypeVar("Answer")


class VisionCommands(commands.Cog, name="Vision"):
    """What Danzar sees on the screen."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot
        self.host = host_of(bot)
        if self.host.vision is None:
            raise NothingToShow("cogs.vision needs `bot.vision_pipeline`, a `VisionPipeline`")
        self.pipeline = self.host.vision
        self.timeline = Timeline()
        self.alerts = WatchAlerts(bot)
        self.desk = WatchDesk(self.pipeline, self.host.run_in_background, self._tell)
        self._unsubscribe: Callable[[], None] = lambda: None

    async def cog_load(self) -> None:
        self.desk.recall(self.host.chats.section(WATCHES).values(), time.time())
        self._unsubscribe = self.pipeline.subscribe(self._heard)

    async def cog_unload(self) -> None:
        self._unsubscribe()

    def _heard(self, report: FrameReport) -> None:
        self.timeline.add(report)
        self.desk.heard(report)

    # --- what is ------------------------------------------------------------------------------

    @commands.hybrid_group(name="vision", case_insensitive=True, ignore_extra=False, brief="Vision")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def vision(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows how vision is doing; alone it is the same as `vision status`.

        Example: `{prefix}vision`
        """
        await ctx.send(embed=status_embed(self.pipeline, self.host.simulated, self.host.prefix))

    @vision.command(name="status", brief="Models, devices and frames")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def status(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows where the frames come from, where each model runs and why, and how fast.

        Example: `{prefix}vision status`
        """
        await ctx.send(embed=status_embed(self.pipeline, self.host.simulated, self.host.prefix))

    @vision.command(name="look", brief="What is on the screen now")
    @commands.cooldown(2, 6, commands.BucketType.user)
    async def look(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows what the models see on the newest frame.

        The picture itself comes along only where `vision.share_frames` or `vision.share_channels`
        allows it: a screen is private.

        Example: `{prefix}vision look`
        """
        # Whether the frame may be shown depends on where it came from, which is known after
        # the look: ask for the picture where that is possible, and post it only if it may be.
        wanted = self.host.may_share(PRIVATE_FREE_SOURCE, ctx.channel)
        look = await in_time(ctx, self.pipeline.look(with_image=wanted))
        embed = look_embed(look.report, self.pipeline.services, self.host.simulated)
        if look.jpeg is None or not self.host.may_share(look.report.source, ctx.channel):
            embed.set_footer(text=f"{embed.footer.text} · {texts.PRIVATE}")
            await ctx.send(embed=embed)
            return
        embed.set_image(url="attachment://frame.jpg")
        await ctx.send(embed=embed, file=discord.File(io.BytesIO(look.jpeg), "frame.jpg"))

    @vision.command(name="timeline", brief="What went on lately")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def recent(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the last moments: what CLIP found likeliest, how long, and what YOLO saw then.

        Example: `{prefix}vision timeline`
        """
        host = self.host
        embed = timeline_embed(self.timeline.moments, host.simulated, host.prefix)
        await ctx.send(embed=embed)

    @vision.command(name="classes", brief="What YOLO looks for")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def classes(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the classes that YOLO reports, and which of them are on the newest frame.

        Example: `{prefix}vision classes`
        """
        settings = self.host.settings.yolo
        service = self.pipeline.services.get("yolo")
        reason = ""
        if service is not None and service.state != "running":
            state = texts.MODEL_STATES.get(service.state, service.state)
            reason = texts.CLASSES_MODEL.format(state=state, reason=service.reason)
            reason = reason if service.reason else state
        embed = classes_embed(
            settings.classes,
            settings.confidence_threshold,
            self.pipeline.latest,
            reason,
            self.host.prefix,
        )
        await ctx.send(embed=embed)

    # --- what is asked ------------------------------------------------------------------------

    @vision.command(name="ask", brief="Whether something is on the screen")
    @app_commands.describe(question="What to look for, in English: is the boss near death?")
    @app_commands.autocomplete(question=autocomplete.phrases)
    @commands.cooldown(3, 10, commands.BucketType.user)
    async def ask(self, ctx: commands.Context[DanzarBot], *, question: str) -> None:
        """Lets CLIP say how well any words fit the newest frame.

        It is a guess from one picture; 50% means no better than words that always fit.

        Example: `{prefix}vision ask "is the boss near death?"`
        """
        phrase = phrase_of(question)
        if not phrase:
            raise Misuse(texts.ASK_NOTHING.format(prefix=ctx.clean_prefix))
        scoring = asyncio.ensure_future(self.pipeline.score((phrase,)))
        await asyncio.wait({scoring}, timeout=SLOW_SECONDS)
        waiting = None
        if not scoring.done():
            waiting = await ctx.send(texts.ASK_LOOKING.format(phrase=plain(phrase)))
        try:
            scores = await scoring
        except VisionUnavailable as error:
            if waiting is None:
                raise
            await edited(waiting, copy_context(), content=in_our_words(error, ctx.clean_prefix))
            return
        clip = self.pipeline.services.get("clip")
        asked = shortened(" ".join(question.split()).strip("\"'“”"), MAX_CHARACTERS)
        model = clip.model if clip is not None else ""
        embed = ask_embed(asked, phrase, scores, model, self.host.prefix)
        if waiting is None:
            await ctx.send(embed=embed)
        else:
            await edited(waiting, copy_context(), content=None, embed=embed)

    @vision.group(name="concepts", fallback="show", ignore_extra=False, brief="CLIP's phrases")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def concepts(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows the phrases that CLIP chooses from, and the game profiles.

        Example: `{prefix}vision concepts`
        """
        profiles = self.host.settings.clip.profiles
        choice = chosen.recalled(self.host.chats)
        prefix = self.host.prefix
        await ctx.send(embed=concepts_embed(self.pipeline.concepts, profiles, choice, prefix))

    @concepts.command(name="profile", brief="Use a game profile's phrases")
    @app_commands.describe(name="One of the profiles in the configuration")
    @app_commands.autocomplete(name=autocomplete.profiles)
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def use_profile(self, ctx: commands.Context[DanzarBot], *, name: str) -> None:
        """Lets CLIP choose from the phrases of another game profile.

        Profiles stand in the configuration under `clip.profiles`.

        Example: `{prefix}vision concepts profile default`
        """
        profiles = self.host.settings.clip.profiles
        folded = {known.casefold(): known for known in profiles}
        known = folded.get(name.strip().strip("\"'").casefold())
        if known is None:
            there_are = ", ".join(sorted(profiles))
            raise Misuse(texts.NO_PROFILE.format(name=name, known=there_are))
        await self._choose(ctx, profiles[known])

    @concepts.command(name="set", brief="Use other phrases")
    @app_commands.describe(phrases="Two or more, with semicolons between them")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def set_phrases(self, ctx: commands.Context[DanzarBot], *, phrases: str) -> None:
        """Lets CLIP choose from these phrases, until they are reset.

        Example: `{prefix}vision concepts set a boss fight; low health; a shop`
        """
        given = (" ".join(phrase.split()).strip("\"'") for phrase in phrases.split(";"))
        wanted = tuple(dict.fromkeys(filter(None, given)))
        if len(wanted) < 2:
            raise Misuse(texts.TOO_FEW_PHRASES)
        if len(wanted) > MOST_PHRASES:
            wrong = texts.TOO_MANY_PHRASES.format(count=len(wanted), most=MOST_PHRASES)
            raise Misuse(wrong)
        if long := next((phrase for phrase in wanted if len(phrase) > MAX_CHARACTERS), None):
            shown = shortened(long, 40)
            raise Misuse(texts.LONG_PHRASE.format(phrase=shown, most=MAX_CHARACTERS))
        await self._choose(ctx, wanted)

    @concepts.command(name="reset", brief="Back to the configuration's phrases")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def reset_phrases(self, ctx: commands.Context[DanzarBot]) -> None:
        """Lets CLIP choose from the configuration's phrases again.

        Example: `{prefix}vision concepts reset`
        """
        configured = self.host.settings.clip.concepts
        await in_time(ctx, self.pipeline.use_concepts(configured), ephemeral=True)
        await self.host.chats.remove(chosen.SECTION, chosen.KEY)
        text = texts.CONCEPTS_RESET.format(count=len(configured))
        await ctx.send(text, ephemeral=True)

    async def _choose(self, ctx: commands.Context[DanzarBot], phrases: tuple[str, ...]) -> None:
        await in_time(ctx, self.pipeline.use_concepts(phrases), ephemeral=True)
        choice = chosen.ChosenPhrases(phrases, ctx.author.display_name, time.time())
        await self.host.chats.put(chosen.SECTION, chosen.KEY, choice.entry)
        who = f"{ctx.author} ({ctx.author.id})"
        log.info("%s lets CLIP choose from %d phrases: %s", who, len(phrases), "; ".join(phrases))
        listed = shortened("; ".join(plain(phrase) for phrase in phrases), 1500)
        text = texts.CONCEPTS_CHANGED.format(count=len(phrases), phrases=listed)
        until = texts.CONCEPTS_UNTIL.format(prefix=self.host.prefix)
        await ctx.send(f"{text}\n{until}", ephemeral=True)

    # --- what is watched for ------------------------------------------------------------------

    @vision.group(name="watch", fallback="add", brief="Tell when something appears")
    @app_commands.describe(what="A phrase such as low health, or a class such as boss")
    @app_commands.autocomplete(what=autocomplete.watchable)
    @commands.cooldown(3, 10, commands.BucketType.user)
    @controls()
    async def watch(self, ctx: commands.Context[DanzarBot], *, what: str) -> None:
        """Tells this channel when a phrase or a class appears.

        It must be there for two seconds; one message tells of it and is edited as it goes on.

        Example: `{prefix}vision watch "low health"`
        """
        what = " ".join(what.split()).strip("\"'“”")
        # A slash command is called `watch add`; who types may write that, too.
        what = what.removeprefix("add ").strip("\"'“”")[:MAX_CHARACTERS]
        if not what:
            raise Misuse(texts.WATCH_EMPTY)
        watch, answer = self._add_watch(ctx, what)
        await self._keep(watch)
        await ctx.send(answer, ephemeral=True)

    def _add_watch(self, ctx: commands.Context[DanzarBot], what: str) -> tuple[Watch, str]:
        name = what.casefold().replace(" ", "_")
        label = next(
            (known for known in self.host.settings.yolo.classes if known.casefold() == name), None
        )
        before = set(self.desk.watches)
        try:
            watch = self.desk.add(
                label or phrase_of(what) or what,
                "phrase" if label is None else "class",
                channel_id=ctx.channel.id,
                guild_id=ctx.guild.id if ctx.guild is not None else None,
                author_id=ctx.author.id,
            )
        except TooManyWatches as error:
            raise Misuse(str(error)) from error
        if watch.number in before:
            return watch, texts.WATCH_ADDED_ALREADY.format(number=watch.number)
        log.info("%s (%d) watches for %r", ctx.author, ctx.author.id, watch.what)
        lines = [
            texts.WATCH_ADDED.format(
                what=plain(watch.what),
                kind=texts.WATCH_KINDS[watch.kind],
                sustain=SUSTAIN_SECONDS,
                number=watch.number,
                prefix=self.host.prefix,
            )
        ]
        if self.pipeline.state != "running":
            off = texts.WATCH_VISION_OFF
            lines.append(off.format(state=self.pipeline.state, prefix=self.host.prefix))
        return watch, "\n".join(lines)

    async def _tell(self, watch: Watch) -> None:
        await self.alerts.show(watch)
        await self._keep(watch)

    async def _keep(self, watch: Watch) -> None:
        """A watch outlives a restart, and so does the message that it is in."""
        if watch.number in self.desk.watches:
            await self.host.chats.put(WATCHES, str(watch.number), watch.entry)

    @watch.command(name="list", brief="What is watched for")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def watch_list(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows what is watched for in this server, and whether it is there.

        Example: `{prefix}vision watch list`
        """
        watches = self._watches_of(ctx)
        prefix = ctx.clean_prefix
        embed = discord.Embed(
            title=texts.WATCH_LIST_TITLE,
            description=fitted(watch_lines(watches, ctx.channel.id), 3500)
            or texts.WATCH_NONE.format(prefix=prefix),
            colour=NEUTRAL,
        )
        if self.desk.trouble and any(watch.kind == "phrase" for watch in watches):
            trouble = texts.WATCH_TROUBLE.format(reason=sentence(self.desk.trouble, prefix))
            embed.add_field(name="CLIP", value=shortened(trouble, 1024), inline=False)
        if watches:
            embed.set_footer(text=texts.WATCH_FOOTER.format(prefix=prefix))
        await ctx.send(embed=embed)

    def _watches_of(self, ctx: commands.Context[DanzarBot]) -> list[Watch]:
        """Those of this server, or of this conversation: other servers' are not shown."""
        if ctx.guild is None:
            return [w for w in self.desk.watches.values() if w.channel_id == ctx.channel.id]
        return [w for w in self.desk.watches.values() if w.guild_id == ctx.guild.id]

    @watch.command(name="remove", brief="Watch for something no more")
    @app_commands.describe(number="The number that `vision watch list` shows")
    @commands.cooldown(3, 6, commands.BucketType.user)
    @controls()
    async def watch_remove(self, ctx: commands.Context[DanzarBot], number: int) -> None:
        """Ends one watch.

        Example: `{prefix}vision watch remove 1`
        """
        watch = next((w for w in self._watches_of(ctx) if w.number == number), None)
        if watch is None:
            raise Misuse(texts.WATCH_UNKNOWN.format(number=number, prefix=ctx.clean_prefix))
        del self.desk.watches[number]
        self.alerts.forget(watch)
        await self.host.chats.remove(WATCHES, str(number))
        await ctx.send(texts.WATCH_REMOVED.format(what=plain(watch.what)), ephemeral=True)

    # --- the switch ---------------------------------------------------------------------------

    @vision.command(name="start", brief="Start vision")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def start(self, ctx: commands.Context[DanzarBot]) -> None:
        """Starts the vision worker and loads the models.

        Example: `{prefix}vision start`
        """
        if self.pipeline.state in ("starting", "running"):
            text = texts.STARTING_ALREADY.format(state=self.pipeline.state, prefix=self.host.prefix)
            await ctx.send(text, ephemeral=True)
            return
        message = await ctx.send(texts.STARTING.format(prefix=self.host.prefix), ephemeral=True)
        if self.host.context is not None:
            self.host.context.start_vision()
        self.host.run_in_background(
            self._follow_start(message, copy_context()), "telling of the start"
        )

    async def _follow_start(self, message: discord.Message, asked_in: Context) -> None:
        """Start, unless that is under way, and edit the answer while the models come up."""
        await self.pipeline.start()
        prefix = self.host.prefix
        shown = texts.STARTING.format(prefix=prefix)
        for _ in range(round(START_LIMIT_SECONDS / PROGRESS_SECONDS)):
            states = [service.state for service in self.pipeline.services.values()]
            if self.pipeline.state in ("failed", "off"):
                reason = sentence(shortened(self.pipeline.state_reason, 1000), prefix)
                failed = texts.START_FAILED.format(reason=reason)
                await edited(message, asked_in, content=failed)
                return
            there = self.pipeline.state == "running" and not any(s in COMING for s in states)
            heading = texts.STARTED if there else texts.STARTING
            text = progress_text(self.pipeline, heading.format(prefix=prefix))
            if text != shown:
                await edited(message, asked_in, content=shortened(text, 2000))
                shown = text
            if there:
                return
            await asyncio.sleep(PROGRESS_SECONDS)

    @vision.command(name="stop", brief="Stop vision and free its memory")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def stop(self, ctx: commands.Context[DanzarBot]) -> None:
        """Stops vision and gives its GPU memory back.

        Example: `{prefix}vision stop`
        """
        if self.pipeline.state == "off":
            await ctx.send(texts.OFF_ALREADY.format(prefix=self.host.prefix), ephemeral=True)
            return
        message = await ctx.send(texts.STOPPING, ephemeral=True)
        self.host.run_in_background(self._stop(message, copy_context()), "stopping vision")

    async def _stop(self, message: discord.Message, asked_in: Context) -> None:
        await self.pipeline.stop()
        self.desk.blind(time.time())
        await edited(message, asked_in, content=texts.STOPPED.format(prefix=self.host.prefix))


async def in_time(
    ctx: commands.Context[Any], work: Coroutine[Any, Any, Answer], *, ephemeral: bool = False
) -> Answer:
    """``work``'s result; when it takes long, Discord is told that the answer will come."""
    doing = asyncio.ensure_future(work)
    await asyncio.wait({doing}, timeout=SLOW_SECONDS)
    if not doing.done():
        await ctx.defer(ephemeral=ephemeral)
    return await doing


async def edited(message: discord.Message, asked_in: Context, **changes: Any) -> None:
    """Edit an answer; that it is gone meanwhile does no harm.

    ``asked_in`` is the command's own context: discord.py keeps there what it needs to edit the
    answer to a slash command, and background work runs in another one.
    """
    try:
        await asyncio.create_task(message.edit(**changes), context=asked_in)
    except discord.HTTPException as error:
        log.info("an answer could not be brought up to date: %s", error)


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(VisionCommands(bot))
