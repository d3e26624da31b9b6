"""What chats were told to keep, across restarts: where a panel is, where alerts go.

It is kept in the history's file, by the history's writer, and so are its promises: nothing of it
waits for more than a moment, and a disk that takes nothing leaves it in memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, cast

from danzar_gpu.history import HistoryStore, Setting

log = logging.getLogger(__name__)

Entry = dict[str, Any]
"""One remembered thing: JSON values by name."""


class ChatState:
    """Sections of entries by key. Without a ``store`` they live as long as the process."""

    def __init__(self, store: HistoryStore | None = None) -> None:
        self._store = store
        self._sections: dict[str, dict[str, Entry]] = {}

    def load(self, old_file: Path | None = None) -> None:
        """Take up what is kept. Blocks for the disk; never raises.

        ``old_file``: where releases before schema 4 kept it, as JSON. It is taken over once, and
        then renamed.
        """
        if self._store is None:
            return
        for setting in self._store.open().settings:
            try:
                entry = _entry(json.loads(setting.value))
            except (ValueError, RecursionError) as error:
                name = f"{setting.section} {setting.key}"
                log.error("what chats set for %r makes no sense and is left out: %s", name, error)
                continue
            self._sections.setdefault(setting.section, {})[setting.key] = entry
        if old_file is not None and old_file.exists():
            self._take_over(old_file, self._store)

    def section(self, name: str) -> dict[str, Entry]:
        """A copy of a section's entries by key."""
        return {key: dict(entry) for key, entry in self._sections.get(name, {}).items()}

    async def put(self, section: str, key: str, entry: Entry) -> None:
        """Remember ``entry``; returns when it is on disk (or could not be: the log says so)."""
        self._sections.setdefault(section, {})[key] = dict(entry)
        if self._store is not None:
            self._store.setting(_setting(section, key, entry))
            await asyncio.to_thread(self._store.flush)

    async def remove(self, section: str, key: str) -> None:
        """Forget an entry; nothing happens if it is not there."""
        if self._sections.get(section, {}).pop(key, None) is None or self._store is None:
            return
        self._store.forget_setting(section, key)
        await asyncio.to_thread(self._store.flush)

    def _take_over(self, old_file: Path, store: HistoryStore) -> None:
        try:
            found = _checked(json.loads(old_file.read_text(encoding="utf-8")))
        except OSError as error:
            log.error("%s can't be read: %s; chats start without it", old_file, error)
            return
        except (ValueError, RecursionError) as error:
            log.error("%s is damaged: %s; chats start without it", old_file, error)
            _rename(old_file, f"damaged-{int(time.time())}", "is set aside")
            return
        for section, entries in found.items():
            known = self._sections.setdefault(section, {})
            for key in entries.keys() - known.keys():
                known[key] = entries[key]
                store.setting(_setting(section, key, entries[key]))
        # Until it is on disk there, the next start must find it here.
        if store.flush():
            _rename(old_file, "migrated", f"was taken over into {store.path.name} and is kept")


def _setting(section: str, key: str, entry: Entry) -> Setting:
    return Setting(section, key, json.dumps(entry))


def _rename(path: Path, suffix: str, why: str) -> None:
    aside = path.with_name(f"{path.name}.{suffix}")
    if aside.exists():
        aside = aside.with_name(f"{aside.name}-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError as error:
        log.error("%s could not be renamed to %s: %s", path, aside, error)
    else:
        log.warning("%s %s as %s", path, why, aside.name)


def _entry(data: object) -> Entry:
    if not isinstance(data, dict):
        raise ValueError("it is no mapping")
    return cast("Entry", data)


def _checked(data: object) -> dict[str, dict[str, Entry]]:
    return {
        name: {key: _entry(entry) for key, entry in _entry(section).items()}
        for name, section in _entry(data).items()
    }
