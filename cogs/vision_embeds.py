"""How reports and states of vision look in chat. No decisions here, and no waiting."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import discord

from bot.vision.asking import BACKGROUND, Scores, certainty
from bot.vision.chosen import ChosenPhrases
from bot.vision.reports import Detection, FrameReport, Insight
from bot.vision.timeline import Moment
from bot.vision.watches import Watch
from cogs import texts
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from danzar_gpu.memory import gib
from danzar_gpu.plural import counted
from danzar_gpu.report import age_text

if TYPE_CHECKING:
    from bot.vision.pipeline import ServiceStatus, VisionPipeline

BAR_CELLS = 10
SHOWN_MOMENTS = 10
SMALL_MODELS = ("clip-tiny",)
STATE_COLOURS = {"running": CALM, "starting": NEUTRAL, "off": NEUTRAL, "failed": FAILED}
CERTAINTY_COLOURS = {"yes": CALM, "likely": CALM, "unclear": NEUTRAL}


def status_embed(pipeline: VisionPipeline, simulated: bool, prefix: str) -> discord.Embed:
    """State, source, frames and models."""
    description = [f"**{texts.VISION_STATES.get(pipeline.state, pipeline.state)}**"]
    if pipeline.state_reason:
        description.append(sentence(pipeline.state_reason, prefix))
    embed = discord.Embed(
        title=texts.VISION_TITLE_SIMULATED if simulated else texts.VISION_TITLE,
        description=shortened("\n".join(description), 2000),
        colour=STATE_COLOURS.get(pipeline.state, NEUTRAL),
    )
    states = [service.state for service in pipeline.services.values()]
    if pipeline.state == "running" and "failed" in states:
        embed.colour = TIGHT
    for name, service in pipeline.services.items():
        title = f"{name.upper()} ({plain(service.model)})" if service.model else name.upper()
        lines = service_lines(service, prefix, said=pipeline.state_reason)
        embed.add_field(name=shortened(title, 256), value=fitted(lines), inline=False)
    counts = pipeline.counts
    frames = texts.FRAMES_VALUE.format(
        source=plain(shortened(pipeline.source, 300)) or texts.NO_SOURCE,
        captured=counts.captured,
        analysed=counts.analysed,
        unchanged=counts.unchanged,
        dropped=counts.dropped,
    )
    if counts.limit:
        frames += "\n" + texts.FRAMES_LIMIT.format(limit=plain(counts.limit))
    embed.add_field(name=texts.FRAMES, value=shortened(frames, 1024), inline=False)
    return embed


def service_lines(service: ServiceStatus, prefix: str, *, said: str = "") -> list[str]:
    """One model: state, device, reason (if not ``said`` above), memory and pace."""
    state = texts.MODEL_STATES.get(service.state, service.state)
    lines = [state]
    if service.device:
        lines = [texts.MODEL_STATE_ON.format(state=state, device=plain(service.device))]
    if service.progress:
        lines.append(plain(service.progress))
    if service.reason and service.reason not in said:
        lines.append(sentence(service.reason, prefix))
    memory: list[str] = []
    if service.predicted_bytes:
        memory.append(texts.MEMORY_EXPECTED.format(size=gib(service.predicted_bytes)))
    if service.measured_bytes:
        memory.append(texts.MEMORY_MEASURED.format(size=gib(service.measured_bytes)))
    if memory:
        lines.append(texts.MEMORY.format(sizes=", ".join(memory)))
    if service.frames:
        pace = counted(service.frames, "frame")
        if service.milliseconds_p50 is not None:
            pace += texts.PACE_EACH.format(milliseconds=service.milliseconds_p50)
        lines.append(pace)
    return lines


def progress_text(pipeline: VisionPipeline, heading: str) -> str:
    """How far the start is: the heading, and a line for each model."""
    lines = [heading]
    for name, service in pipeline.services.items():
        state = texts.MODEL_STATES.get(service.state, service.state)
        detail = f": {plain(service.progress)}" if service.progress else ""
        lines.append(f"{name.upper()} {state}{detail}")
    return "\n".join(lines)


def bar(probability: float) -> str:
    """``0.62`` as ten cells."""
    full = round(max(0.0, min(1.0, probability)) * BAR_CELLS)
    return "▰" * full + "▱" * (BAR_CELLS - full)


def by_label(detections: Iterable[Detection]) -> list[tuple[str, list[Detection]]]:
    """Objects by kind, the most certain first, in both."""
    found: defaultdict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.confidence):
        found[detection.label].append(detection)
    return list(found.items())


def detection_lines(detections: tuple[Detection, ...]) -> list[str]:
    """A line for each kind, with the middle of each box in pixels."""
    lines: list[str] = []
    for label, found in by_label(detections):
        places = [
            texts.PLACE_OF_OBJECT.format(confidence=d.confidence, place=_middle(d))
            for d in found[:4]
        ]
        if len(found) > 4:
            places.append(texts.MORE_OBJECTS.format(count=len(found) - 4))
        count = f" × {len(found)}" if len(found) > 1 else ""
        lines.append(f"**{plain(shortened(label, 100))}**{count}: {', '.join(places)}")
    return lines


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
    embed = discord.Embed(title=texts.LOOK_TITLE, colour=CALM)
    embed.add_field(
        name=texts.OBJECTS,
        value=fitted(detection_lines(report.detections))
        or _silence(services, "yolo", texts.NO_OBJECTS),
        inline=False,
    )
    embed.add_field(
        name=texts.INSIGHTS,
        value=fitted(insight_lines(report.insights))
        or _silence(services, "clip", texts.NO_INSIGHTS),
        inline=False,
    )
    if report.milliseconds:
        stages = " · ".join(
            f"{plain(stage)} {spent:.0f} ms" for stage, spent in report.milliseconds.items()
        )
        embed.add_field(name=texts.TIME, value=shortened(stages, 1024), inline=False)
    # On a frame that equals the one before nothing runs: the answers are carried over.
    running = {n: s.device for n, s in services.items() if s.state == "running"}
    devices = ", ".join(f"{name} on {where}" for name, where in (report.devices or running).items())
    footer = [*frame_words(report), devices or texts.NO_MODEL]
    if report.unchanged:
        footer.append(texts.UNCHANGED)
    if simulated and "simulated" not in devices:
        footer.append(texts.GPUS_SIMULATED)
    embed.set_footer(text=shortened(" · ".join(footer), 2000))
    return embed


def frame_words(report: FrameReport) -> list[str]:
    """Which frame it is, for a footer."""
    return [
        texts.FRAME.format(sequence=report.sequence),
        f"{report.source} {report.width}×{report.height}",
        texts.AGO.format(age=age_text(max(0.0, time.time() - report.captured_at))),
    ]


def _silence(services: Mapping[str, ServiceStatus], name: str, nothing: str) -> str:
    """Why there is no answer: the model found nothing, or it doesn't run."""
    service = services.get(name)
    if service is None or service.state == "running":
        return nothing
    return f"{name.upper()}: {texts.MODEL_STATES.get(service.state, service.state)}"


def ask_embed(question: str, phrase: str, scores: Scores, model: str, prefix: str) -> discord.Embed:
    """The answer to ``vision ask``: a word, the figure, and what it is worth."""
    found = scores.probabilities[phrase]
    sure = certainty(found)
    embed = discord.Embed(
        title=shortened(texts.ASK_TITLE.format(question=plain(question)), 256),
        description=texts.ASK_BODY.format(
            word=texts.ASK_WORDS[sure], bar=bar(found), probability=found, phrase=plain(phrase)
        ),
        colour=CERTAINTY_COLOURS.get(sure, NEUTRAL),
    )
    how = texts.ASK_HOW_BODY.format(count=len(BACKGROUND))
    if model in SMALL_MODELS:
        how += " " + texts.ASK_SMALL_MODEL.format(model=plain(model), prefix=prefix)
    embed.add_field(name=texts.ASK_HOW, value=how, inline=False)
    footer = [*frame_words(scores.report), f"{model or 'clip'} on {scores.device}"]
    embed.set_footer(text=shortened(" · ".join([*footer, f"{scores.milliseconds:.0f} ms"]), 2000))
    return embed


def timeline_embed(moments: tuple[Moment, ...], simulated: bool, prefix: str) -> discord.Embed:
    """The newest moments, newest first."""
    lines = [
        _moment_line(moment, going_on=i == len(moments) - 1) for i, moment in enumerate(moments)
    ]
    embed = discord.Embed(
        title=texts.TIMELINE_TITLE,
        description="\n".join(reversed(lines[-SHOWN_MOMENTS:]))
        or texts.TIMELINE_EMPTY.format(prefix=prefix),
        colour=CALM if lines else NEUTRAL,
    )
    if simulated:
        embed.set_footer(text=texts.GPUS_SIMULATED)
    return embed


def _moment_line(moment: Moment, *, going_on: bool) -> str:
    objects = ", ".join(
        plain(shortened(label, 40)) + (f" × {count}" if count > 1 else "")
        for label, count in list(moment.objects.items())[:5]
    )
    template = texts.TIMELINE_NOW if going_on else texts.TIMELINE_MOMENT
    return template.format(
        time=f"<t:{moment.began:.0f}:T>",
        phrase=plain(shortened(moment.phrase, 80)) or texts.TIMELINE_UNCERTAIN,
        probability=f" {moment.probability:.0%}" if moment.phrase else "",
        span=age_text(moment.ended - moment.began),
        objects=f" · {objects}" if objects else "",
    )


def classes_embed(
    classes: tuple[str, ...],
    threshold: float,
    report: FrameReport | None,
    reason: str,
    prefix: str,
) -> discord.Embed:
    """What YOLO is asked for, and what of it is there now."""
    seen = dict(by_label(report.detections)) if report is not None else {}
    lines: list[str] = []
    for name in classes:
        shown = plain(shortened(name, 100))
        if found := seen.get(name):
            best = found[0].confidence
            lines.append(texts.CLASS_SEEN.format(name=shown, count=len(found), confidence=best))
        elif report is None:
            lines.append(texts.CLASS_NO_FRAME.format(name=shown))
        else:
            lines.append(texts.CLASS_NOT_SEEN.format(name=shown))
    embed = discord.Embed(
        title=texts.CLASSES_TITLE, description=fitted(lines, 3000), colour=NEUTRAL
    )
    if reason:
        embed.add_field(name="YOLO", value=shortened(sentence(reason, prefix), 1024), inline=False)
    embed.set_footer(text=texts.CLASSES_FOOTER.format(threshold=threshold))
    return embed


def concepts_embed(
    concepts: tuple[str, ...],
    profiles: Mapping[str, tuple[str, ...]],
    chosen: ChosenPhrases | None,
    prefix: str,
) -> discord.Embed:
    """The phrases in use, and the profiles that there are."""
    using = next((name for name, known in profiles.items() if known == concepts), None)
    heading: list[str] = []
    if using is not None:
        heading.append(texts.CONCEPTS_PROFILE.format(name=plain(shortened(using, 100))))
    if chosen is not None:
        who, when = plain(shortened(chosen.who, 60)), _relative(chosen.at)
        heading.append(texts.CONCEPTS_CHOSEN.format(who=who, when=when, prefix=prefix))
    lines = [*heading, *(f"• {plain(phrase)}" for phrase in concepts)]
    embed = discord.Embed(
        title=texts.CONCEPTS_TITLE,
        description=fitted(lines, 3500),
        colour=NEUTRAL,
    )
    names = [
        texts.CONCEPTS_IN_PROFILE.format(name=plain(shortened(name, 100)), count=len(known))
        for name, known in profiles.items()
    ]
    embed.add_field(name=texts.CONCEPTS_PROFILES, value=fitted(names), inline=False)
    return embed


def watch_lines(watches: Iterable[Watch], here: int) -> list[str]:
    """One line a watch; ``here`` is the channel in which they are shown."""
    return [
        texts.WATCH_LINE.format(
            number=watch.number,
            what=plain(watch.what),
            kind=texts.WATCH_KINDS[watch.kind],
            where=texts.WATCH_HERE
            if watch.channel_id == here
            else texts.WATCH_THERE_IN.format(channel=watch.channel_id),
            state=texts.WATCH_THERE.format(since=_relative(watch.since))
            if watch.present
            else texts.WATCH_AWAY,
        )
        for watch in watches
    ]


def sighting_embed(watch: Watch, prefix: str) -> discord.Embed:
    """A watch's message as things stand now."""
    template = texts.SIGHTING_THERE if watch.present else texts.SIGHTING_GONE
    lines = [template.format(since=_relative(watch.since))]
    lines.append(texts.SIGHTING_BEST.format(bar=bar(watch.best), probability=watch.best))
    if watch.times > 1:
        lines.append(texts.SIGHTING_TIMES.format(count=watch.times))
    embed = discord.Embed(
        title=shortened(texts.SIGHTING_TITLE.format(what=plain(watch.what)), 256),
        description="\n".join(lines),
        colour=TIGHT if watch.present else NEUTRAL,
    )
    embed.set_footer(text=texts.SIGHTING_FOOTER.format(number=watch.number, prefix=prefix))
    return embed


def _relative(moment: float) -> str:
    return f"<t:{moment:.0f}:R>"
