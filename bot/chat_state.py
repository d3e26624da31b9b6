"""What chats were told to keep, across restarts: where a panel is, where alerts go.

One small JSON file, read at the start and written whole by a thread: to a temporary file that
then takes the old one's place, so that a crash in the middle leaves the old one. A file that
can't be understood is set aside under a name of its own, never deleted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

Entry = dict[str, Any]
"""One remembered thing: JSON values by name."""


class ChatState:
    """Sections of entries by key. Without a ``path`` they live as long as the process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._sections: dict[str, dict[str, Entry]] = {}
        self._writing = asyncio.Lock()
        self._trouble = False

    def load(self) -> None:
        """Read the file, if there is one. Blocks for the disk; never raises."""
        if self.path is None:
            return
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            log.error("%s can't be read: %s; chats start anew", self.path, error)
            return
        try:
            self._sections = _checked(json.loads(text))
        except (ValueError, RecursionError) as error:
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
            log.error("%s is damaged (%s): set aside as %s", self.path, error, aside)
            try:
                self.path.rename(aside)
            except OSError as refused:
                log.error("%s could not be set aside: %s", self.path, refused)

    def section(self, name: str) -> dict[str, Entry]:
        """A copy of a section's entries by key."""
        return {key: dict(entry) for key, entry in self._sections.get(name, {}).items()}

    async def put(self, section: str, key: str, entry: Entry) -> None:
        """Remember ``entry``; returns when it is on disk (or could not be: the log says so)."""
        self._sections.setdefault(section, {})[key] = dict(entry)
        await self._save()

    async def remove(self, section: str, key: str) -> None:
        """Forget an entry; nothing happens if it is not there."""
        if self._sections.get(section, {}).pop(key, None) is not None:
            await self._save()

    async def _save(self) -> None:
        if self.path is None:
            return
        async with self._writing:
            text = json.dumps(self._sections, indent=1)
            try:
                await asyncio.to_thread(_replace, self.path, text)
            except OSError as error:
                if not self._trouble:
                    log.error("%s can't be written: %s; chats are kept in memory", self.path, error)
                self._trouble = True
            else:
                self._trouble = False


def _checked(data: object) -> dict[str, dict[str, Entry]]:
    if not isinstance(data, dict):
        raise ValueError("it is no mapping of sections")
    sections = cast("dict[str, Any]", data)
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{name} is no mapping")
        if not all(isinstance(entry, dict) for entry in cast("dict[str, Any]", section).values()):
            raise ValueError(f"{name} holds something that is no mapping")
    return sections


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
