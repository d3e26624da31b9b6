"""Where log lines go, and what must never be in them."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class Redacted(logging.Formatter):
    """Formats as usual and takes secrets out of the finished line, tracebacks included."""

    def __init__(self, layout: str, secrets: tuple[str, ...]) -> None:
        super().__init__(layout)
        self._secrets = tuple(secret for secret in secrets if secret)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "<token>")
        return line


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment: a progress bar puts itself there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str, *, token: str | None = None, stream: TextIO | None = None) -> None:
    """Send Danzar's and discord.py's log lines to ``stream`` (stderr), once.

    Libraries that talk a lot are heard from warnings on.
    """
    handler = logging.StreamHandler(stream) if stream is not None else CurrentStderr()
    layout = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    handler.setFormatter(Redacted(layout, (token,) if token else ()))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if getattr(old, "is_danzars", False):
            root.removeHandler(old)
    handler.is_danzars = True  # pyright: ignore[reportAttributeAccessIssue]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("bot", "cogs", "danzar_gpu", "models"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("discord").setLevel("INFO" if level == "DEBUG" else level)
