"""A number and its noun: 1 card, 2 cards."""

from __future__ import annotations


def counted(number: float, word: str) -> str:
    """``word`` is the singular of a regular noun."""
    shown = f"{number:.12g}"
    return f"{shown} {word}" if number == 1 else f"{shown} {word}s"
