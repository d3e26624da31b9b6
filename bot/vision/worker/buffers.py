"""Memory for frames that is used again once nobody looks at a frame any more."""

from __future__ import annotations

import sys

import numpy as np

MOST = 6
"""Frames that are looked at at once, at most: captured, waiting, analysed, and the newest."""


class Buffers:
    """Arrays of one shape; a new one of 6 MB costs more than filling it: each page is cleared."""

    def __init__(self) -> None:
        self._owned: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of uint8 that nobody else sees while it, or a view of it, is held."""
        if self._owned and self._owned[0].shape != shape:
            self._owned.clear()
        for i in range(len(self._owned)):
            # Every view, and every view of a view, refers to the array that owns the memory.
            if sys.getrefcount(self._owned[i]) <= _UNSEEN:
                return self._owned[i][:]
        made = np.empty(shape, np.uint8)
        if len(self._owned) < MOST:
            self._owned.append(made)
        return made[:]


def _references_of_one_that_nobody_sees() -> int:
    """What the interpreter counts for an array that is in a list alone; versions differ."""
    owned = [np.empty(1, np.uint8)]
    return min(sys.getrefcount(owned[i]) for i in range(len(owned)))


_UNSEEN = _references_of_one_that_nobody_sees()
