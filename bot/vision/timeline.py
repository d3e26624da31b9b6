"""What went on lately, as a few moments instead of hundreds of reports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bot.vision.reports import FrameReport

KEPT = 50
SETTLE_SECONDS = 1.5
"""A phrase that is likeliest for less than this is a flicker, no moment."""


@dataclass(slots=True)
class Moment:
    """A stretch of time with one likeliest phrase."""

    phrase: str
    """Empty: nothing was certain enough."""
    began: float
    """Unix time."""
    ended: float
    probability: float = 0.0
    """The highest in it."""
    objects: dict[str, int] = field(default_factory=dict[str, int])
    """By class, the most that were seen at once."""

    def saw(self, report: FrameReport) -> None:
        self.ended = report.captured_at
        counts: dict[str, int] = {}
        for detection in report.detections:
            counts[detection.label] = counts.get(detection.label, 0) + 1
        for label, count in counts.items():
            self.objects[label] = max(count, self.objects.get(label, 0))
        for insight in report.insights:
            if insight.text == self.phrase:
                self.probability = max(self.probability, insight.probability)


class Timeline:
    """Takes every report; keeps the newest ``KEPT`` moments."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=KEPT)
        self._candidate: Moment | None = None

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Oldest first; the last one may still go on."""
        return tuple(self._moments)

    def add(self, report: FrameReport) -> None:
        top = max(report.insights, key=lambda i: i.probability, default=None)
        phrase = top.text if top is not None else ""
        now = report.captured_at
        current = self._moments[-1] if self._moments else None
        if current is not None and now < current.began:
            return  # the source began anew with another clock
        if current is not None and current.phrase == phrase:
            self._candidate = None
            current.saw(report)
            return
        if self._candidate is None or self._candidate.phrase != phrase:
            self._candidate = Moment(phrase, now, now)
        self._candidate.saw(report)
        if current is None or now - self._candidate.began >= SETTLE_SECONDS:
            if current is not None:
                current.ended = self._candidate.began
            self._moments.append(self._candidate)
            self._candidate = None
