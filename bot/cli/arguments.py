"""Types of arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def named_path(text: str) -> Path:
    """A path that somebody really wrote."""
    if text.strip():
        return Path(text)
    # As a path it would be the current folder.
    raise argparse.ArgumentTypeError("it is empty; name a file")


def positive(text: str) -> int:
    """The number that an argument gives, from 1 on."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
