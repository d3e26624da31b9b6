"""The configuration, read again while the bot runs: all of it or nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bot.context import AppContext
from bot.misfits import Misfit, lines_of, misfits
from bot.missing_files import missing_files
from bot.observability import logs
from bot.settings import Settings, SettingsError, load
from bot.yaml_document import Problem

log = logging.getLogger(__name__)

AT_START = ("data", "observability", "vision.autostart")
"""What is read at the start alone."""
UNSHOWN = ("capture.url", "gpu_memory.main_llm_endpoint")
"""Addresses, which may hold a password: that they changed is told, not what they are."""
LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of a reload. Keys with their values: ``yolo.image_size: 640 → 960``."""

    changed: tuple[str, ...]
    """In use now."""
    needs_restart: tuple[str, ...]
    """Written in the file, but the old value stays in use until the next start."""
    started_again: tuple[str, ...] = ()
    """Parts of vision that had to be started again: ``YOLO``, ``the capture``."""

    @property
    def words(self) -> str:
        """All of it in one sentence."""
        parts = [", ".join(self.changed) or "nothing changed"]
        if self.started_again:
            parts.append(f"started again: {', '.join(self.started_again)}")
        if self.needs_restart:
            parts.append(f"at the next start: {', '.join(self.needs_restart)}")
        return "; ".join(parts)


async def reload(context: AppContext, path: Path | None = None, *, who: str = "") -> Reloaded:
    """Read the configuration again and use it from now on.

    ``path``: the context's file unless another is named; ``who`` asked, for the log. A file that
    is gone leaves the defaults only where it is the default file, as at the start.

    Raises:
        SettingsError: the file was refused; everything is as it was.
    """
    path = path or context.config_path
    async with context.reloading:
        found = await asyncio.to_thread(load, path)
        before = context.settings
        await _refuse_the_impossible(context, found, path)
        new = _without_what_waits(found, before)
        try:
            if new.gpu_memory != before.gpu_memory:
                context.gpu_memory_manager.reconfigure(new.gpu_memory)
        except ValidationError as error:
            words = f"does not go with what was chosen in chat: {error.errors()[0]['msg']}"
            raise SettingsError(path, [Problem(None, "gpu_memory", words)]) from None
        context.settings = new
        logs.configure(new.logging.level, form=new.logging.format)
        started_again = await context.vision.use_settings(new)
    done = Reloaded(
        tuple(_as_told(differences(before, new), context)),
        tuple(differences(new, found)),
        started_again,
    )
    context.gpu_memory_manager.decided(
        f"the configuration was read again{f' ({who})' if who else ''}: {done.words}"
    )
    for problem in misfits(new.gpu_memory, context.gpu_memory_manager.snapshot):
        log.warning("%s", problem)
    return done


async def reload_or_say_why(context: AppContext, who: str) -> None:
    """``reload`` where nobody waits for the outcome: a refusal goes to the log."""
    try:
        await reload(context, who=who)
    except SettingsError as error:
        log.error("the configuration was refused and the old one stays in use:\n%s", error)


async def _refuse_the_impossible(context: AppContext, found: Settings, path: Path) -> None:
    """Promises that no card can keep, and files that are named now and not there."""
    missing = await asyncio.to_thread(_newly_missing, found, context.settings)
    unfitting = misfits(found.gpu_memory, context.gpu_memory_manager.snapshot)
    if impossible := [misfit for misfit in (*unfitting, *missing) if misfit.fatal]:
        lines = await asyncio.to_thread(lines_of, path)
        raise SettingsError(
            path,
            [Problem(lines.get(m.key), m.key, f"{m.what}; {m.remedy}") for m in impossible],
        )


def _newly_missing(found: Settings, before: Settings) -> list[Misfit]:
    missing = list(missing_files(found))
    known = list(missing_files(before)) if missing else []
    return [one for one in missing if one not in known]


def _without_what_waits(found: Settings, before: Settings) -> Settings:
    """The settings that were found, but for those that are read at the start alone."""
    kept: dict[str, Any] = {}
    for key in AT_START:
        section, _, name = key.partition(".")
        old = getattr(before, section)
        if name:
            old = getattr(found, section).model_copy(update={name: getattr(old, name)})
        kept[section] = old
    return found.model_copy(update=kept)


def differences(before: BaseModel, after: BaseModel, within: str = "") -> Iterator[str]:
    """The keys whose values differ, in the order of the file."""
    for name in type(before).model_fields:
        key = f"{within}{name}"
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, BaseModel):
            yield from differences(old, new, f"{key}.")
        elif old != new:
            yield key if key in UNSHOWN else f"{key}{_change(old, new)}"


def _change(old: object, new: object) -> str:
    words = f": {_shown(old)} → {_shown(new)}"
    return words if len(words) <= 2 * LONGEST_VALUE else ""


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return "nothing" if value is None else str(value)


def _as_told(changed: Iterator[str], context: AppContext) -> Iterator[str]:
    """The same, telling where somebody's choice in chat stands above the file."""
    told = list(changed)
    if any(words.startswith("performance.gpu_memory_fraction") for words in told):
        # The manager's own share follows it: told once.
        told = [w for w in told if not w.startswith("gpu_memory.gpu_memory_fraction")]
    chosen = {f"gpu_memory.{c.key}": c for c in context.gpu_memory_manager.choices.made}
    for words in told:
        choice = chosen.get(words.partition(":")[0])
        yield f"{words} (but {choice.who} chose {choice.value})" if choice else words
