"""Interleaved measuring: each round asks every subject once, so that a busy machine hits all alike.

What carries over to another machine is the ratio within a round; absolute figures don't.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Subject = Callable[[], Awaitable[float]]
"""Does its work once; returns what it took, in whatever unit the part uses."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of some samples, with the lowest and the highest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Raises ``ValueError`` when there is no sample."""
        if not samples:
            raise ValueError("nothing was measured")
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))


async def interleaved(
    subjects: Mapping[str, Subject], rounds: int, step: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """``rounds`` samples of each subject; every second round goes backwards.

    ``step`` is called with the subject's name before it is asked.
    """
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds):
        order = list(subjects)
        for name in order if number % 2 == 0 else reversed(order):
            step(name)
            samples[name].append(await subjects[name]())
    return samples


def ratio(peer: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times the peer takes what we take, round by round.

    Raises:
        ValueError: the rounds don't match, or we took no time at all.
    """
    if len(peer) != len(ours) or any(value <= 0 for value in ours):
        raise ValueError("a ratio needs the same rounds of both, and times above zero")
    return Spread.of([p / o for p, o in zip(peer, ours, strict=True)])
