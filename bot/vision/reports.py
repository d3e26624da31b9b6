"""What comes back from the vision worker: small, picklable, no pixels but a JPEG when asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that YOLO saw."""

    label: str
    confidence: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the captured frame."""


@dataclass(frozen=True, slots=True)
class Insight:
    """One phrase that CLIP finds fitting."""

    text: str
    probability: float
    """Softmax over the profile's concepts, 0 to 1."""


@dataclass(frozen=True, slots=True)
class FrameReport:
    """What the models saw on one frame."""

    sequence: int
    captured_at: float
    """Unix time of the capture; for files the time within the file is ``media_seconds``."""
    source: str
    """``screen``, ``region``, ``video``, ``stream``, ``images`` or ``scene``."""
    width: int
    height: int
    devices: dict[str, str]
    """Where each model ran: ``{"yolo": "cuda:1", "clip": "cpu"}``; a model that didn't run on
    this frame (off, its own slower rate) is missing."""
    detections: tuple[Detection, ...] = ()
    insights: tuple[Insight, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])
    """By stage: ``capture``, ``gate``, ``yolo``, ``clip``, ``total``."""
    media_seconds: float | None = None
    unchanged: bool = False
    """The frame equals the one before: the models' answers were carried over."""

    def as_json(self) -> dict[str, Any]:
        """What ``danzar watch --json`` prints, one object a frame."""
        return {
            "sequence": self.sequence,
            "time": self.captured_at,
            "media_seconds": self.media_seconds,
            "source": self.source,
            "width": self.width,
            "height": self.height,
            "devices": self.devices,
            "detections": [
                {
                    "label": d.label,
                    "confidence": round(d.confidence, 4),
                    "box": [round(v, 1) for v in d.box],
                }
                for d in self.detections
            ],
            "insights": [
                {"text": i.text, "probability": round(i.probability, 4)} for i in self.insights
            ],
            "milliseconds": {k: round(v, 2) for k, v in self.milliseconds.items()},
            "unchanged": self.unchanged,
        }


@dataclass(frozen=True, slots=True)
class PipelineCounts:
    """What became of the frames since the start."""

    captured: int = 0
    analysed: int = 0
    unchanged: int = 0
    dropped: int = 0
    """Frames that a newer one replaced before a model was free."""
    limit: str = ""
    """What keeps frames from being looked at as often as configured, in words."""
