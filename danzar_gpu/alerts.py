"""What deserves a message: conditions of a reading, opened once, updated, resolved. Pure.

A condition has to last before it opens an alert (``sustain``), has to be gone for a while before
the alert is resolved (``clear``), and does not open a new one right after (``cooldown``): what
flickers is one alert, not fifty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.memory import GIB, MemorySnapshot, gib
from danzar_gpu.placement import Room

Kind = Literal["pressure", "cpu", "llm", "driver", "worker", "hot", "storage"]
Change = Literal["opened", "updated", "resolved"]

Level = Literal["all", "important", "critical"]
LEVELS: dict[Level, frozenset[Kind]] = {
    "all": frozenset(("pressure", "cpu", "llm", "driver", "worker", "hot", "storage")),
    "important": frozenset(("pressure", "llm", "driver", "worker", "hot", "storage")),
    "critical": frozenset(("llm", "driver", "hot")),
}
"""Which kinds people are told about."""

HOT_CELSIUS = 85.0
"""GeForce cards begin to slow down near 83 to 90 °C."""
COOL_CELSIUS = 80.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    sustain: float
    clear: float
    cooldown: float


TIMINGS: dict[Kind, Timing] = {
    "pressure": Timing(15, 30, 120),
    "cpu": Timing(5, 10, 60),
    "llm": Timing(10, 20, 120),
    "driver": Timing(10, 5, 30),
    "worker": Timing(0, 30, 30),
    "hot": Timing(30, 60, 300),
    "storage": Timing(0, 30, 300),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is so now."""

    key: str
    """Names it across readings: kind and card, or kind and model."""
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that people were told about."""

    key: str
    kind: Kind
    text: str
    opened_at: float
    resolved_at: float | None = None


@dataclass(frozen=True, slots=True)
class Lent:
    """A lease, as far as alerts go."""

    name: str
    device: str
    reason: str


def conditions(
    snapshot: MemorySnapshot | None,
    rooms: Mapping[int, Room],
    leases: Iterable[Lent],
    config: GPUMemoryConfig,
    *,
    driver_error: str | None = None,
    worker_error: str | None = None,
    storage_error: str | None = None,
    hot_now: frozenset[str] = frozenset(),
) -> list[Condition]:
    """What is wrong now. ``hot_now`` names cards (UUID) whose heat was told already."""
    found: list[Condition] = []
    if driver_error is not None:
        found.append(Condition("driver", "driver", f"GPU memory can't be read: {driver_error}"))
    if worker_error is not None:
        found.append(Condition("worker", "worker", f"Vision: {worker_error}"))
    if storage_error is not None:
        found.append(Condition("storage", "storage", storage_error))
    if snapshot is None:
        return found
    found += [Condition(f"driver:{n}", "driver", fault) for n, fault in enumerate(snapshot.faults)]
    for device in snapshot.devices:
        if device.utilization_percent > config.high_utilization_percent:
            text = (
                f"{device.label} is {device.utilization_percent:.0f}% full "
                f"({device.free_gb:.1f}GB free)"
            )
            found.append(Condition(f"pressure:{device.uuid}", "pressure", text))
        limit = COOL_CELSIUS if device.uuid in hot_now else HOT_CELSIUS
        if device.temperature_c is not None and device.temperature_c >= limit:
            text = f"{device.label} is at {device.temperature_c:.0f} °C"
            found.append(Condition(f"hot:{device.uuid}", "hot", text))
    llm = rooms.get(config.main_llm_index)
    if llm is not None and llm.outstanding - llm.device.free_bytes > GIB // 20:
        short = gib(llm.outstanding - llm.device.free_bytes)
        text = (
            f"{llm.device.label}: the main LLM may still claim {gib(llm.outstanding):.1f}GB, "
            f"{short:.1f}GB of it are not free"
        )
        found.append(Condition("llm", "llm", text))
    if snapshot.devices:
        found += [
            Condition(f"cpu:{lease.name}", "cpu", f"{lease.name} runs on the CPU: {lease.reason}")
            for lease in leases
            if lease.device == "cpu"
        ]
    return found


@dataclass(slots=True)
class _Track:
    condition: Condition
    since: float
    seen: float
    alert: Alert | None = None


class AlertBook:
    """Turns conditions, reading by reading, into alerts."""

    def __init__(self, timings: Mapping[Kind, Timing] = TIMINGS) -> None:
        self._timings = timings
        self._tracks: dict[str, _Track] = {}
        self._quiet_until: dict[str, float] = {}

    @property
    def open(self) -> tuple[Alert, ...]:
        """Alerts that are up now."""
        return tuple(t.alert for t in self._tracks.values() if t.alert is not None)

    def restore(self, alerts: Iterable[Alert], now: float) -> None:
        """Take up alerts that an earlier run opened: seen again they go on, else they end."""
        for alert in alerts:
            condition = Condition(alert.key, alert.kind, alert.text)
            self._tracks[alert.key] = _Track(condition, alert.opened_at, now, alert)

    def observe(self, found: Iterable[Condition], now: float) -> list[tuple[Change, Alert]]:
        """What changed with this reading."""
        changes: list[tuple[Change, Alert]] = []
        for condition in found:
            track = self._tracks.get(condition.key)
            if track is None:
                track = self._tracks[condition.key] = _Track(condition, now, now)
            told = track.condition.text if track.alert else None
            track.condition, track.seen = condition, now
            timing = self._timings[condition.kind]
            if track.alert is None:
                quiet = now < self._quiet_until.get(condition.key, now)
                if now - track.since >= timing.sustain and not quiet:
                    track.alert = Alert(condition.key, condition.kind, condition.text, now)
                    changes.append(("opened", track.alert))
            elif told != condition.text:
                track.alert = replace(track.alert, text=condition.text)
                changes.append(("updated", track.alert))
        for key, track in list(self._tracks.items()):
            timing = self._timings[track.condition.kind]
            if track.seen == now:
                continue
            if track.alert is None:
                del self._tracks[key]
            elif now - track.seen >= timing.clear:
                del self._tracks[key]
                self._quiet_until[key] = now + timing.cooldown
                changes.append(("resolved", replace(track.alert, resolved_at=now)))
        self._quiet_until = {k: until for k, until in self._quiet_until.items() if until > now}
        return changes
