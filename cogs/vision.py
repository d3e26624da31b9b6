"""``!vision``: what the models see, where they run, and their switch."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import discord
from discord.ext import commands

from bot.vision.reports import Detection, FrameReport, Insight
from cogs.access import controls
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from danzar_gpu.memory import gib
from danzar_gpu.report import age_text

if TYPE_CHECKING:
    from bot.client import DanzarBot
    from bot.vision.pipeline import ServiceStatus

BAR_CELLS = 10
STATE_WORDS = {
    "off": "⚪ off",
    "waiting": "🕓 waiting for memory",
    "loading": "⏳ loading",
    "running": "🟢 running",
    "moving": "🚚 moving",
    "failed": "🔴 failed",
}
STATE_COLOURS = {"running": CALM, "starting": NEUTRAL, "off": NEUTRAL, "failed": FAILED}


class VisionCommands(commands.Cog, name="Vision"):
    """What Danzar sees on the screen."""

    def __init__(self, bot: DanzarBot) -> None:
        self.bot = bot
        self.pipeline = bot.app_context.vision

    @property
    def simulated(self) -> bool:
        return self.bot.app_context.gpu_memory_manager.source == "simulated"

    @commands.hybrid_group(name="vision", case_insensitive=True, ignore_extra=False, brief="Vision")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def vision(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows how vision is doing; alone it is the same as `vision status`.

        Example: `{prefix}vision`
        """
        await ctx.send(embed=self.status_embed())

    @vision.command(name="status", brief="Models, devices and frames")
    @commands.cooldown(3, 6, commands.BucketType.user)
    async def status(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows where the frames come from, where each model runs and why, and how fast.

        Example: `{prefix}vision status`
        """
        await ctx.send(embed=self.status_embed())

    @vision.command(name="look", brief="What is on the screen now")
    @commands.cooldown(2, 6, commands.BucketType.user)
    async def look(self, ctx: commands.Context[DanzarBot]) -> None:
        """Shows what the models see on the newest frame.

        The picture itself comes along only if `vision.share_frames` is on: a screen is private.

        Example: `{prefix}vision look`
        """
        context = self.bot.app_context
        # Whether the frame may be shown depends on where it came from, which is known after
        # the look: ask for the picture where that is possible, and post it only if it may be.
        look = await self.pipeline.look(with_image=context.demo or context.may_share(""))
        embed = look_embed(look.report, self.pipeline.services, self.simulated)
        if look.jpeg is None or not context.may_share(look.report.source):
            embed.set_footer(text=f"{embed.footer.text} · the picture is private")
            await ctx.send(embed=embed)
            return
        embed.set_image(url="attachment://frame.jpg")
        await ctx.send(embed=embed, file=discord.File(io.BytesIO(look.jpeg), "frame.jpg"))

    @vision.command(name="start", brief="Start vision")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def start(self, ctx: commands.Context[DanzarBot]) -> None:
        """Starts the vision worker and loads the models.

        Example: `{prefix}vision start`
        """
        if self.pipeline.state in ("starting", "running"):
            await ctx.send(f"👁️ Vision is {self.pipeline.state} already.")
            return
        self.bot.app_context.start_vision()
        await ctx.send("👁️ Vision is starting; `vision status` shows how far it is.")

    @vision.command(name="stop", brief="Stop vision and free its memory")
    @commands.cooldown(2, 10, commands.BucketType.guild)
    @controls()
    async def stop(self, ctx: commands.Context[DanzarBot]) -> None:
        """Stops vision and gives its GPU memory back.

        Example: `{prefix}vision stop`
        """
        if self.pipeline.state == "off":
            await ctx.send("👁️ Vision is off already.")
            return
        self.bot.app_context.run_in_background(self.pipeline.stop(), "stopping vision")
        await ctx.send("👁️ Vision is stopping and gives its memory back; `vision start` starts it.")

    def status_embed(self) -> discord.Embed:
        """State, source, frames and models."""
        pipeline = self.pipeline
        description = [f"**{pipeline.state.capitalize()}**"]
        if pipeline.state_reason:
            description.append(sentence(pipeline.state_reason))
        embed = discord.Embed(
            title="👁️ Vision (simulated GPUs)" if self.simulated else "👁️ Vision",
            description=shortened("\n".join(description), 2000),
            colour=STATE_COLOURS.get(pipeline.state, NEUTRAL),
        )
        states = [service.state for service in pipeline.services.values()]
        if pipeline.state == "running" and "failed" in states:
            embed.colour = TIGHT
        for name, service in pipeline.services.items():
            title = f"{name.upper()} ({plain(service.model)})" if service.model else name.upper()
            lines = service_lines(service, said=pipeline.state_reason)
            embed.add_field(name=shortened(title, 256), value=fitted(lines), inline=False)
        counts = pipeline.counts
        embed.add_field(
            name="Frames",
            value=(
                f"Source: {plain(pipeline.source) or 'none'}\n"
                f"{counts.captured} captured · {counts.analysed} analysed · "
                f"{counts.unchanged} unchanged · {counts.dropped} dropped"
            ),
            inline=False,
        )
        return embed


def service_lines(service: ServiceStatus, *, said: str = "") -> list[str]:
    """One model: state, device, reason (if not ``said`` above), memory and pace."""
    state = STATE_WORDS.get(service.state, service.state)
    where = f" on {plain(service.device)}" if service.device else ""
    lines = [f"{state}{where}"]
    if service.progress:
        lines.append(plain(service.progress))
    if service.reason and service.reason not in said:
        lines.append(sentence(service.reason))
    memory = []
    if service.predicted_bytes:
        memory.append(f"{gib(service.predicted_bytes):.2f}GB expected")
    if service.measured_bytes:
        memory.append(f"{gib(service.measured_bytes):.2f}GB measured")
    if memory:
        lines.append("Memory: " + ", ".join(memory))
    if service.frames:
        pace = f"{service.frames} frames"
        if service.milliseconds_p50 is not None:
            pace += f", {service.milliseconds_p50:.0f} ms each"
        lines.append(pace)
    return lines


def bar(probability: float) -> str:
    """``0.62`` as ten cells."""
    full = round(max(0.0, min(1.0, probability)) * BAR_CELLS)
    return "▰" * full + "▱" * (BAR_CELLS - full)


def detection_lines(detections: tuple[Detection, ...]) -> list[str]:
    """Objects by kind, the most certain first, with the middle of each box in pixels."""
    by_label: defaultdict[str, list[Detection]] = defaultdict(list)
    for detection in detections:
        by_label[detection.label].append(detection)
    lines = []
    for label, found in sorted(by_label.items(), key=lambda item: -best(item[1])):
        found.sort(key=lambda d: -d.confidence)
        places = [f"{d.confidence:.0%} at ({_middle(d)})" for d in found[:4]]
        if len(found) > 4:
            places.append(f"{len(found) - 4} more")
        count = f" × {len(found)}" if len(found) > 1 else ""
        lines.append(f"**{plain(label)}**{count}: {', '.join(places)}")
    return lines


def best(found: list[Detection]) -> float:
    """The highest confidence among them."""
    return max(d.confidence for d in found)


def _middle(detection: Detection) -> str:
    left, top, right, bottom = detection.box
    return f"{(left + right) / 2:.0f}, {(top + bottom) / 2:.0f}"


def insight_lines(insights: tuple[Insight, ...]) -> list[str]:
    """Phrases with bars, the likeliest first."""
    return [
        f"`{bar(i.probability)}` {i.probability:.0%} {plain(i.text)}"
        for i in sorted(insights, key=lambda i: -i.probability)
    ]


def look_embed(
    report: FrameReport, services: Mapping[str, ServiceStatus], simulated: bool
) -> discord.Embed:
    """One frame's report; ``services`` tell why a model has nothing to say."""
    embed = discord.Embed(title="👁️ What I see", colour=CALM)
    objects = fitted(detection_lines(report.detections))
    embed.add_field(
        name="Objects",
        value=objects or _silence(services, "yolo", "None that I know."),
        inline=False,
    )
    insights = fitted(insight_lines(report.insights))
    embed.add_field(
        name="Insights",
        value=insights or _silence(services, "clip", "Nothing certain enough."),
        inline=False,
    )
    if report.milliseconds:
        stages = " · ".join(
            f"{plain(stage)} {spent:.0f} ms" for stage, spent in report.milliseconds.items()
        )
        embed.add_field(name="Time", value=shortened(stages, 1024), inline=False)
    # On a frame that equals the one before nothing runs: the answers are carried over.
    running = {n: s.device for n, s in services.items() if s.state == "running"}
    devices = ", ".join(f"{name} on {where}" for name, where in (report.devices or running).items())
    footer = [
        f"frame {report.sequence}",
        f"{report.source} {report.width}×{report.height}",
        f"{age_text(max(0.0, time.time() - report.captured_at))} ago",
        devices or "no model runs",
    ]
    if report.unchanged:
        footer.append("unchanged")
    if simulated and "simulated" not in devices:
        footer.append("simulated GPUs")
    embed.set_footer(text=shortened(" · ".join(footer), 2000))
    return embed


def _silence(services: Mapping[str, ServiceStatus], name: str, nothing: str) -> str:
    """Why there is no answer: the model found nothing, or it doesn't run."""
    service = services.get(name)
    if service is None or service.state == "running":
        return nothing
    return f"{name.upper()}: {STATE_WORDS.get(service.state, service.state)}"


async def setup(bot: DanzarBot) -> None:
    await bot.add_cog(VisionCommands(bot))
