"""``danzar profile``: what is known of each model on each kind of device.

Footprints, loads, moves and latencies come from the history that the bot keeps, so that they are
there without a running bot, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from danzar_gpu.history import MoveKind


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one kind of move took, over all that are on record."""

    count: int
    median_seconds: float
    worst_seconds: float


@dataclass(frozen=True, slots=True)
class MoveLine:
    """One move, as people read it."""

    at: float
    """Unix time."""
    kind: MoveKind
    from_device: str
    to_device: str
    seconds: float
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One model on one kind of device. Sizes in bytes; ``None``: not known (yet)."""

    model: str
    """Weights, precision, image size and batch: ``yolo-nano.pt fp32 640px x4``."""
    service: str
    """``yolo`` or ``clip`` where the configuration has this model, else empty."""
    device_name: str
    """``RTX 4070``, or ``CPU``."""
    predicted_bytes: int | None
    """What was expected before it was ever measured, the CUDA context included."""
    measured_bytes: int | None
    """What admission uses now: a high percentile of what was measured, with the context."""
    measurements: int
    """How often it was measured there."""
    fell_bytes: int | None
    """What it needed at least when it last ran out of memory there."""
    load: Timing | None
    offload: Timing | None
    """Leaving this card, parking included."""
    restore: Timing | None
    """Coming back onto this card."""
    move: Timing | None
    """Coming here from another card."""
    frames: int
    p50_ms: float | None
    """Milliseconds a frame; a percentile is at most 2.5 % off."""
    p95_ms: float | None
    p99_ms: float | None
    moves: tuple[MoveLine, ...] = ()
    """The newest ones, the latest last."""
