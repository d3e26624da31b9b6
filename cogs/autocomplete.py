"""What slash commands suggest while somebody types.

Use as ``@app_commands.autocomplete(card=autocomplete.cards)`` below ``@group.command``. A choice's
value is what a person would type after the prefix, too: ``cuda:1``, ``yolo``, ``1h``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import discord
from discord import app_commands
from discord.ext import commands

from cogs import texts
from cogs.embeds import shortened
from cogs.host import Host, NothingToShow, host_of

MOST_CHOICES = 25
"""Discord takes no more, and names and values of at most 100 characters."""
CHARACTERS = 100

Choices = list[app_commands.Choice[str]]
Interaction = discord.Interaction[Any]


def matching(current: str, options: Iterable[tuple[str, str]]) -> Choices:
    """``(value, shown)`` that contain what was typed; those that begin with it come first."""
    typed = current.casefold().strip()
    found = [
        (value, shown)
        for value, shown in options
        # A value that had to be cut would not be what it stands for.
        if len(value) <= CHARACTERS and (typed in value.casefold() or typed in shown.casefold())
    ]
    found.sort(key=lambda option: not option[0].casefold().startswith(typed))
    return [
        app_commands.Choice(name=shortened(shown or value, CHARACTERS), value=value)
        for value, shown in found[:MOST_CHOICES]
        if value
    ]


def _host(interaction: Interaction) -> Host | None:
    try:
        return host_of(cast(commands.Bot, interaction.client))
    except NothingToShow:
        return None


async def models(interaction: Interaction, current: str) -> Choices:
    """Our models: those of vision, and whatever else holds a lease."""
    host = _host(interaction)
    if host is None:
        return []
    shown = {
        lease.name: texts.SUGGEST_PLACED.format(name=lease.name, device=lease.device)
        for lease in host.manager.leases
    }
    for name, service in host.vision.services.items() if host.vision is not None else ():
        called = name
        if service.model:
            called = texts.SUGGEST_NAMED.format(name=name, model=service.model)
        if service.device:
            shown[name] = texts.SUGGEST_PLACED.format(name=called, device=service.device)
        else:
            shown[name] = texts.SUGGEST_STATE.format(name=called, state=service.state)
    return matching(current, sorted(shown.items()))


async def cards(interaction: Interaction, current: str) -> Choices:
    """The cards of the newest reading, by index."""
    host = _host(interaction)
    if host is None:
        return []
    devices = host.manager.get_all_devices_memory_info().values()
    template = texts.SUGGEST_CARD_SIMULATED if host.simulated else texts.SUGGEST_CARD
    return matching(
        current,
        [
            (
                device.device,
                template.format(device=device.device, name=device.name, free=device.free_gb),
            )
            for device in devices
        ],
    )


async def spans(_interaction: Interaction, current: str) -> Choices:
    """How far back a history goes."""
    known = texts.HISTORY_SPANS
    options = ((span, texts.SUGGEST_SPAN.format(span=span, words=known[span])) for span in known)
    return matching(current, options)


async def profiles(interaction: Interaction, current: str) -> Choices:
    """The game profiles of the configuration."""
    host = _host(interaction)
    known = host.settings.clip.profiles if host is not None else {}
    return matching(
        current,
        [
            (name, texts.SUGGEST_PROFILE.format(name=name, count=len(known[name])))
            for name in sorted(known)
        ],
    )


async def classes(interaction: Interaction, current: str) -> Choices:
    """What YOLO reports."""
    host = _host(interaction)
    known = host.settings.yolo.classes if host is not None else ()
    return matching(current, [(name, name.replace("_", " ")) for name in known])


async def phrases(interaction: Interaction, current: str) -> Choices:
    """What CLIP chooses from now; any other phrase may be typed, too."""
    host = _host(interaction)
    if host is None or host.vision is None:
        return []
    return matching(current, [(phrase, phrase) for phrase in host.vision.concepts])


async def watchable(interaction: Interaction, current: str) -> Choices:
    """Phrases and classes."""
    found = [*await classes(interaction, current), *await phrases(interaction, current)]
    return found[:MOST_CHOICES]
