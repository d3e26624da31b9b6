"""Acting on memory from chat: what each action does, and what it changed, in figures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import discord
from discord.ext import commands

from cogs.embeds import CALM, TIGHT, fitted, plain, sentence, shortened
from cogs.gpu_parts.holders import titled
from danzar_gpu.choices import OFFLOAD
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import gib
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from cogs.host import Host

MOVE_PATIENCE_SECONDS = 12.0
LOOK_EVERY_SECONDS = 0.5
RELEASE_SECONDS = 1.0
"""The driver shows memory that was given up half a second to a second and a half later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action did."""

    title: str
    words: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    done: bool = True

    def embed(self, host: Host, who: str) -> discord.Embed:
        embed = discord.Embed(
            title=titled(self.title, host),
            description=shortened(self.words, 2000),
            colour=CALM if self.done else TIGHT,
        )
        embed.add_field(name="Before", value=fitted(self.before), inline=False)
        embed.add_field(name="After", value=fitted(self.after), inline=False)
        embed.set_footer(text=shortened(f"by {who} · gpu reset goes back", 200))
        return embed


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something that might be put on a card."""

    title: str
    need: Footprint
    name: str = "the model"
    holder: str = ""
    """The process that would hold it: its CUDA context is there already."""


Action = Callable[[], Awaitable[Outcome]]


class Control:
    """Offload, restore, trim, reserve, prefer, reset. ``who`` is recorded with each."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._manager = host.manager

    # What people write

    def model_named(self, name: str) -> str:
        """One of our models. Raises ``BadArgument`` with those that there are."""
        known = self.model_names()
        found = next((k for k in known if k.lower() == name.strip().lower()), None)
        if found is None:
            raise commands.BadArgument(
                f"I know no model “{shortened(name, 40)}”. There are: {', '.join(known) or 'none'}."
            )
        return found

    def model_names(self) -> list[str]:
        """Vision's models, and whatever else holds a lease or was sent to the CPU."""
        names = list(self._host.vision.services) if self._host.vision is not None else []
        kept = [c.key for c in self._manager.choices.made if c.key.startswith(OFFLOAD)]
        names += [lease.name for lease in self._manager.leases]
        names += [key.removeprefix(OFFLOAD) for key in kept]
        return list(dict.fromkeys(names))

    def card_named(self, text: str) -> str:
        """``cuda:1`` from ``cuda:1``, ``1`` or ``gpu 1``. Raises ``BadArgument``."""
        bare = text.strip().lower().removeprefix("cuda:").removeprefix("gpu").strip()
        devices = self._manager.get_all_devices_memory_info()
        if not bare.isdecimal() or int(bare) not in devices:
            known = ", ".join(d.device for d in devices.values()) or "none"
            raise commands.BadArgument(
                f"There is no card “{shortened(text, 40)}” here. There are: {known}."
            )
        return f"cuda:{int(bare)}"

    def size_or_model(self, text: str) -> Wanted:
        """``2.5``, ``2.5GB`` or the name of a model. Raises ``BadArgument``."""
        if (size := _gigabytes(text)) is not None:
            return Wanted("A model", Footprint.of_gb(size))
        name = self.model_named(text)
        lease = next((x for x in self._manager.leases if x.name == name), None)
        if lease is not None:
            return Wanted(f"Another {plain(name)}", lease.need, name, lease.holder)
        service = self._host.vision.services.get(name) if self._host.vision is not None else None
        size_bytes = (service.measured_bytes or service.predicted_bytes) if service else 0
        if not size_bytes:
            raise commands.BadArgument(
                f"It is not known yet what {name} needs. Give a size in GB instead."
            )
        return Wanted(plain(name), Footprint(weights_bytes=size_bytes), name)

    @staticmethod
    def reservation(text: str) -> float | str:
        """GiB, or ``auto``. Raises ``BadArgument``."""
        if text.strip().lower() == "auto":
            return "auto"
        size = _gigabytes(text)
        if size is None or size > 1024:
            raise commands.BadArgument(
                "How much to reserve is a number of GB between 0 and 1024, or auto."
            )
        return size

    # What is done

    async def offload(self, name: str, who: str) -> Outcome:
        """To the CPU, until it is restored."""

        async def act() -> str:
            self._manager.choices.offload(name, who)
            return await self._arrived(name)

        words, before, after = await self._around(act)
        done = self._where(name) in ("cpu", None)
        return Outcome(f"⬇️ {name} to the CPU", words, before, after, done)

    async def restore(self, name: str, who: str) -> Outcome:
        """Back to a card, as soon as one has room."""

        async def act() -> str:
            found = self._manager.choices.restore(name, who)
            words = await self._arrived(name)
            stays = next((p.reason for p in found if p.uuid is None), None)
            if stays is not None:
                words += f" No card has room now: {sentence(stays)}. It goes when one has."
            return words

        words, before, after = await self._around(act)
        return Outcome(f"⬆️ {name} may use a card again", words, before, after)

    async def trim(self, who: str) -> Outcome:
        """The worker's unused memory goes back to the driver."""
        vision = self._host.vision
        held = (0, 0)

        async def act() -> str:
            nonlocal held
            if vision is None:
                return "There is no vision worker in this bot."
            held = await vision.trim()
            self._manager.decided(f"{who} had unused memory given back")
            freed = gib(max(0, held[0] - held[1]))
            await asyncio.sleep(RELEASE_SECONDS)
            if not held[0]:
                return "The vision worker holds no GPU memory: its models are on the CPU."
            return (
                f"The vision worker's allocator gave back {freed:.2f}GB: it held "
                f"{gib(held[0]):.2f}GB and now holds {gib(held[1]):.2f}GB."
            )

        words, before, after = await self._around(act)
        return Outcome("🧹 Unused memory given back", words, before, after)

    async def reserve(self, size: float | str, who: str) -> Outcome:
        """Another reservation for the main LLM."""
        old = gib(self._manager.reservation_bytes)

        async def act() -> str:
            self._manager.choices.reserve(size, who)
            await self._still()
            new = gib(self._manager.reservation_bytes)
            return f"Kept for the main LLM: **{old:.1f}GB** before, **{new:.1f}GB** now" + (
                " (learned from what it really uses)." if size == "auto" else "."
            )

        words, before, after = await self._around(act)
        return Outcome("🟪 Reservation changed", words, before, after)

    async def prefer(self, device: str, who: str) -> Outcome:
        """Another first choice for vision."""
        old = self._manager.config.vision_device

        async def act() -> str:
            self._manager.choices.prefer(device, who)
            await self._still()
            best, reason = self._manager.get_best_vision_device()
            return (
                f"Vision preferred **{old}** and now prefers **{device}**. A model would go to "
                f"**{best or 'none'}** now: {sentence(reason)}."
            )

        words, before, after = await self._around(act)
        return Outcome("🎯 Vision's card", words, before, after)

    async def reset(self, who: str) -> Outcome:
        """Back to the configuration."""
        made = self._manager.choices.made

        async def act() -> str:
            self._manager.choices.reset(who)
            await self._still()
            undone = [
                f"{c.key.replace(OFFLOAD, 'offload of ')} ({c.value}, by {c.who})" for c in made
            ]
            return "Back to the configuration. Undone: " + plain("; ".join(undone)) + "."

        words, before, after = await self._around(act)
        return Outcome("↩️ As configured", words, before, after)

    # Questions before what hurts

    def warning_of_offload(self, name: str) -> str:
        return (
            f"**{plain(name)}** would run on the CPU, slower, until `gpu restore {plain(name)}`; "
            "its GPU memory becomes free."
        )

    def warning_of_reserve(self, size: float | str) -> str:
        old = gib(self._manager.reservation_bytes)
        if size == "auto":
            return f"The reservation (now {old:.1f}GB) would follow the LLM's observed peak."
        if float(size) < old:
            return (
                f"Only {size:g}GB instead of {old:.1f}GB would be kept for the main LLM: vision "
                "may take the rest, and the LLM may run out of memory when it grows."
            )
        return (
            f"{size:g}GB instead of {old:.1f}GB would be kept for the main LLM: models of vision "
            "on its card may have to move."
        )

    def warning_of_reset(self) -> str:
        made = self._manager.choices.made
        listed = "\n".join(
            f"• `{plain(c.key)}` = {plain(c.value)}, by {plain(c.who)}" for c in made
        )
        return f"What was chosen in chat would be undone:\n{shortened(listed, 1200)}"

    # Figures

    async def _around(
        self, act: Callable[[], Awaitable[str]]
    ) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        await self._look(max_age=1.0)
        before = tuple(self.figures())
        words = await act()
        await self._look(max_age=0.0)
        return words, before, tuple(self.figures())

    def figures(self) -> list[str]:
        """Each card and each model now."""
        manager = self._manager
        shares = manager.shares()
        lines: list[str] = []
        for i, device in manager.get_all_devices_memory_info().items():
            line = f"{plain(shortened(device.label, 60))}: {device.free_gb:.2f}GB free"
            if shares[i].promised:
                line += f", {gib(shares[i].promised):.2f}GB of it promised to the LLM"
            if shares[i].ours:
                line += f", {gib(shares[i].ours):.2f}GB held by vision"
            lines.append(line)
        lines += [f"{plain(name)}: {where}" for name, where in self._places()]
        return lines or ["no GPU, no models"]

    def _places(self) -> Iterable[tuple[str, str]]:
        for lease in self._manager.leases:
            target = lease.target
            going = f" → {target.device or 'unloaded'} (on its way)" if target is not None else ""
            yield lease.name, f"{lease.device}{going}, {gib(lease.need.total_bytes):.2f}GB"

    def _where(self, name: str) -> str | None:
        return next((lease.device for lease in self._manager.leases if lease.name == name), None)

    async def _arrived(self, name: str) -> str:
        """Wait for a model's move; in words where it is then."""
        await self._still(name)
        lease = next((x for x in self._manager.leases if x.name == name), None)
        if lease is None:
            return f"**{plain(name)}** is not loaded: this holds from its next start on."
        if lease.target is not None:
            return (
                f"**{plain(name)}** is still on {lease.device}, on its way to "
                f"{lease.target.device or 'nowhere'}; `gpu models` shows when it has arrived."
            )
        return f"**{plain(name)}** is on **{lease.device}**: {sentence(lease.reason)}."

    async def _still(self, name: str | None = None) -> None:
        """Wait until nothing (of that name) moves, for a while at most."""
        waits = int(MOVE_PATIENCE_SECONDS / LOOK_EVERY_SECONDS)
        moved = False
        for _ in range(waits):
            moving = [x for x in self._manager.leases if name in (None, x.name) and x.target]
            if not moving:
                break
            moved = True
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        if moved:
            await asyncio.sleep(RELEASE_SECONDS)

    async def _look(self, max_age: float) -> None:
        with contextlib.suppress(ProbeError):  # the old figures, then; the status says why
            await self._manager.refresh(max_age=max_age)


def _gigabytes(text: str) -> float | None:
    bare = text.strip().lower().removesuffix("gib").removesuffix("gb").removesuffix("g").strip()
    try:
        size = float(bare.replace(",", "."))
    except ValueError:
        return None
    return size if 0 <= size < 1e6 else None
