"""What the past says about the future: models' footprints and the LLM's own peak. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.history import Measurement, percentile
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB, gib

FOOTPRINT_SHARE = 0.95
FOOTPRINTS_KEPT = 50
PEAK_SHARE = 0.99
PEAK_MARGIN = 1.10
"""The LLM's next long conversation may be longer than all before."""
HOURS_OF_PEAKS = 24 * 30
HOURS_TO_LEARN = 3
"""Fewer hours with the LLM loaded say nothing about its peak."""


class FootprintBook:
    """Measured footprints by model and kind of card."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._measured: dict[tuple[str, str], deque[Footprint]] = {}
        for measured in measurements:
            self.add(measured)

    def add(self, measured: Measurement) -> None:
        key = (measured.model, measured.device_name)
        self._measured.setdefault(key, deque(maxlen=FOOTPRINTS_KEPT)).append(measured.footprint)

    def expected(self, model: str, device_name: str | None = None) -> Footprint | None:
        """A high percentile of what was measured: on that kind of card, else the largest of all.

        ``None`` if the model was never measured.
        """
        if device_name is not None and (seen := self._measured.get((model, device_name))):
            return _high(seen)
        everywhere = [_high(seen) for (name, _), seen in self._measured.items() if name == model]
        return max(everywhere, key=lambda need: need.total_bytes, default=None)


def _high(seen: Sequence[Footprint]) -> Footprint:
    return Footprint(
        percentile((f.weights_bytes for f in seen), FOOTPRINT_SHARE),
        percentile((f.activations_bytes for f in seen), FOOTPRINT_SHARE),
        percentile((f.context_bytes for f in seen), FOOTPRINT_SHARE),
    )


@dataclass(frozen=True, slots=True)
class LearnedReservation:
    """What to keep free for the main LLM, and why so much."""

    size_bytes: int
    reason: str


class PeakRecorder:
    """The most that the LLM held, by the hour, for the last thirty days."""

    def __init__(self, peaks: Iterable[tuple[int, int]] = ()) -> None:
        self._by_hour: dict[int, int] = dict(peaks)

    def add(self, unix_time: float, size_bytes: int) -> None:
        if size_bytes <= 0:
            return
        hour = int(unix_time // 3600)
        self._by_hour[hour] = max(self._by_hour.get(hour, 0), size_bytes)
        for old in [h for h in self._by_hour if h < hour - HOURS_OF_PEAKS]:
            del self._by_hour[old]

    def reservation(self, config: GPUMemoryConfig, total_bytes: int) -> LearnedReservation:
        """The LLM's peak (99th percentile of the hours) and a tenth more, within the bounds.

        Until it was seen in three different hours the guide's 8 GB hold. ``total_bytes`` is the
        card's size: more can't be reserved.
        """
        lower = int(config.main_llm_reservation_min_gb * GIB)
        upper = min(int(config.main_llm_reservation_max_gb * GIB), total_bytes)
        hours = len(self._by_hour)
        if hours < HOURS_TO_LEARN:
            size = min(max(8 * GIB, lower), upper)
            return LearnedReservation(
                size,
                f"{gib(size):.1f}GB until the LLM was seen in {HOURS_TO_LEARN} hours "
                f"(so far {hours})",
            )
        peak = percentile(self._by_hour.values(), PEAK_SHARE)
        # Never below what it holds in its present hour: it is using that now.
        latest = self._by_hour[max(self._by_hour)]
        size = min(max(int(max(peak, latest) * PEAK_MARGIN), lower), upper)
        return LearnedReservation(
            size,
            f"{gib(size):.1f}GB: the LLM's peak of {gib(max(peak, latest)):.1f}GB in {hours} "
            "hours, and a tenth more",
        )
