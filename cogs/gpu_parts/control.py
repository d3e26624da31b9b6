"""Acting on memory from chat: what each action does, and what it changed, in figures."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import discord

from bot.vision.service import CONTEXT_BYTES, HOLDER
from cogs import texts
from cogs.embeds import CALM, TIGHT, fitted, footing, plain, sentence, shortened
from cogs.gpu_parts.faces import choice_words
from cogs.usage import Misuse
from danzar_gpu.choices import OFFLOAD
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import gib
from danzar_gpu.probes import ProbeError

if TYPE_CHECKING:
    from cogs.host import Host

SMALLEST_FIT_GB = 0.01
MOST_GB = 1024.0
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
    undone_by_reset: bool = False

    def embed(self, host: Host, who: str) -> discord.Embed:
        embed = discord.Embed(
            title=host.titled(shortened(self.title, 200)),
            description=shortened(self.words, 2000),
            colour=CALM if self.done else TIGHT,
        )
        embed.add_field(name=texts.BEFORE, value=fitted(self.before), inline=False)
        embed.add_field(name=texts.AFTER, value=fitted(self.after), inline=False)
        footer = texts.ACTED_BY_UNDO if self.undone_by_reset else texts.ACTED_BY
        embed.set_footer(text=footer.format(who=footing(shortened(who, 100)), prefix=host.prefix))
        return embed


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something that might be put on a card."""

    title: str
    need: Footprint
    name: str = texts.FIT_THE_MODEL
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
        """One of our models. Raises ``Misuse`` with those that there are."""
        known = self.model_names()
        found = next((k for k in known if k.lower() == name.strip().lower()), None)
        if found is None:
            there = ", ".join(known) or texts.NONE_KNOWN
            raise Misuse(texts.NO_MODEL_NAMED.format(name=shortened(name, 40), known=there))
        return found

    def model_names(self) -> list[str]:
        """Vision's models, and whatever else holds a lease or was sent to the CPU."""
        names = list(self._host.vision.services) if self._host.vision is not None else []
        kept = [c.key for c in self._manager.choices.made if c.key.startswith(OFFLOAD)]
        names += [lease.name for lease in self._manager.leases]
        names += [key.removeprefix(OFFLOAD) for key in kept]
        return list(dict.fromkeys(names))

    def card_named(self, text: str) -> str:
        """``cuda:1`` from ``cuda:1``, ``1`` or ``gpu 1``. Raises ``Misuse``."""
        bare = _card_number(text)
        devices = self._manager.get_all_devices_memory_info()
        if not bare.isdecimal() or int(bare) not in devices:
            known = ", ".join(d.device for d in devices.values()) or texts.NONE_KNOWN
            raise Misuse(texts.NO_CARD_NAMED.format(name=shortened(text, 40), known=known))
        return f"cuda:{int(bare)}"

    def size_or_model(self, text: str) -> Wanted:
        """``2.5``, ``2.5GB`` or the name of a model. Raises ``Misuse``."""
        if (size := _gigabytes(text)) is not None:
            if not SMALLEST_FIT_GB <= size <= MOST_GB:
                raise Misuse(texts.NO_FIT_SIZE)
            return Wanted(texts.FIT_A_MODEL, Footprint.of_gb(size))
        name = self.model_named(text)
        lease = next((x for x in self._manager.leases if x.name == name), None)
        if lease is not None:
            title = texts.FIT_ANOTHER.format(model=plain(name))
            return Wanted(title, lease.need, name, lease.holder)
        service = self._host.vision.services.get(name) if self._host.vision is not None else None
        size_bytes = (service.measured_bytes or service.predicted_bytes) if service else 0
        if not size_bytes:
            raise Misuse(texts.FIT_UNKNOWN.format(model=name))
        need = Footprint(weights_bytes=size_bytes, context_bytes=CONTEXT_BYTES)
        return Wanted(plain(name), need, name, HOLDER)

    @staticmethod
    def reservation(text: str) -> float | str:
        """GiB, or ``auto``. Raises ``Misuse``."""
        if text.strip().lower() == "auto":
            return "auto"
        size = _gigabytes(text)
        if size is None or not 0 <= size <= MOST_GB:
            raise Misuse(texts.NO_SUCH_SIZE)
        return size

    # What is done

    async def offload(self, name: str, who: str) -> Outcome:
        """To the CPU, until it is restored."""

        async def act() -> str:
            self._manager.choices.offload(name, who)
            return await self._arrived(name)

        words, before, after = await self._around(act)
        done = self._where(name) in ("cpu", None)
        title = texts.OFFLOADED.format(model=plain(name))
        return Outcome(title, words, before, after, done, undone_by_reset=True)

    async def restore(self, name: str, who: str) -> Outcome:
        """Back to a card, as soon as one has room. Raises ``Misuse`` if it may go there anyway."""
        sent_away = any(choice.key == OFFLOAD + name for choice in self._manager.choices.made)
        if not sent_away and (where := self._where(name)) != "cpu":
            there = texts.RESTORE_THERE.format(device=where) if where else texts.RESTORE_NOT_LOADED
            raise Misuse(texts.RESTORE_NOTHING.format(model=name, there=there))

        async def act() -> str:
            found = self._manager.choices.restore(name, who)
            words = await self._arrived(name)
            stays = next((p.reason for p in found if p.uuid is None), None)
            if stays is not None:
                reason = sentence(stays, self._host.prefix)
                words = f"{words} {texts.RESTORE_NO_ROOM.format(reason=reason)}"
            return words

        words, before, after = await self._around(act)
        return Outcome(texts.RESTORED.format(model=plain(name)), words, before, after)

    async def trim(self, who: str) -> Outcome:
        """The worker's unused memory goes back to the driver."""
        vision = self._host.vision
        held = (0, 0)

        async def act() -> str:
            nonlocal held
            if vision is None:
                return texts.TRIM_NO_WORKER
            held = await vision.trim()
            self._manager.decided(f"{who} had unused memory given back")
            await asyncio.sleep(RELEASE_SECONDS)
            if not held[0]:
                return texts.TRIM_SIMULATED if self._host.simulated else texts.TRIM_NOTHING
            freed = gib(max(0, held[0] - held[1]))
            return texts.TRIM_DONE.format(freed=freed, before=gib(held[0]), after=gib(held[1]))

        words, before, after = await self._around(act)
        title = texts.TRIMMED if held[0] > held[1] else texts.TRIMMED_NOTHING
        return Outcome(title, words, before, after)

    async def reserve(self, size: float | str, who: str) -> Outcome:
        """Another reservation for the main LLM."""
        old = gib(self._manager.reservation_bytes)

        async def act() -> str:
            self._manager.choices.reserve(size, who)
            await self._still()
            new = gib(self._manager.reservation_bytes)
            template = texts.RESERVE_LEARNED if size == "auto" else texts.RESERVE_DONE
            return template.format(before=old, after=new)

        words, before, after = await self._around(act)
        return Outcome(texts.RESERVED, words, before, after, undone_by_reset=True)

    async def prefer(self, device: str, who: str) -> Outcome:
        """Another first choice for vision."""
        old = self._manager.config.vision_device

        async def act() -> str:
            self._manager.choices.prefer(device, who)
            await self._still()
            best, reason = self._manager.get_best_vision_device()
            return texts.PREFER_DONE.format(
                before=old,
                after=device,
                best=best or texts.NONE_KNOWN,
                reason=sentence(reason, self._host.prefix),
            )

        words, before, after = await self._around(act)
        return Outcome(texts.PREFERRED, words, before, after, undone_by_reset=True)

    async def reset(self, who: str) -> Outcome:
        """Back to the configuration."""
        made = self._manager.choices.made

        async def act() -> str:
            self._manager.choices.reset(who)
            await self._still()
            undone = "; ".join(map(choice_words, made))
            return texts.RESET_DONE.format(choices=plain(undone))

        words, before, after = await self._around(act)
        return Outcome(texts.RESET_TITLE, words, before, after)

    # Questions before what hurts

    def warning_of_offload(self, name: str) -> str:
        return texts.OFFLOAD_WARNING.format(model=plain(name), prefix=self._host.prefix)

    def warning_of_reserve(self, size: float | str) -> str:
        old = gib(self._manager.reservation_bytes)
        if size == "auto":
            return texts.RESERVE_AUTO_WARNING.format(before=old)
        less = float(size) < old
        template = texts.RESERVE_LESS_WARNING if less else texts.RESERVE_MORE_WARNING
        return template.format(size=float(size), before=old)

    def warning_of_reset(self) -> str:
        made = self._manager.choices.made
        listed = [texts.RESET_CHOICE.format(choice=plain(choice_words(c))) for c in made]
        return texts.RESET_WARNING.format(choices=fitted(listed, 1200))

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
            card = plain(shortened(device.label, 60))
            line = texts.FIGURE_CARD.format(card=card, free=device.free_gb)
            if shares[i].promised:
                line += texts.FIGURE_PROMISED.format(size=gib(shares[i].promised))
            if shares[i].ours:
                line += texts.FIGURE_OURS.format(size=gib(shares[i].ours))
                if context := manager.context_bytes(device):
                    line += texts.FIGURE_CONTEXT.format(size=gib(context))
            lines.append(line)
        lines += self._models()
        return lines or [texts.FIGURE_NOTHING]

    def _models(self) -> Iterable[str]:
        for lease in self._manager.leases:
            where, target = lease.device, lease.target
            if target is not None:
                there = target.device or texts.MODEL_UNLOADED
                where = texts.FIGURE_MOVING.format(device=where, target=there)
            size = gib(lease.need.model_bytes)
            yield texts.FIGURE_MODEL.format(model=plain(lease.name), device=where, size=size)

    def _where(self, name: str) -> str | None:
        return next((lease.device for lease in self._manager.leases if lease.name == name), None)

    async def _arrived(self, name: str) -> str:
        """Wait for a model's move; in words where it is then."""
        await self._still(name)
        lease = next((x for x in self._manager.leases if x.name == name), None)
        if lease is None:
            return texts.ARRIVED_NOT_LOADED.format(model=plain(name))
        prefix = self._host.prefix
        if lease.target is not None:
            return texts.ARRIVED_LATER.format(
                model=plain(name),
                device=lease.device,
                target=lease.target.device or texts.MODEL_UNLOADED,
                prefix=prefix,
            )
        return texts.ARRIVED.format(
            model=plain(name), device=lease.device, reason=sentence(lease.reason, prefix)
        )

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
            await self._manager.shown(name)  # the figures after are those of the driver

    async def _look(self, max_age: float) -> None:
        with contextlib.suppress(ProbeError):  # the old figures, then; the status says why
            await self._manager.refresh(max_age=max_age)


def names_card(text: str) -> bool:
    """Whether it was meant as a card, there or not."""
    return _card_number(text).isdecimal()


def _card_number(text: str) -> str:
    return text.strip().lower().removeprefix("cuda:").removeprefix("gpu").strip()


def _gigabytes(text: str) -> float | None:
    """``2.5``, ``2,5 GB`` or ``512MB`` as GiB, of whatever size; ``None`` if it is no number."""
    bare = text.strip().lower()
    number = re.sub(r"\s*([gm]i?b?)$", "", bare)
    try:
        size = float(number.replace(",", "."))
    except ValueError:
        return None
    return size / 1024 if bare.endswith(("m", "mb", "mib")) else size
