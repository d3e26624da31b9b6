"""What happened: readings and events, bounded, newest last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that the manager did or saw, in the words that chat and log use, too."""

    at: float
    """Unix time."""
    kind: str
    text: str
