"""Who holds what: processes, models, and what would still fit. Embeds, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import discord

from cogs import texts
from cogs.bars import LLM, OTHER, OURS
from cogs.embeds import CALM, NEUTRAL, TIGHT, fitted, plain, sentence, shortened
from cogs.gpu_parts.faces import chosen_words
from danzar_gpu.config import device_index
from danzar_gpu.fit import Fit, largest_fit
from danzar_gpu.holders import Holding, Owner
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB, DeviceMemory, gib
from danzar_gpu.plural import counted
from danzar_gpu.report import age_text
from danzar_gpu.room import SURPRISE_SHARE

if TYPE_CHECKING:
    from bot.vision.pipeline import ServiceStatus
    from cogs.host import Host
    from danzar_gpu import Lease

LINES_PER_PAGE = 18
NEGLIGIBLE = GIB // 20
IDLE_SECONDS = 3.0
"""A model that sees a frame each second is not idle between two of them."""
UNKNOWN = "❔"
SQUARES: dict[Owner, str] = {"llm": LLM, "ours": OURS, "other": OTHER, "unknown": UNKNOWN}


def process_pages(host: Host) -> list[discord.Embed]:
    """Every process that the driver names, card by card, the largest first."""
    manager = host.manager
    snapshot = manager.snapshot
    devices = snapshot.devices if snapshot else ()
    rows = {i: list(found) for i, found in groupby(manager.holdings(), lambda h: h.device.index)}
    lines: list[str] = []
    for device in devices:
        lines += card_lines(device, rows.get(device.index, []))
    legend = texts.PROCESSES_LEGEND.format(llm=LLM, ours=OURS, other=OTHER, unknown=UNKNOWN)
    pages: list[discord.Embed] = []
    for chunk in chunked(lines) or [[texts.PROCESSES_NONE]]:
        embed = discord.Embed(
            title=host.titled(texts.PROCESSES_TITLE),
            description=shortened("\n".join(chunk), 4096),
            colour=CALM if devices else NEUTRAL,
        )
        embed.set_footer(text=legend)
        pages.append(embed)
    return pages


def card_lines(device: DeviceMemory, rows: Sequence[Holding]) -> list[str]:
    """A heading, the processes, and what nobody accounts for."""
    card, used = shortened(plain(device.label), 120), device.reserved_gb
    if device.processes is None:
        return [texts.PROCESSES_HIDDEN.format(card=card, used=used)]
    lines = [texts.PROCESSES_CARD.format(card=card, used=used, total=device.total_gb)]
    lines += [process_line(row) for row in rows]
    if any(row.used_bytes is None for row in rows):
        none = all(row.used_bytes is None for row in rows)
        lines.append(texts.PROCESSES_NO_ACCOUNT if none else texts.PROCESSES_SOME_UNKNOWN)
        return lines
    rest = device.reserved_bytes - sum(row.used_bytes or 0 for row in rows)
    if rest >= NEGLIGIBLE:
        lines.append(texts.PROCESSES_REST.format(size=gib(rest)))
    return lines


def process_line(row: Holding) -> str:
    size = texts.PROCESS_SIZE_UNKNOWN
    if row.used_bytes is not None:
        size = texts.PROCESS_SIZE.format(size=gib(row.used_bytes))
    return texts.PROCESS_LINE.format(
        size=size,
        square=SQUARES[row.owner],
        name=plain(shortened(row.name, 60)) if row.name else texts.PROCESS_UNNAMED,
        pid=texts.PROCESS_PID.format(pid=row.pid) if row.pid else "",
        owner=texts.PROCESS_OWNERS[row.owner],
    )


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
            more = texts.PROCESSES_CARD_ON.format(heading=heading)
            pages.append([] if line is heading or not heading else [more])
        pages[-1].append(line)
    return pages


def models_embed(host: Host) -> discord.Embed:
    """Each of our models and the LLM's: device, footprints, idle time, what fits beside it."""
    embed = discord.Embed(title=host.titled(texts.MODELS_TITLE), colour=CALM)
    services = host.vision.services if host.vision is not None else {}
    leases = {lease.name: lease for lease in host.manager.leases}
    for name in [*services, *(n for n in leases if n not in services)][:18]:
        service, lease = services.get(name), leases.get(name)
        title = f"{OURS} {plain(name)}"
        if service is not None and service.model:
            title += f" ({plain(service.model)})"
        lines = model_lines(host, name, service, lease)
        embed.add_field(name=shortened(title, 256), value=fitted(lines, 600), inline=False)
    title = f"{LLM} {texts.MODELS_LLM}"
    embed.add_field(name=title, value=fitted(llm_lines(host), 1000), inline=False)
    footer = chosen_words(host.manager.choices.made)
    embed.set_footer(text=shortened(footer or texts.CHOSEN_NOTHING, 1000))
    return embed


def model_lines(
    host: Host, name: str, service: ServiceStatus | None, lease: Lease | None
) -> list[str]:
    lines: list[str] = []
    if lease is None:
        state = service.state if service is not None else "off"
        reason = service.reason if service is not None else ""
        template = texts.MODEL_OFF_WHY if reason else texts.MODEL_OFF
        reason = sentence(shortened(reason, 300), host.prefix)
        lines.append(template.format(state=state, reason=reason))
    else:
        target = lease.target
        on = plain(service.device) if service is not None and service.device else lease.device
        if target is not None:
            there = target.device or texts.MODEL_UNLOADED
            on = texts.MODEL_MOVING.format(device=on, target=there)
        reason = sentence(shortened(lease.reason, 300), host.prefix)
        lines.append(texts.MODEL_ON.format(where=on, reason=reason))
        size = gib(lease.need.model_bytes)
        line = texts.MODEL_LEASE.format(number=lease.lease_id, priority=lease.priority, size=size)
        if lease.device != "cpu" and (context := lease.need.context_bytes):
            line += texts.MODEL_CONTEXT.format(size=gib(context))
        lines.append(line)
    if service is not None:
        measured = texts.MODEL_NOT_MEASURED
        if service.measured_bytes is not None:
            measured = texts.MODEL_MEASURED.format(size=gib(service.measured_bytes))
        if service.predicted_bytes:
            predicted = gib(service.predicted_bytes)
            lines.append(texts.MODEL_SIZES.format(predicted=predicted, measured=measured))
        if service.idle_seconds is not None:
            idle = service.idle_seconds >= IDLE_SECONDS
            template = texts.MODEL_IDLE if idle else texts.MODEL_BUSY
            age = age_text(service.idle_seconds)
            lines.append(template.format(age=age, frames=counted(service.frames, "frame")))
    if lease is not None and lease.device != "cpu":
        lines.append(beside(host, device_index(lease.device)))
    return lines


def llm_lines(host: Host) -> list[str]:
    """Where it is, what it holds and what is kept for it; its server's own word, if asked."""
    manager = host.manager
    config = manager.config
    room = manager.rooms().get(config.main_llm_index)
    if room is None:
        return [texts.LLM_AWAY.format(device=config.main_llm_device)]
    lines = [
        texts.LLM_HOLDS.format(
            device=config.main_llm_device,
            held=gib(room.llm_held),
            kept=gib(manager.reservation_bytes),
            promised=gib(room.outstanding),
        )
    ]
    if manager.learned_reservation is not None:
        lines.append(sentence(manager.learned_reservation.reason, host.prefix))
    server = manager.llm_server
    if server is not None and server.error is not None:
        reason = sentence(shortened(server.error, 200), host.prefix)
        lines.append(texts.LLM_SILENT.format(reason=reason))
    elif server is not None:
        for model in server.models[:6]:
            size = texts.LLM_SIZE_UNKNOWN
            if model.vram_bytes is not None:
                size = texts.LLM_SIZE.format(size=gib(model.vram_bytes))
            name = plain(shortened(model.name, 80))
            lines.append(texts.LLM_LOADED.format(model=name, size=size))
        if not server.models:
            lines.append(texts.LLM_EMPTY)
    else:
        lines.append(texts.LLM_UNASKED)
    lines.append(beside(host, config.main_llm_index))
    return lines


def beside(host: Host, index: int) -> str:
    """What would still fit on a card."""
    room = host.manager.rooms().get(index)
    size = largest_fit(room, host.manager.config) if room is not None else 0
    if size < NEGLIGIBLE:
        return texts.MODEL_BESIDE_NOTHING
    return texts.MODEL_BESIDE.format(size=gib(size))


def fit_embed(host: Host, what: str, need: Footprint, answer: Fit) -> discord.Embed:
    """Where something would fit, and what stands in its way elsewhere."""
    placement = answer.placement
    fits = placement.uuid is not None
    movable = any(card.must_leave for card in answer.cards)
    template = texts.FIT_AFTER_MOVES if movable else texts.FIT_NOWHERE
    if fits:
        template = texts.FIT_NOW
    there = next((c for c in answer.cards if c.device.uuid == placement.uuid), None)
    size = gib(there.model_bytes if there is not None else need.model_bytes)
    head = template.format(what=what, size=size, device=placement.device)
    if not fits and not movable and placement.device == "cpu":
        head = f"{head} {texts.FIT_ON_CPU}"
    embed = discord.Embed(
        title=host.titled(texts.FIT_TITLE),
        description=head,
        colour=CALM if fits else TIGHT,
    )
    for card in answer.cards[:16]:
        if card.problem is None:
            template = texts.FIT_CARD_CONTEXT if card.context_bytes else texts.FIT_CARD
            left, context = gib(max(0, card.left_bytes)), gib(card.context_bytes)
            words = template.format(left=left, context=context)
        else:
            problem = sentence(shortened(card.problem, 300), host.prefix)
            words = texts.FIT_NOT.format(problem=problem)
            if card.must_leave:
                names = ", ".join(map(plain, card.must_leave))
                words = f"{words}\n{texts.FIT_MOVES.format(models=names)}"
        name = shortened(plain(card.device.label), 200)
        embed.add_field(name=name, value=words, inline=False)
    if not answer.cards:
        embed.add_field(name=texts.FIT_NO_CARD, value=texts.FIT_ON_CPU)
    embed.set_footer(text=texts.FIT_FOOTER.format(share=SURPRISE_SHARE))
    return embed
