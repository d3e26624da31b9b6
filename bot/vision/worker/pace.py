"""What limits the pipeline, in words: where the time of the last seconds went."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from bot.vision.reports import PipelineCounts
from bot.vision.worker.protocol import StartCapture

WINDOW_SECONDS = 10.0
LEAST_SECONDS = 3.0
"""Before that a rate means nothing."""
AGAIN_SECONDS = 1.0
BEHIND = 0.1
"""Share of the frames that may be missing before it is told."""
TITLES = {"yolo": "YOLO", "clip": "CLIP"}


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    captured: int
    dropped: int
    grabbing: float
    models: tuple[tuple[str, str, float], ...]
    """Name, device, seconds."""


class Pace:
    """Fed with each report of one capture."""

    def __init__(self, order: StartCapture) -> None:
        self._order = order
        self._marks: deque[_Mark] = deque()
        self._found_at = float("-inf")
        self.limit = ""
        """What keeps frames from being looked at as often as configured; empty: nothing."""

    def note(
        self,
        at: float,
        counts: PipelineCounts,
        milliseconds: Mapping[str, float],
        devices: Mapping[str, str],
    ) -> None:
        """One report at a monotonic time, with the counts at that time."""
        models = tuple((name, devices[name], milliseconds[name] / 1e3) for name in devices)
        grabbing = (milliseconds.get("capture", 0.0) + milliseconds.get("gate", 0.0)) / 1e3
        self._marks.append(_Mark(at, counts.captured, counts.dropped, grabbing, models))
        while at - self._marks[0].at > WINDOW_SECONDS:
            self._marks.popleft()
        # Here and not when it is asked for: who asks does so from another thread.
        if at - self._found_at >= AGAIN_SECONDS:
            self.limit, self._found_at = self._found(), at

    def _found(self) -> str:
        if self._order.every_frame:
            return ""  # a file is read as fast as the models look
        first, last = self._marks[0], self._marks[-1]
        seconds = last.at - first.at
        if seconds < LEAST_SECONDS:
            return ""
        captured = last.captured - first.captured
        dropped = last.dropped - first.dropped
        wanted = self._order.capture.fps
        if dropped > BEHIND * captured:
            return (
                f"{self._shares(seconds)}; {dropped / seconds:.1f} of {captured / seconds:.1f} "
                "frames a second are dropped (what helps: a lower yolo.processing_fps or "
                "clip.processing_fps, a smaller yolo.image_size, more of vision.cpu_budget)"
            )
        if captured < (1 - BEHIND) * wanted * seconds:
            each = sum(mark.grabbing for mark in self._marks) / len(self._marks)
            return (
                f"the source gives {captured / seconds:.1f} of {wanted:g} frames a second "
                f"({each * 1e3:.0f} ms each)"
            )
        return ""

    def _shares(self, seconds: float) -> str:
        spent: dict[tuple[str, str], float] = {}
        # What the first one tells of lies before it.
        for mark in islice(self._marks, 1, None):
            for name, device, took in mark.models:
                spent[name, device] = spent.get((name, device), 0.0) + took
        most = sorted(spent.items(), key=lambda item: -item[1])
        parts = [
            f"{TITLES.get(name, name)} on {device} takes {min(1.0, took / seconds):.0%} of the time"
            for (name, device), took in most
        ]
        return ", ".join(parts) or "the models take all of the time"
