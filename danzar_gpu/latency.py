"""How long things took, in few numbers that can be added up later: a histogram by orders.

Percentiles of days can't be averaged; counts in fixed buckets can be summed. Each bucket is 5 %
wider than the one before, so that a percentile read from it is at most 2.5 % off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

LEAST_MS = 0.05
"""All that is quicker shares the first bucket."""
STEP = 1.05
LAST_BUCKET = 360
"""Ends beyond half an hour: all that is slower shares it."""


def bucket_of(milliseconds: float) -> int:
    """The bucket that a duration belongs to, 0 to ``LAST_BUCKET``."""
    if not milliseconds > LEAST_MS:
        return 0
    return min(LAST_BUCKET, 1 + int(math.log(milliseconds / LEAST_MS) / math.log(STEP)))


def milliseconds_of(bucket: int) -> float:
    """The middle (geometric) of a bucket; of the first one its upper edge."""
    return LEAST_MS * STEP ** (bucket - 0.5) if bucket > 0 else LEAST_MS


class Histogram:
    """Durations by bucket."""

    def __init__(self, buckets: Iterable[tuple[int, int]] = ()) -> None:
        self._frames: Counter[int] = Counter()
        self.merge(buckets)

    def add(self, milliseconds: float) -> None:
        self._frames[bucket_of(milliseconds)] += 1

    def merge(self, buckets: Iterable[tuple[int, int]]) -> None:
        for bucket, frames in buckets:
            self._frames[bucket] += frames

    @property
    def count(self) -> int:
        return self._frames.total()

    def percentile(self, share: float) -> float | None:
        """Milliseconds that ``share`` (0 to 1) of all did not exceed; ``None`` without any."""
        wanted = max(1, math.ceil(share * self.count - 1e-9))
        seen = 0
        for bucket in sorted(self._frames):
            seen += self._frames[bucket]
            if seen >= wanted:
                return milliseconds_of(bucket)
        return None

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """(bucket, count), in order."""
        return tuple(sorted(self._frames.items()))
