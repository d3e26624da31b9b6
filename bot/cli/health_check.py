"""``danzar health``: asks the running bot whether it is well; for a container's HEALTHCHECK.

Light, because it is run every minute: the standard library and the configuration.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from pathlib import Path
from typing import Any

from bot import settings as configuration
from bot.cli.exits import Exit

SECONDS = 5.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--live", action="store_true", help="ask /healthz (does it turn over) and not /readyz"
    )
    parser.add_argument("--json", action="store_true", help="print the bot's whole answer")


def run(args: argparse.Namespace, path: Path) -> int:
    """Print what the bot says of itself; 0 if it is well, else 1."""
    try:
        settings = configuration.load(path).observability
    except configuration.SettingsError as error:
        # The bot may run with what the file held before: it is asked at the usual place.
        print(f"{error}\nThe file was refused; the default address is asked.", file=sys.stderr)
        settings = configuration.Settings().observability
    if not settings.enabled or settings.port == 0:
        what = "has no fixed port" if settings.enabled else "is switched off"
        print(f"The bot can't be asked: observability {what} in {path}.", file=sys.stderr)
        return Exit.FAILED
    host = ANY_ADDRESS.get(settings.host, settings.host)
    try:
        found = ask(host, settings.port, "/healthz" if args.live else "/readyz")
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer in time"
        print(
            f"No Danzar answers on {host}, port {settings.port}: {why}. Start it with `danzar`, or "
            "name the configuration that it runs with (--config).",
            file=sys.stderr,
        )
        return Exit.FAILED
    print(json.dumps(found, indent=2) if args.json else in_words(found))
    return Exit.OK if found["ok"] is True else Exit.FAILED


def ask(host: str, port: int, path: str) -> dict[str, Any]:
    """The bot's answer. Raises ``OSError``, ``HTTPException`` or ``ValueError``."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        found = json.loads(connection.getresponse().read(1 << 20))
    finally:
        connection.close()
    if not isinstance(found, dict) or not isinstance(found.get("checks"), list):
        raise ValueError("it answered something that is not Danzar's")
    return found


def in_words(found: dict[str, Any]) -> str:
    """A line for each check."""
    lines = [
        f"{'ok' if check.get('ok') else 'NOT OK':<7}{check.get('name')}: {check.get('words')}"
        for check in found["checks"]
    ]
    return "\n".join(lines)
