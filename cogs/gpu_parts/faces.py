"""A reading as an embed: the panel's face. Pure; nothing here talks to Discord."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import discord

from cogs.bars import bar, figures
from cogs.embeds import CALM, FAILED, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from danzar_gpu import report
from danzar_gpu.advice import ALL_WELL
from danzar_gpu.choices import OFFLOAD, RESERVATION, VISION_DEVICE
from danzar_gpu.history import Choice, Event
from danzar_gpu.memory import DeviceMemory

if TYPE_CHECKING:
    from cogs.host import Host

PANEL_MARK = "live panel"
PANEL_TITLE = "📟 GPU memory, live"
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
        title=f"{PANEL_TITLE} (simulated)" if host.simulated else PANEL_TITLE,
        colour=TIGHT if advice != [ALL_WELL] else CALM,
        timestamp=discord.utils.utcnow(),
    )
    notes: list[str] = []
    if paused_by is not None:
        notes.append(f"⏸️ **Paused** by {plain(shortened(paused_by, 60))}: the figures are old.")
        embed.colour = NEUTRAL
    elif not manager.monitoring_enabled:
        notes.append("🔴 Monitoring is off: the figures stay as they are. `gpu monitor` goes on.")
        embed.colour = NEUTRAL
    if manager.last_error is not None:
        words = sentence(shortened(manager.last_error, 300))
        notes.append(f"⚠️ The cards can't be read now: {words}. The figures are old.")
        embed.colour = FAILED
    for device in devices[:MOST_CARDS]:
        part = shares[device.index]
        lines = [f"{bar(part)} **{device.utilization_percent:.0f}%**", figures(part)]
        lines += [line for line in (pulse(device),) if line]
        name = shortened(plain(device.label), 100)
        embed.add_field(name=name, value="\n".join(lines), inline=False)
    if len(devices) > MOST_CARDS:
        notes.append(f"… and {len(devices) - MOST_CARDS} more cards: `gpu status` has them all.")
    if not devices:
        notes.append(report.NO_DEVICES)
    embed.description = "\n".join(notes) or None
    if models := model_lines(host):
        embed.add_field(name="Models", value=fitted(models, 700), inline=False)
    if (moved := last_move(manager.events)) is not None:
        words = f"<t:{int(moved.at)}:R> {sentence(shortened(moved.text, 400))}"
        embed.add_field(name="Last move", value=words, inline=False)
    worth_saying = [line for line in advice if line != ALL_WELL]
    if worth_saying:
        items = report.bullets(sentence(line) for line in worth_saying)
        embed.add_field(name=report.RECOMMENDATIONS_TITLE, value=fitted(items, 700), inline=False)
    footer = [PANEL_MARK, "edited when something changes"]
    if chosen := chosen_words(manager.choices.made):
        footer.append(chosen)
    embed.set_footer(text=shortened(" · ".join(footer), 500))
    return embed


def pulse(device: DeviceMemory) -> str:
    """Utilisation, temperature and power, as far as the card tells them."""
    parts: list[str] = []
    if device.gpu_utilization_percent is not None:
        parts.append(f"⚙️ {device.gpu_utilization_percent:.0f}% busy")
    if device.temperature_c is not None:
        parts.append(f"🌡️ {device.temperature_c:.0f} °C")
    if device.power_w is not None:
        parts.append(f"⚡ {device.power_w:.0f} W")
    return " · ".join(parts)


def model_lines(host: Host) -> list[str]:
    """Our models: where each is, or where it is going."""
    lines: list[str] = []
    for lease in host.manager.leases:
        target = lease.target
        where = plain(lease.device)
        if target is not None:
            where += f" → {plain(target.device or 'unloaded')}"
        lines.append(f"**{plain(lease.name)}** on {where}")
    return lines


def last_move(events: Iterable[Event]) -> Event | None:
    """The newest event that tells what moved, and why."""
    return next((event for event in reversed(tuple(events)) if event.kind in MOVES), None)


def chosen_words(choices: Iterable[Choice]) -> str:
    """What people chose instead of the configuration: for footers, which know no markup."""
    words: list[str] = []
    for choice in choices:
        who = shortened(choice.who, 32)
        if choice.key == RESERVATION:
            unit = "" if choice.value == "auto" else "GB"
            words.append(f"reservation {choice.value}{unit} chosen by {who}")
        elif choice.key == VISION_DEVICE:
            words.append(f"{choice.value} preferred by {who}")
        elif choice.key.startswith(OFFLOAD):
            words.append(f"{choice.key.removeprefix(OFFLOAD)} kept on the CPU by {who}")
    return "chosen in chat: " + ", ".join(words) if words else ""
