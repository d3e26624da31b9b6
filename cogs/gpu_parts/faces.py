"""A reading as an embed: the panel's face. Pure; nothing here talks to Discord."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import discord

from cogs import texts
from cogs.bars import bar, figures
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, footing, plain, sentence, shortened
from danzar_gpu import report
from danzar_gpu.advice import ALL_WELL
from danzar_gpu.choices import OFFLOAD, RESERVATION
from danzar_gpu.history import Choice, Event
from danzar_gpu.memory import DeviceMemory

if TYPE_CHECKING:
    from cogs.host import Host

MOST_CARDS = 16
MOVES = ("revoked", "move-failed", "placed", "holder-gone", "decided")
"""Events that tell what moved, and why."""


def panel_embed(host: Host, paused_by: str | None = None) -> discord.Embed:
    """All cards at a glance: bars, figures, what moved last and why."""
    manager = host.manager
    snapshot = manager.snapshot
    devices = snapshot.devices if snapshot else ()
    shares = manager.shares()
    advice = manager.get_memory_recommendations()
    embed = discord.Embed(
        title=host.titled(texts.PANEL_TITLE),
        colour=TIGHT if advice != [ALL_WELL] else CALM,
        timestamp=discord.utils.utcnow(),
    )
    notes: list[str] = []
    if paused_by is not None:
        notes.append(texts.PANEL_PAUSED.format(who=plain(shortened(paused_by, 60))))
        embed.colour = NEUTRAL
    elif not manager.monitoring_enabled:
        notes.append(texts.PANEL_MONITORING_OFF.format(prefix=host.prefix))
        embed.colour = NEUTRAL
    if manager.last_error is not None:
        reason = sentence(shortened(manager.last_error, 300), host.prefix)
        notes.append(texts.PANEL_UNREADABLE.format(reason=reason))
        embed.colour = FAILED
    for device in devices[:MOST_CARDS]:
        part = shares[device.index]
        percent = device.utilization_percent
        lines = [texts.PANEL_BAR.format(bar=bar(part), percent=percent), figures(part)]
        lines += [line for line in (pulse(device),) if line]
        name = shortened(plain(device.label), 100)
        embed.add_field(name=name, value="\n".join(lines), inline=False)
    if len(devices) > MOST_CARDS:
        more = len(devices) - MOST_CARDS
        notes.append(texts.PANEL_MORE.format(count=more, prefix=host.prefix))
    if not devices:
        notes.append(report.NO_DEVICES)
    embed.description = "\n".join(notes) or None
    if models := model_lines(host):
        embed.add_field(name=texts.PANEL_MODELS, value=fitted(models, 700), inline=False)
    if (moved := last_move(manager.events)) is not None:
        what = sentence(shortened(moved.text, 400), host.prefix)
        words = texts.PANEL_MOVE.format(at=int(moved.at), what=what)
        embed.add_field(name=texts.PANEL_LAST_MOVE, value=words, inline=False)
    worth_saying = [line for line in advice if line != ALL_WELL]
    if worth_saying:
        items = report.bullets(sentence(line, host.prefix) for line in worth_saying)
        embed.add_field(name=report.RECOMMENDATIONS_TITLE, value=fitted(items, 700), inline=False)
    footer = [texts.PANEL_MARK, texts.PANEL_FOOTER]
    if chosen := chosen_words(manager.choices.made):
        footer.append(chosen)
    embed.set_footer(text=shortened(" · ".join(footer), 500))
    return embed


def offline_embed(host: Host) -> discord.Embed:
    """The same when the bot goes: the last figures, and since when nobody renews them."""
    embed = panel_embed(host)
    since = int(discord.utils.utcnow().timestamp())
    embed.description = texts.PANEL_OFFLINE.format(at=since)
    embed.colour = NEUTRAL
    return embed


def pulse(device: DeviceMemory) -> str:
    """Utilisation, temperature and power, as far as the card tells them."""
    parts: list[str] = []
    if device.gpu_utilization_percent is not None:
        parts.append(texts.PANEL_BUSY.format(busy=device.gpu_utilization_percent))
    if device.temperature_c is not None:
        parts.append(texts.PANEL_HEAT.format(celsius=device.temperature_c))
    if device.power_w is not None:
        parts.append(texts.PANEL_POWER.format(watts=device.power_w))
    return " · ".join(parts)


def model_lines(host: Host) -> list[str]:
    """Our models: where each is, or where it is going."""
    lines: list[str] = []
    for lease in host.manager.leases:
        target = lease.target
        where = plain(lease.device)
        if target is not None:
            there = plain(target.device or texts.MODEL_UNLOADED)
            where = texts.MODEL_MOVING.format(device=where, target=there)
        lines.append(texts.PANEL_MODEL.format(model=plain(lease.name), where=where))
    return lines


def last_move(events: Iterable[Event]) -> Event | None:
    """The newest event that tells what moved, and why."""
    return next((event for event in reversed(tuple(events)) if event.kind in MOVES), None)


def choice_words(choice: Choice) -> str:
    """One thing that somebody chose instead of the configuration, without markup."""
    who = shortened(choice.who, 32)
    if choice.key == RESERVATION:
        value = choice.value if choice.value == "auto" else f"{choice.value}GB"
        return texts.CHOSEN_RESERVATION.format(value=value, who=who)
    if choice.key.startswith(OFFLOAD):
        return texts.CHOSEN_OFFLOAD.format(model=choice.key.removeprefix(OFFLOAD), who=who)
    return texts.CHOSEN_CARD.format(value=choice.value, who=who)


def chosen_words(choices: Iterable[Choice]) -> str:
    """What people chose, for footers, which know no markup; empty if nothing."""
    words = ", ".join(map(choice_words, choices))
    return footing(texts.CHOSEN.format(choices=words)) if words else ""
