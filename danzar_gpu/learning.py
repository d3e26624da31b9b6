"""What the past says about the future: models' footprints and the LLM's own peak. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
FALLS_COUNT_SECONDS = 7 * 24 * 3600.0
"""So long a model is asked for what it needed when it ran out of memory; then it may try again
with what was measured since."""
HOURS_TO_LEARN = 3
"""Fewer hours with the LLM loaded say nothing about its peak."""


class FootprintBook:
    """Measured footprints by model and kind of card."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._measured: dict[tuple[str, str], deque[Footprint]] = {}
        self._falls: dict[tuple[str, str], deque[tuple[float, int]]] = {}
        """(Unix time, bytes without the context) of what did not fit."""
        self._measured_at: dict[str, float] = {}
        self._newest = float("-inf")
        for measured in measurements:
            self.add(measured)

    def add(self, measured: Measurement) -> None:
        key = (measured.model, measured.device_name)
        self._newest = max(self._newest, measured.at)
        self._measured_at[measured.model] = self._newest
        if measured.fell:
            falls = self._falls.setdefault(key, deque(maxlen=FOOTPRINTS_KEPT))
            falls.append((measured.at, measured.footprint.model_bytes))
            if key in self._measured:
                return
        # Without any other it is also the best guess of how weights and activations share it.
        self._measured.setdefault(key, deque(maxlen=FOOTPRINTS_KEPT)).append(measured.footprint)

    def expected(self, model: str, device_name: str | None = None) -> Footprint | None:
        """A high percentile of what was measured: on that kind of card, else the largest of all.

        Never less than what it needed when it ran out of memory lately. ``None`` if the model was
        never measured.
        """
        if device_name is not None and (model, device_name) in self._measured:
            return self._on((model, device_name))
        everywhere = [self._on(key) for key in self._measured if key[0] == model]
        return max(everywhere, key=lambda need: need.total_bytes, default=None)

    def knows(self, model: str, device_name: str) -> bool:
        """Whether it was measured on that kind of card."""
        return (model, device_name) in self._measured

    def newest_of(self, models: Iterable[str]) -> str | None:
        """The one that was measured last; ``None`` if none ever was."""
        known = [name for name in models if name in self._measured_at]
        return max(known, key=lambda name: self._measured_at[name], default=None)

    def _on(self, key: tuple[str, str]) -> Footprint:
        need = _high(self._measured[key])
        since = self._newest - FALLS_COUNT_SECONDS
        fell = max((size for at, size in self._falls.get(key, ()) if at >= since), default=0)
        if fell <= need.model_bytes:
            return need
        return replace(need, activations_bytes=fell - need.weights_bytes)


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
        wish = int(max(peak, latest) * PEAK_MARGIN)
        size = min(max(wish, lower), upper)
        bound = ""
        if size > wish:
            bound = "; main_llm_reservation_min_gb asks for more"
        elif size < wish:
            whose = "the card has" if upper == total_bytes else "main_llm_reservation_max_gb allows"
            bound = f"; {whose} no more"
        return LearnedReservation(
            size,
            f"{gib(size):.1f}GB: the LLM's peak of {gib(max(peak, latest)):.1f}GB in {hours} "
            f"hours, and a tenth more{bound}",
        )
