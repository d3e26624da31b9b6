"""Where log lines go, how they look, and what must never be in them.

Names come from outside (processes, windows, people, servers): whatever is in them, one record
stays one record. As text its further lines are indented, so that none can pass for a record of
its own; as JSON it is one line. Characters that steer a terminal are shown escaped. Rotation is
the platform's: systemd's journal, Docker's log driver.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from bot.observability import discord_words

Form = Literal["text", "json"]

OURS = ("bot", "cogs", "danzar_gpu", "models")
HIDDEN = "<token>"
FURTHER_LINES = "\n    "

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line end, Unicode's own line ends, and those that turn the
direction of writing."""

_secrets: set[str] = set()


def configure(
    level: str, *, form: Form = "text", token: str | None = None, stream: TextIO | None = None
) -> None:
    """Send Danzar's and discord.py's log lines to ``stream`` (stderr), once.

    ``token`` is taken out of every line, in later calls, too. Libraries that talk a lot are heard
    from warnings on.
    """
    if token:
        _secrets.add(token)
    handler = logging.StreamHandler(stream) if stream is not None else CurrentStderr()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(discord_words.plain)
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if getattr(old, "is_danzars", False):
            root.removeHandler(old)
    handler.is_danzars = True  # pyright: ignore[reportAttributeAccessIssue]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("discord").setLevel("INFO" if level == "DEBUG" else level)


def catch_what_nobody_caught() -> None:
    """Send the traceback of a dying program or thread to the log, where secrets are taken out."""
    log = logging.getLogger("bot")

    def died(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        log.critical("Danzar failed", exc_info=(kind, error, trace))

    def thread_died(died: threading.ExceptHookArgs) -> None:
        if died.exc_value is None:
            return
        name = died.thread.name if died.thread is not None else "?"
        told = (died.exc_type, died.exc_value, died.exc_traceback)
        log.error("the thread %s failed", name, exc_info=told)

    sys.excepthook = died
    threading.excepthook = thread_died


def without_secrets(text: str) -> str:
    """The text with every known secret taken out. Tokens have no characters that are escaped."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    return text


def harmless(text: str) -> str:
    """The text with what steers a terminal shown escaped; line ends and tabs stay."""
    text = text.replace("\r\n", "\n")
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class TextLines(logging.Formatter):
    """A record as a line for people; further lines of it are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = without_secrets(harmless(super().format(record)))
        return text.rstrip("\n").replace("\n", FURTHER_LINES)


class JsonLines(logging.Formatter):
    """A record as one JSON object on one line.

    ``time`` (UTC), ``level``, ``logger`` and ``message`` always; of a decision also ``event`` and
    its figures (``facts_of``); ``exception`` holds a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        body: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            body["stack"] = record.stack_info
        return without_secrets(json.dumps(body, default=str))


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What whoever logged gave with ``extra={"event": ..., "facts": {...}}``."""
    found: dict[str, Any] = {}
    event = getattr(record, "event", None)
    if isinstance(event, str):
        found["event"] = event
    facts = getattr(record, "facts", None)
    if isinstance(facts, Mapping) and facts:
        found["facts"] = dict(facts)  # pyright: ignore[reportUnknownArgumentType]
    return found


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment: a progress bar puts itself there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
