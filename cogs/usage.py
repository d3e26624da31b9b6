"""How a command is written: its usage, an example, and the error for what makes no sense.

No extension, as ``cogs.errors`` is: discord.py executes those anew when it loads them, and an
error that another cog had imported before would be of another class then.
"""

from __future__ import annotations

import re
from typing import Any

from discord.ext import commands

AnyCommand = commands.Command[Any, ..., Any]

_EXAMPLE = re.compile(r"Examples?:\s+`(.+?)`")


class Misuse(commands.BadArgument):
    """What a person wrote makes no sense here; the message says so in our words."""


def usage(command: AnyCommand, prefix: str) -> str:
    """What to type; one of several words as ``<all|important>``."""
    signature = f" {command.signature}".rstrip().replace('"', "")
    return f"{prefix}{command.qualified_name}{signature}"


def explained(command: AnyCommand, prefix: str) -> str:
    """A command's help with the prefix that is in use here."""
    return (command.help or command.brief or "").replace("{prefix}", prefix)


def example(command: AnyCommand, prefix: str) -> str:
    """The first example in a command's help, or its usage."""
    found = _EXAMPLE.search(explained(command, prefix))
    return found[1] if found else usage(command, prefix)
