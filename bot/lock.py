"""One bot for a data folder: a file that its owner keeps locked.

The operating system gives the lock back when the owner ends, however it ends, so that a bot that
was killed is never in the way of the next. The process id in the file is for words alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NAME = "danzar.lock"
LOCKED_BYTE = 1 << 30
"""Windows locks bytes against reading, too: one far behind the text, so that others can read it."""


class AlreadyRunning(Exception):
    """Another bot uses this folder; the message says which and what to do."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block this data folder is ours.

    A folder in which nothing can be written is left unlocked, and the log says so: nothing is
    kept there that two could spoil.

    Raises:
        AlreadyRunning: a living process has it.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        log.warning(
            "%s can't be written (%s): a second bot on this folder would not be noticed",
            path,
            error.strerror,
        )
        yield
        return
    try:
        owner = _owner(path)
        if not _lock(descriptor):
            raise AlreadyRunning(
                f"Another Danzar{_named(owner)} uses the data folder {folder} already.\n"
                "Two would answer everything twice and write the same files. End that one first, "
                "or give this one a data.folder of its own."
            )
        if owner:
            log.warning("the last Danzar%s was killed; this one takes its place", _named(owner))
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
            mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
            _write(descriptor, json.dumps(mine))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _write(descriptor, "")
    finally:
        os.close(descriptor)


def _owner(path: Path) -> dict[str, Any]:
    """Who wrote the file; empty when its last owner ended in an orderly way."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")[:4096])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}


def _named(owner: dict[str, Any]) -> str:
    if not owner:
        return ""
    words = f" (process {owner['pid']}"
    host = owner.get("host")
    if isinstance(host, str) and host != socket.gethostname():
        words += f" on {host[:64]!r}"
    since = owner.get("since")
    if isinstance(since, int) and 0 < since < 1 << 33:
        words += f", since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M}"
    return f"{words})"


def _write(descriptor: int, text: str) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import errno
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
            log.warning("this file system has no locks: a second bot would not be noticed")
        return True
