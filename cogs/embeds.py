"""Discord's limits on embeds, and Danzar's colours."""

from __future__ import annotations

import re
from collections.abc import Iterable

import discord

from cogs import texts

FIELD_CHARACTERS = 1024

CALM = discord.Colour(0x3BA55D)
TIGHT = discord.Colour(0xF0A020)
FAILED = discord.Colour(0xD83C3E)
NEUTRAL = discord.Colour(0x5865F2)
_COMMAND = re.compile(r"^!?((?:gpu|vision|help|about|sync)\b)")


def plain(text: str) -> str:
    """Names from drivers, models and programs, shown as they are: no markup, no mentions."""
    return discord.utils.escape_mentions(discord.utils.escape_markdown(text))


def footing(text: str) -> str:
    """For footers, which know no markup but may hold names."""
    return discord.utils.escape_mentions(text)


def sentence(text: str, prefix: str) -> str:
    """Our own words, which may quote commands in backticks and name cards and programs.

    Whoever made them does not know the prefix that is in use here: commands get it now.
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "`".join(
        plain(part) if i % 2 == 0 else _COMMAND.sub(lambda found: prefix + found[1], part)
        for i, part in enumerate(parts)
    )


def shortened(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def fitted(lines: Iterable[str], limit: int = FIELD_CHARACTERS) -> str:
    """As many whole lines as fit, and how many were left out."""
    lines = list(lines)
    kept: list[str] = []
    room = limit - len(texts.MORE_LINES.format(count="0000"))
    for line in lines:
        line = shortened(line, 300)
        if sum(map(len, kept)) + len(kept) + len(line) > room:
            break
        kept.append(line)
    if left := len(lines) - len(kept):
        kept.append(texts.MORE_LINES.format(count=left))
    return "\n".join(kept)
