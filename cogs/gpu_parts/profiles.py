"""``!gpu profile``: what each model takes on each kind of device, in memory and in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import discord

from cogs import texts
from cogs.embeds import CALM, NEUTRAL, fitted, plain, sentence, shortened
from danzar_gpu.memory import gib
from danzar_gpu.plural import counted

if TYPE_CHECKING:
    from bot.profile import ModelProfile, MoveLine, Timing
    from cogs.host import Host

PER_PAGE = 4
SHOWN_MOVES = 2


def profile_pages(host: Host, profiles: Sequence[ModelProfile]) -> list[discord.Embed]:
    """A field for each model on each kind of device, a few on each page."""
    pages: list[discord.Embed] = []
    for first in range(0, max(1, len(profiles)), PER_PAGE):
        embed = discord.Embed(title=host.titled(texts.PROFILE_TITLE), colour=CALM)
        for profile in profiles[first : first + PER_PAGE]:
            lines = fitted(profile_lines(profile, host.prefix))
            embed.add_field(name=heading(profile), value=lines, inline=False)
        if not profiles:
            embed.description = texts.PROFILE_EMPTY.format(prefix=host.prefix)
            embed.colour = NEUTRAL
        else:
            embed.set_footer(text=texts.PROFILE_FOOTER)
        pages.append(embed)
    return pages


def heading(profile: ModelProfile) -> str:
    """The model, the device, and what of ours it serves."""
    words = plain(shortened(profile.model, 100))
    if profile.service:
        service = plain(profile.service.upper())
        words = texts.PROFILE_SERVICE.format(service=service, model=words)
    if profile.device_name:  # none before it was loaded anywhere
        device = plain(shortened(profile.device_name, 80))
        words = texts.PROFILE_HEADING.format(model=words, device=device)
    return shortened(words, 256)


def profile_lines(profile: ModelProfile, prefix: str) -> Iterator[str]:
    """Memory, times, pace, and the newest moves; what is not known has no line."""
    yield from memory_lines(profile)
    times = [
        timing_words(name, timing)
        for name, timing in (
            (texts.PROFILE_TIMES["load"], profile.load),
            (texts.PROFILE_TIMES["move"], profile.move),
            (texts.PROFILE_TIMES["offload"], profile.offload),
            (texts.PROFILE_TIMES["restore"], profile.restore),
        )
        if timing is not None
    ]
    if times:
        yield texts.PROFILE_TIMES_LINE.format(times=" · ".join(times))
    if profile.p50_ms is not None:
        yield texts.PROFILE_PACE.format(
            frames=counted(profile.frames, "frame"),
            p50=profile.p50_ms,
            p95=profile.p95_ms or profile.p50_ms,
            p99=profile.p99_ms or profile.p50_ms,
        )
    for move in profile.moves[-SHOWN_MOVES:][::-1]:
        yield move_line(move, prefix)


def memory_lines(profile: ModelProfile) -> Iterator[str]:
    """Footprints, as far as there are any."""
    known: list[str] = []
    if profile.predicted_bytes is not None:
        known.append(texts.PROFILE_PREDICTED.format(size=gib(profile.predicted_bytes)))
    if profile.measured_bytes is not None:
        size, times = gib(profile.measured_bytes), profile.measurements
        known.append(texts.PROFILE_MEASURED.format(size=size, times=times))
    if profile.fell_bytes is not None:
        known.append(texts.PROFILE_FELL.format(size=gib(profile.fell_bytes)))
    if known:
        yield texts.PROFILE_MEMORY.format(sizes=" · ".join(known))


def took(seconds: float) -> str:
    """``8 ms``, ``0.12 s``, ``2.4 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.0995 else f"{seconds:.2g} s"


def timing_words(name: str, timing: Timing) -> str:
    template = texts.PROFILE_TIMING if timing.count > 1 else texts.PROFILE_TIMING_ONCE
    return template.format(
        name=name,
        median=took(timing.median_seconds),
        count=timing.count,
        worst=took(timing.worst_seconds),
    )


def move_line(move: MoveLine, prefix: str) -> str:
    template = texts.PROFILE_MOVE if move.from_device else texts.PROFILE_MOVE_IN
    return template.format(
        at=move.at,
        kind=texts.PROFILE_TIMES.get(move.kind, move.kind),
        before=plain(shortened(move.from_device, 40)),
        after=plain(shortened(move.to_device, 40)),
        took=took(move.seconds),
        reason=sentence(shortened(move.reason, 120), prefix),
    )
