"""When a card refused a worker that another worker may have more luck with.

CUDA shows a process the cards of its start alone, and repeats an error that broke its start at
every call: a card that was lost for a moment, or was another program's own, stays out of reach of
a worker that met it then. A new one is tried after a while, and less and less often, since to
start it costs seconds of vision, and some cards will never do.
"""

from __future__ import annotations

from dataclasses import dataclass

WAITS_SECONDS = (5.0, 60.0, 600.0)
"""From a refusal until the next worker is tried; after the last of them none is."""


@dataclass(slots=True)
class _Refusal:
    why: str
    at: float | None
    """``None``: this worker has not been refused."""
    tries: int = 0


class SecondLook:
    """Which cards (by UUID) refused how many workers."""

    def __init__(self) -> None:
        self._refusals: dict[str, _Refusal] = {}

    def refused(self, uuid: str, why: str, now: float) -> None:
        found = self._refusals.setdefault(uuid, _Refusal(why, None))
        found.why = why
        if found.at is None:
            found.at = now

    def clear(self) -> None:
        """Somebody starts vision: all counts from now."""
        self._refusals.clear()

    def landed(self, uuid: str) -> None:
        """A model came to be on the card after all."""
        self._refusals.pop(uuid, None)

    def due(self, now: float) -> str | None:
        """Why the worker should make way for another one now. Whoever is told so does it."""
        met = [(found, found.at) for found in self._refusals.values() if found.at is not None]
        for found, at in met:
            if found.tries < len(WAITS_SECONDS) and now - at >= WAITS_SECONDS[found.tries]:
                for tried, _ in met:  # the next worker tries them all
                    tried.tries += 1
                return found.why
        return None

    def worker_gone(self) -> None:
        """What one worker was refused says nothing of the next."""
        for found in self._refusals.values():
            found.at = None
