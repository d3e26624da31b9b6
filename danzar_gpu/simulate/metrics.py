"""The score of a run, and of many runs: mean and interval over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

METRICS = (
    "oom_count",
    "llm_starved_count",
    "llm_starved_seconds",
    "squeezed_seconds",
    "gpu_fraction",
    "needless_cpu_seconds",
    "moves",
    "thrash",
    "p95_wait_seconds",
)
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95 % with 1 to 9 degrees of freedom."""


@dataclass(slots=True)
class Score:
    """What happened in one run. ``record`` keeps what the plot needs."""

    record: bool = False
    oom_count: int = 0
    llm_starved_count: int = 0
    llm_starved_seconds: float = 0.0
    squeezed_seconds: float = 0.0
    """Seconds in which another program was short of memory that our models held."""
    gpu_seconds: float = 0.0
    model_seconds: float = 0.0
    needless_cpu_seconds: float = 0.0
    moves: int = 0
    thrash: int = 0
    waits: list[float] = field(default_factory=list[float])
    """Seconds from asking until it ran anywhere, by model."""
    notes: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    faults: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """Out of memory and starved, with the second."""
    samples: dict[int, list[tuple[float, dict[str, int]]]] = field(
        default_factory=dict[int, list[tuple[float, dict[str, int]]]]
    )
    """Bytes by holder over time, by card."""

    def lived(self, seconds: float, on_card: bool, needless: bool) -> None:
        """A model was wanted for so long."""
        self.model_seconds += seconds
        if on_card:
            self.gpu_seconds += seconds
        elif needless:
            self.needless_cpu_seconds += seconds

    def out_of_memory(self, now: float, text: str) -> None:
        self.oom_count += 1
        self.faults.append((now, f"out of memory: {text}"))

    def starved(self, now: float, text: str) -> None:
        self.llm_starved_count += 1
        self.faults.append((now, f"starved: {text}"))

    def note(self, now: float, text: str) -> None:
        if self.record:
            self.notes.append((now, text))

    def sample(self, now: float, index: int, held: dict[str, int]) -> None:
        series = self.samples.setdefault(index, [])
        if series and series[-1][0] == now:
            series[-1] = (now, held)
        elif not series or series[-1][1] != held:
            series.append((now, held))

    @property
    def gpu_fraction(self) -> float:
        """Model-seconds on a card over model-seconds; not a number where no model was wanted."""
        return self.gpu_seconds / self.model_seconds if self.model_seconds else math.nan

    @property
    def p95_wait_seconds(self) -> float:
        """95 of 100 models ran within so many seconds."""
        if not self.waits:
            return 0.0
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]

    def values(self) -> dict[str, float]:
        """Each metric by name."""
        return {name: round(float(getattr(self, name)), 6) for name in METRICS}


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the seeds that have a figure: its mean, and the 95 % interval of the mean.

    Where no seed has one, nothing here is a number.
    """

    mean: float
    low: float
    high: float
    worst: float
    """The largest value; for ``gpu_fraction`` the smallest."""


def spread(name: str, values: Sequence[float]) -> Spread:
    """Mean and interval of one metric."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return Spread(math.nan, math.nan, math.nan, math.nan)
    mean = sum(values) / len(values)
    worst = min(values) if name == "gpu_fraction" else max(values)
    if len(values) < 2:
        return Spread(mean, mean, mean, worst)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    freedom = len(values) - 1
    t = _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.7 / freedom
    half = t * deviation / math.sqrt(len(values))
    low = max(0.0, mean - half)
    high = mean + half
    return Spread(mean, low, min(high, 1.0) if name == "gpu_fraction" else high, worst)


def percent(share: float) -> str:
    """A share for people; ``-`` where there is no figure."""
    return "-" if math.isnan(share) else f"{share:.1%}"
