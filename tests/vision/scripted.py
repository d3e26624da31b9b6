"""Models and sources that do what a test wants, and the analysis around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bot.settings import CaptureSettings
from bot.vision.frames import Frame, SourceError
from bot.vision.reports import Detection, FrameReport, Insight
from bot.vision.worker.analysis import Analysis, Seat
from bot.vision.worker.capture import Capture, inbox_for
from bot.vision.worker.devices import CPU, Place
from bot.vision.worker.protocol import (
    ModelName,
    Reply,
    Reported,
    StartCapture,
    YoloSpec,
)

CARD = Place("cuda:1", "cuda:1")
SPEC = YoloSpec(
    path="x.pt",
    classes=(),
    confidence_threshold=0.5,
    iou_threshold=0.5,
    max_detections=10,
    batch_size=1,
)
"""Of a detector whose file nobody opens."""


def picture(value: int) -> np.ndarray:
    """A picture that can be told from others by its number."""
    return np.full((48, 64, 3), value, np.uint8)


@dataclass
class ScriptedModel:
    """Answers with the number of each picture; ``fail`` may raise instead."""

    name: ModelName = "yolo"
    batch_size: int = 4
    place: Place = CPU
    notes: tuple[str, ...] = ()
    weights_bytes: int = 1000
    fail: Callable[[ScriptedModel, list[int]], None] = lambda model, numbers: None
    seconds: float = 0.0
    batches: list[tuple[str, list[int]]] = field(default_factory=list[tuple[str, list[int]]])
    gate: threading.Event | None = None
    backend: str = "a script"
    parked: bool = False

    def move(self, place: Place) -> None:
        self.place = place
        self.parked = False

    def park(self) -> None:
        self.parked = True

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
        numbers = [int(image[0, 0, 0]) for image in images]
        self.batches.append((self.place.shown, numbers))
        if self.gate is not None:
            assert self.gate.wait(20)
        time.sleep(self.seconds)
        self.fail(self, numbers)
        if self.name == "yolo":
            return [(Detection("boss", n / 255, (0, 0, n, n)),) for n in numbers]
        return [(Insight(f"picture {n}", 1.0),) for n in numbers]

    @property
    def seen(self) -> list[int]:
        return [n for _, batch in self.batches for n in batch]


@dataclass
class ScriptedSource:
    """Gives pictures by number, then ends."""

    numbers: Sequence[int]
    live: bool = False
    fps: float = 10.0
    name: str = "scene"
    description: str = "a script"
    fault: str = ""
    _next: int = 0

    def open(self) -> None:
        self._next = 0

    def grab(self, not_before: float | None = None) -> Frame | None:
        if self._next >= len(self.numbers):
            if self.fault:
                self._next = 0
                raise SourceError(self.fault, "mend it")
            return None
        n = self._next
        self._next += 1
        media = None if self.live else n / self.fps
        return Frame(picture(self.numbers[n]), time.time(), media, n)

    def close(self) -> None:
        pass


class Bench:
    """An analysis thread with a capture, and everything that they told."""

    def __init__(
        self,
        source: ScriptedSource,
        *models: ScriptedModel,
        every_frame: bool = True,
        fps: float = 100.0,
        yolo_fps: float = 100.0,
        clip_fps: float = 100.0,
        retry: bool = False,
        may_fall_to_cpu: bool = True,
    ) -> None:
        self.told: list[Reply] = []
        self._news = threading.Condition()
        self.analysis = Analysis(self._tell)
        for model in models:
            self.put(model, may_fall_to_cpu=may_fall_to_cpu)
        kind = "screen" if source.live else "scene"
        self.order = StartCapture(
            capture=CaptureSettings(source=kind, fps=fps),
            yolo_fps=yolo_fps,
            clip_fps=clip_fps,
            every_frame=every_frame,
            retry=retry,
        )
        self._batch = max((m.batch_size for m in models), default=4)
        self.capture = self._capture(source)

    def _capture(self, source: ScriptedSource) -> Capture:
        inbox = inbox_for(self.order, self._batch)
        return Capture(self.order, inbox, self._tell, open_it=lambda _: source)

    def watch(self, source: ScriptedSource) -> None:
        """Go on with another source, by the same order."""
        self.capture.stop()
        self.capture = self._capture(source)
        self.analysis.watch(self.capture)
        self.capture.start()

    def put(self, model: ScriptedModel, *, may_fall_to_cpu: bool = True) -> None:
        seat = Seat(model.name, model, may_fall_to_cpu, shown_device=model.place.shown)
        self.analysis.put(seat)

    def _tell(self, event: Reply) -> None:
        with self._news:
            self.told.append(event)
            self._news.notify_all()

    def __enter__(self) -> Bench:
        self.analysis.start()
        self.analysis.watch(self.capture)
        self.capture.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.stop()
        self.analysis.stop()

    def wait_for(self, kind: type[Reply] | Any, count: int = 1, timeout: float = 20) -> list[Any]:
        """The events of a kind, once there are so many."""
        with self._news:
            enough = self._news.wait_for(lambda: len(self.events(kind)) >= count, timeout)
            assert enough, f"{len(self.events(kind))} of {count} {kind.__name__}: {self.told[-5:]}"
            return self.events(kind)

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def reports(self) -> list[FrameReport]:
        return [event.report for event in self.events(Reported)]


def numbers_of(reports: Sequence[FrameReport]) -> list[int]:
    """Which pictures YOLO's answers are about."""
    return [round(r.detections[0].box[2]) if r.detections else -1 for r in reports]
