"""Imported before everything else: what makes the first answer come sooner.

While modules load a hundred thousand objects are made and none becomes garbage: looking for some
as often as Python does takes a tenth of the start.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_SELDOM = (100_000, 20, 20)

gc.set_threshold(*_SELDOM)


def over() -> None:
    """Collect garbage as usual again, but never look at what was made until now: it stays.

    That also keeps the collector's longest pauses away from the event loop.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL)
