"""Discord's limits on embeds, and Danzar's colours."""

from __future__ import annotations

from collections.abc import Iterable

import discord

FIELD_CHARACTERS = 1024
DESCRIPTION_CHARACTERS = 4096

CALM = discord.Colour(0x3BA55D)
TIGHT = discord.Colour(0xF0A020)
FAILED = discord.Colour(0xD83C3E)
NEUTRAL = discord.Colour(0x5865F2)


def plain(text: str) -> str:
    """Names from drivers, models and programs, shown as they are: no markup, no mentions."""
    return discord.utils.escape_mentions(discord.utils.escape_markdown(text))


def sentence(text: str) -> str:
    """Our own words, which may quote commands in backticks and name cards and programs."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "`".join(plain(part) if i % 2 == 0 else part for i, part in enumerate(parts))


def shortened(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def fitted(lines: Iterable[str], limit: int = FIELD_CHARACTERS) -> str:
    """As many whole lines as fit, and how many were left out."""
    lines = list(lines)
    kept: list[str] = []
    room = limit - len("… and 0000 more")
    for line in lines:
        line = shortened(line, 300)
        if sum(map(len, kept)) + len(kept) + len(line) > room:
            break
        kept.append(line)
    if left := len(lines) - len(kept):
        kept.append(f"… and {left} more")
    return "\n".join(kept)
