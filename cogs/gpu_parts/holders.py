"""Who holds what: processes, models, and what would still fit. Embeds, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import discord

from cogs.bars import LLM, OTHER, OURS
from cogs.embeds import CALM, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from cogs.gpu_parts.faces import chosen_words
from danzar_gpu.config import device_index
from danzar_gpu.fit import Fit, largest_fit
from danzar_gpu.holders import Holding, Owner
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB, DeviceMemory, gib
from danzar_gpu.report import age_text

if TYPE_CHECKING:
    from bot.vision.pipeline import ServiceStatus
    from cogs.host import Host
    from danzar_gpu import Lease

LINES_PER_PAGE = 18
NEGLIGIBLE = GIB // 20
OWNERS: dict[Owner, tuple[str, str]] = {
    "llm": (LLM, "LLM"),
    "ours": (OURS, "ours"),
    "other": (OTHER, "other"),
    "unknown": ("❔", "not visible: another user or container"),
}


def titled(title: str, host: Host) -> str:
    return f"{title} (simulated)" if host.simulated else title


def process_pages(host: Host) -> list[discord.Embed]:
    """Every process that the driver names, card by card, the largest first."""
    manager = host.manager
    snapshot = manager.snapshot
    devices = snapshot.devices if snapshot else ()
    rows = {i: list(found) for i, found in groupby(manager.holdings(), lambda h: h.device.index)}
    lines: list[str] = []
    for device in devices:
        lines += card_lines(device, rows.get(device.index, []))
    legend = f"{LLM} main LLM · {OURS} ours · {OTHER} other · ❔ not visible to us"
    pages: list[discord.Embed] = []
    for chunk in chunked(lines) or [["No GPU device was found."]]:
        embed = discord.Embed(
            title=titled("🧾 Who holds GPU memory", host),
            description=shortened("\n".join(chunk), 4096),
            colour=CALM if devices else NEUTRAL,
        )
        embed.set_footer(text=legend)
        pages.append(embed)
    return pages


def card_lines(device: DeviceMemory, rows: Sequence[Holding]) -> list[str]:
    """A heading, the processes, and what nobody accounts for."""
    heading = f"**{shortened(plain(device.label), 120)}**"
    if device.processes is None:
        return [
            f"{heading}: {device.reserved_gb:.1f}GB in use; the driver lists no processes here "
            "(WSL, WDDM and some containers hide them)"
        ]
    lines = [f"{heading}: {device.reserved_gb:.1f} of {device.total_gb:.1f}GB in use"]
    lines += [process_line(row) for row in rows]
    if any(row.used_bytes is None for row in rows):
        lines.append("The driver keeps no account per process here: only the card's sum is known.")
        return lines
    rest = device.reserved_bytes - sum(row.used_bytes or 0 for row in rows)
    if rest >= NEGLIGIBLE:
        lines.append(f"`{gib(rest):6.2f}GB` ⬜ the driver itself, and unaccounted")
    return lines


def process_line(row: Holding) -> str:
    square, words = OWNERS[row.owner]
    size = "     ?  " if row.used_bytes is None else f"{gib(row.used_bytes):6.2f}GB"
    name = plain(shortened(row.name, 60)) if row.name else "unnamed"
    pid = f" (pid {row.pid})" if row.pid else ""
    return f"`{size}` {square} {name}{pid}: {words}"


def chunked(lines: Sequence[str], size: int = LINES_PER_PAGE) -> list[list[str]]:
    """Pages of lines; a card's heading is repeated where its list goes on."""
    pages: list[list[str]] = []
    heading = ""
    for line in lines:
        if line.startswith("**"):
            heading = line
            # A heading alone at the foot of a page says nothing.
            if pages and len(pages[-1]) >= size - 1:
                pages.append([])
        if not pages or len(pages[-1]) >= size:
            pages.append([] if line is heading or not heading else [f"{heading} (continued)"])
        pages[-1].append(line)
    return pages


def models_embed(host: Host) -> discord.Embed:
    """Each of our models and the LLM's: device, footprints, idle time, what fits beside it."""
    embed = discord.Embed(title=titled("🧠 Models", host), colour=CALM)
    services = host.vision.services if host.vision is not None else {}
    leases = {lease.name: lease for lease in host.manager.leases}
    for name in [*services, *(n for n in leases if n not in services)][:18]:
        service, lease = services.get(name), leases.get(name)
        title = f"{OURS} {plain(name)}"
        if service is not None and service.model:
            title += f" ({plain(service.model)})"
        lines = model_lines(host, name, service, lease)
        embed.add_field(name=shortened(title, 256), value=fitted(lines, 600), inline=False)
    embed.add_field(name=f"{LLM} Main LLM", value=fitted(llm_lines(host), 1000), inline=False)
    footer = chosen_words(host.manager.choices.made)
    embed.set_footer(text=shortened(footer or "as configured; nothing was chosen in chat", 1000))
    return embed


def model_lines(
    host: Host, name: str, service: ServiceStatus | None, lease: Lease | None
) -> list[str]:
    lines: list[str] = []
    if lease is None:
        state = service.state if service is not None else "off"
        words = sentence(shortened(service.reason, 300)) if service and service.reason else ""
        lines.append(f"{state}, holds nothing" + (f": {words}" if words else ""))
    else:
        target = lease.target
        on = plain(service.device) if service is not None and service.device else lease.device
        where = on if target is None else f"{on} → {target.device or 'unloaded'}"
        lines.append(f"on **{where}**: {sentence(shortened(lease.reason, 300))}")
        lines.append(
            f"lease {lease.lease_id}, priority {lease.priority}, "
            f"counted with {gib(lease.need.total_bytes):.2f}GB"
        )
    if service is not None:
        measured = (
            "not measured on a card yet"
            if service.measured_bytes is None
            else f"{gib(service.measured_bytes):.2f}GB measured"
        )
        if service.predicted_bytes:
            lines.append(f"{gib(service.predicted_bytes):.2f}GB predicted, {measured}")
        if service.idle_seconds is not None:
            lines.append(f"idle for {age_text(service.idle_seconds)} after {service.frames} frames")
    if lease is not None and lease.device != "cpu":
        lines.append(beside(host, device_index(lease.device)))
    return lines


def llm_lines(host: Host) -> list[str]:
    """Where it is, what it holds and what is kept for it; its server's own word, if asked."""
    manager = host.manager
    config = manager.config
    room = manager.rooms().get(config.main_llm_index)
    if room is None:
        return [f"{config.main_llm_device} is not here"]
    kept = gib(manager.reservation_bytes)
    lines = [
        f"on **{config.main_llm_device}**: holds {gib(room.llm_held):.2f}GB, "
        f"{kept:.1f}GB are reserved, {gib(room.outstanding):.2f}GB of it still promised"
    ]
    if manager.learned_reservation is not None:
        lines.append(sentence(manager.learned_reservation.reason))
    server = manager.llm_server
    if server is not None and server.error is not None:
        lines.append(f"its server says nothing: {sentence(shortened(server.error, 200))}")
    elif server is not None:
        for model in server.models[:6]:
            size = "size unknown" if model.vram_bytes is None else f"{gib(model.vram_bytes):.2f}GB"
            lines.append(f"loaded: **{plain(shortened(model.name, 80))}** ({size})")
        if not server.models:
            lines.append("its server has no model loaded")
    else:
        lines.append("`main_llm_endpoint` in the configuration would name its models")
    lines.append(beside(host, config.main_llm_index))
    return lines


def beside(host: Host, index: int) -> str:
    """What would still fit on a card."""
    room = host.manager.rooms().get(index)
    size = largest_fit(room, host.manager.config) if room is not None else 0
    if size < NEGLIGIBLE:
        return "nothing more would fit next to it"
    return f"up to {gib(size):.1f}GB more would fit next to it"


def fit_embed(host: Host, what: str, need: Footprint, answer: Fit) -> discord.Embed:
    """Where something would fit, and what stands in its way elsewhere."""
    placement = answer.placement
    fits = placement.uuid is not None
    movable = any(card.must_leave for card in answer.cards)
    size = f"{gib(need.total_bytes):.2f}GB"
    if fits:
        head = f"✅ {what} ({size}) fits on **{placement.device}** now."
    elif movable:
        head = f"🟠 {what} ({size}) fits only if models of ours move."
    else:
        head = f"❌ {what} ({size}) fits on no card."
        if placement.device == "cpu":
            head += " It would run on the CPU."
    embed = discord.Embed(
        title=titled("📐 Would it fit?", host),
        description=head,
        colour=CALM if fits else TIGHT,
    )
    for card in answer.cards[:16]:
        if card.problem is None:
            left = gib(max(0, card.left_bytes))
            words = f"✅ fits; {left:.1f}GB would be left beyond what is promised"
        else:
            words = f"❌ {sentence(shortened(card.problem, 300))}"
            if card.must_leave:
                names = ", ".join(map(plain, card.must_leave))
                words += f"\n↪️ it would fit after **{names}** moved away"
        name = shortened(plain(card.device.label), 200)
        embed.add_field(name=name, value=words, inline=False)
    if not answer.cards:
        embed.add_field(name="No GPU device was found", value="It would run on the CPU.")
    embed.set_footer(text="a model that was never measured on a card counts half as much again")
    return embed


def named(names: Iterable[str]) -> str:
    return ", ".join(f"`{plain(name)}`" for name in names) or "none"
