"""What lies at a path that somebody named: looked at, not opened."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

Kind = Literal["file", "folder"]


class NotThere(Exception):
    """What was looked for is not at the path; says what is."""


def kind_of(path: Path, what: str = "file or folder") -> Kind:
    """Whether it is a file or a folder; ``what`` says what is looked for.

    Raises:
        NotThere: there is nothing, nothing that can be looked at, or something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotThere(f"there is no {what} {path}") from None
    except (OSError, ValueError) as error:  # a character that no path may hold
        why = getattr(error, "strerror", None) or error
        raise NotThere(f"the {what} {path} can't be reached: {why}") from None
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    raise NotThere(f"{path} is a device or a pipe, not a {what}")


def require(path: Path, kind: Kind, what: str) -> None:
    """Raises ``NotThere`` unless a file, or a folder, is there."""
    if (found := kind_of(path, what)) != kind:
        raise NotThere(f"{path} is a {found}, not a {what}")
