"""The analysis thread: frames from the inbox through the models that are due, reports out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from bot.vision.frames import Frame
from bot.vision.refusal import first_line
from bot.vision.reports import FrameReport, PipelineCounts
from bot.vision.worker.capture import Capture
from bot.vision.worker.devices import (
    CPU,
    give_back,
    is_out_of_memory,
    is_poisoned,
    tried_bytes,
)
from bot.vision.worker.environment import return_freed_memory
from bot.vision.worker.inbox import Captured
from bot.vision.worker.models import Prepares, VisionModel
from bot.vision.worker.pace import Pace
from bot.vision.worker.protocol import (
    Dying,
    ModelBroke,
    ModelFell,
    ModelName,
    Reply,
    Reported,
    Wanted,
)

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
FAILURES_IN_A_ROW = 3
REPORTS_AHEAD = 64
"""In a file nobody may fall behind: so many reports may be unread before analysis waits."""
MOST_TOGETHER = 8
TOGETHER_SECONDS = 0.05
"""A film's frames are taken from the inbox together, so many and for so long at most: waking the
other threads for each one costs small models a tenth of their time. Who changes models waits about
so long."""


class Stuck(Exception):
    """Nothing but the end of the process gives back what it holds on a card."""


class Poisoned(Stuck):
    """The CUDA context is broken."""


@dataclass(slots=True)
class Seat:
    """A model at work, and what it said last."""

    name: ModelName
    model: VisionModel
    may_fall_to_cpu: bool
    period: float = 0.0
    every_frame: bool = False
    due: float = 0.0
    content: int = -1
    """The picture that ``answer`` is about."""
    answer: tuple[Any, ...] = ()
    failures: int = 0
    shown_device: str = ""
    stay: int = 0
    """Where it is now, as ``Placed`` numbers it."""
    needed_bytes: int = 0
    """Weights and the peak of its last trial, which only a card can tell."""
    parked: bool = False
    wanted: bool = False
    """Whether the bot was told that a parked model is due."""
    owed: Captured | None = None
    """The newest frame that it missed while it was parked."""


@dataclass(slots=True)
class _Result:
    """What came out for one frame."""

    devices: dict[str, str] = field(default_factory=dict[str, str])
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])
    answers: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])


@dataclass(frozen=True, slots=True)
class _Task:
    """The frames of a batch that a model owes an answer."""

    seat: Seat
    wanted: list[int]
    prepared: Sequence[Future[Any] | None]
    """The same frames as the model takes them, of those that somebody makes meanwhile; empty where
    it is not one of the kind ``Prepares``, or is on a card."""


class Analysis:
    """Runs the models; other threads put models in, take them out and move them in between."""

    def __init__(self, tell: Callable[[Reply], None]) -> None:
        self._tell = tell
        self.lock = threading.RLock()
        """Held while a batch is computed: who changes models takes it."""
        self.change = threading.Condition(self.lock)
        """Told when a parked model is back, and when it has seen what it missed."""
        self._seats: dict[ModelName, Seat] = {}
        self._capture: Capture | None = None
        self._pace: Pace | None = None
        self._counts = PipelineCounts()
        self._latest: tuple[Frame, FrameReport] | None = None
        self._busy_since: float | None = None
        self._frame_seconds = TOGETHER_SECONDS
        """What a frame took when models last computed, all of them together."""
        self._credit = threading.Semaphore(REPORTS_AHEAD)
        self._resting = True
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._aside = ThreadPoolExecutor(1, "prepare")
        """Prepares frames for the second model while the first one computes."""
        self._thread = threading.Thread(target=self._run, name="analysis", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=10)
        self._aside.shutdown(wait=False)

    # --- what other threads ask ---------------------------------------------------------------

    @property
    def busy_seconds(self) -> float:
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def latest(self) -> tuple[Frame, FrameReport] | None:
        return self._latest

    @property
    def counts(self) -> PipelineCounts:
        capture, pace = self._capture, self._pace
        if capture is None or pace is None:
            return self._counts
        return replace(capture.inbox.counted(self._counts), limit=pace.limit)

    def consumed(self, reports: int) -> None:
        if reports > 0:
            self._credit.release(reports)

    def watch(self, capture: Capture | None) -> None:
        """Take frames from here from now on."""
        with self.lock:
            if self._capture is not None:
                self._counts = self._capture.inbox.counted(self._counts)
                self._capture.inbox.discard()
            self._capture = capture
            self._pace = Pace(capture.order) if capture is not None else None
            for seat in self._seats.values():
                seat.content, seat.owed = -1, None
            if capture is not None:
                # What was not acknowledged of the last order never will be.
                self._credit = threading.Semaphore(REPORTS_AHEAD)
                self._apply_rates()
                self._wake.set()

    def seat(self, name: ModelName) -> Seat | None:
        return self._seats.get(name)

    def put(self, seat: Seat) -> None:
        """A model takes its place; it looks at the next frame."""
        with self.lock:
            self.remove(seat.name)
            self._seats[seat.name] = seat
            self._frame_seconds = TOGETHER_SECONDS
            self._apply_rates()

    def want(self, seat: Seat) -> None:
        """Tell the bot, once, that a parked model is due."""
        if seat.parked and not seat.wanted:
            seat.wanted = True
            self._tell(Wanted(model=seat.name))

    def catch_up(self, patience: float) -> None:
        """Wait until the models that came back have seen what they missed."""
        with self.lock:
            self.change.wait_for(lambda: not self._missed(), patience)

    def _missed(self) -> list[Captured]:
        """What models missed that are awake again; the newest frame comes last."""
        found = [s.owed for s in self._seats.values() if s.owed is not None and not s.parked]
        return sorted(found, key=lambda captured: captured.frame.sequence)

    def leave(self, seat: Seat) -> None:
        """Take a model off its card; it is parked, if it was not already.

        Raises:
            Stuck: it can't leave.
        """
        with self.lock:
            try:
                seat.model.park()
            except Exception as error:
                words = f"{seat.name} can't leave {seat.shown_device or 'its device'}"
                raise Stuck(f"{words}: {first_line(error)}") from error
            seat.parked, seat.wanted = True, False

    def remove(self, name: ModelName) -> None:
        """Take a model out; it leaves its device at once, whoever else may still know it.

        Raises:
            Stuck: it can't leave.
        """
        with self.lock:
            seat = self._seats.pop(name, None)
            if seat is not None:
                self.leave(seat)

    def _apply_rates(self) -> None:
        capture = self._capture
        if capture is None:
            return
        order = capture.order
        for seat in self._seats.values():
            seat.period = 1.0 / (order.yolo_fps if seat.name == "yolo" else order.clip_fps)
            # YOLO sees each frame of a film; CLIP keeps its rate, in the film's own time.
            seat.every_frame = order.every_frame and seat.name == "yolo"
            seat.due = 0.0

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            capture, batch = self._capture, list[Captured]()  # the last frames are let go
            if capture is None:
                self._rest()
                continue
            # Who returns looks at what woke it, unless a newer frame is there.
            batch = capture.inbox.take(self._most(capture), WAIT_SECONDS) or self._missed()[-1:]
            if not batch:
                self._end_if_over(capture)
                if capture.inbox.closed:
                    self._rest()
                continue
            self._resting = False
            try:
                self._deal_with(batch, capture)
            except Stuck as error:
                self._tell(Dying(words=str(error)))
                return
            except OSError:
                return  # the bot process is gone
            except Exception as error:  # a frame of a kind that nobody thought of
                failures += 1
                log.exception("%d frames could not be dealt with", len(batch))
                if failures >= FAILURES_IN_A_ROW:
                    words = f"no frame could be dealt with any more: {first_line(error)}"
                    self._tell(Dying(words=words))
                    return
            else:
                failures = 0

    def _rest(self) -> None:
        """Wait for another order; what the frames of the last one took goes back to the system."""
        if not self._resting:
            self._resting = True
            return_freed_memory()
        self._wake.wait(WAIT_SECONDS)
        self._wake.clear()

    def _most(self, capture: Capture) -> int:
        """How many of the frames that wait are dealt with at once."""
        models = [seat.model for seat in tuple(self._seats.values())]
        most = max((model.batch_size for model in models), default=1)
        # A card has one batch of frames at a time: the second model finds there what the first
        # one saw, unless that went on to the next frames meanwhile.
        if capture.inbox.live or any(model.place.on_card for model in models):
            return most
        return max(most, min(MOST_TOGETHER, int(TOGETHER_SECONDS / max(self._frame_seconds, 1e-6))))

    def _end_if_over(self, capture: Capture) -> None:
        ending = capture.ending
        if ending is not None and not len(capture.inbox):
            capture.ending = None
            self._tell(ending)

    def _deal_with(self, batch: list[Captured], capture: Capture) -> None:
        with self.lock:
            self._wait_for_the_parked(batch, capture)
            awake = [seat for seat in self._seats.values() if not seat.parked]
            self._busy_since = began = time.monotonic()
            try:
                results = [_Result() for _ in batch]
                for task in self._tasks(batch, capture):
                    self._fulfil(task, batch, results)
            finally:
                self._busy_since = None
            if computed := sum(bool(result.devices) for result in results):
                self._frame_seconds = (time.monotonic() - began) / computed
        for captured, result in zip(batch, results, strict=True):
            self._report(captured, result, capture)
        with self.lock:
            for seat in awake:
                seat.owed = None
            self.change.notify_all()

    def _wait_for_the_parked(self, batch: list[Captured], capture: Capture) -> None:
        """No new picture of a film passes a model that is to come back."""
        while capture.order.every_frame and self._capture is capture:
            new = {captured.content for captured in batch}
            missing = [s for s in self._seats.values() if s.parked and new != {s.content}]
            if not missing or self._stopping.is_set():
                return
            for seat in missing:
                self.want(seat)
            self.change.wait(WAIT_SECONDS)

    def _tasks(self, batch: list[Captured], capture: Capture) -> list[_Task]:
        """One for each model, in the order in which they compute."""
        tasks: list[_Task] = []
        computing = False
        for name in ("yolo", "clip"):
            if seat := self._seats.get(name):
                wanted = self._wanted(seat, batch, capture)
                prepared: list[Future[Any] | None] = []
                # A card takes frames as they are; whoever falls from it in between does not.
                if isinstance(seat.model, Prepares) and not seat.model.place.on_card:
                    for n, i in enumerate(wanted):
                        # Nothing else could be done while the very first is made.
                        aside = computing or n > 0
                        prepare, image = seat.model.prepare, batch[i].frame.image
                        prepared.append(self._aside.submit(prepare, image) if aside else None)
                tasks.append(_Task(seat, wanted, prepared))
                computing = computing or bool(wanted)
        return tasks

    def _wanted(self, seat: Seat, batch: list[Captured], capture: Capture) -> list[int]:
        """Those frames that a model owes an answer; for the others the last one holds."""
        wanted: list[int] = []
        content = seat.content
        for i, captured in enumerate(batch):
            if captured.content != content and self._is_due(seat, captured, capture):
                wanted.append(i)
                content = captured.content
        if wanted and seat.parked:
            self.want(seat)
            # The next one is due as well: the newest is what it looks at when it is back.
            seat.owed, seat.due = batch[wanted[-1]], 0.0
            wanted = []
        return wanted

    def _fulfil(self, task: _Task, batch: list[Captured], results: list[_Result]) -> None:
        seat, wanted = task.seat, task.wanted
        answers: dict[int, tuple[Any, ...]] = {}
        start = 0
        while start < len(wanted) and self._seats.get(seat.name) is seat:
            # A batch that was too much for the card has made the next ones smaller.
            chosen = wanted[start : start + max(1, seat.model.batch_size)]
            began = time.perf_counter()
            images = [batch[i].frame.image for i in chosen]
            found = self._compute(seat, images, task.prepared[start : start + len(chosen)])
            start += len(chosen)
            if found is None:
                continue
            each = (time.perf_counter() - began) * 1e3 / len(chosen)
            for i, answer in zip(chosen, found, strict=True):
                answers[i] = answer
                results[i].milliseconds[seat.name] = each
                results[i].devices[seat.name] = seat.shown_device
        for prepared in task.prepared[start:]:
            if prepared is not None:
                prepared.cancel()  # the model was taken out
        for i, captured in enumerate(batch):
            if i in answers:
                seat.answer, seat.content = answers[i], captured.content
            results[i].answers[seat.name] = seat.answer

    def _is_due(self, seat: Seat, captured: Captured, capture: Capture) -> bool:
        if seat.every_frame:
            return True
        media = captured.frame.media_seconds
        timed_by_film = capture.order.every_frame and media is not None
        now = media if timed_by_film and media is not None else captured.at
        # Frames come on a grid of their own: half a step early is on time.
        if now < seat.due - 0.5 / capture.order.capture.fps:
            return False
        seat.due = max(seat.due, now - seat.period) + seat.period
        return True

    def _compute(
        self,
        seat: Seat,
        images: Sequence[np.ndarray],
        prepared: Sequence[Future[Any] | None] = (),
    ) -> list[tuple[Any, ...]] | None:
        """The model's answers; what can be helped is: a smaller batch, then the CPU.

        Raises:
            Poisoned: nothing on this card can be computed any more.
        """
        try:
            if prepared:
                model, pairs = cast(Prepares, seat.model), zip(images, prepared, strict=True)
                answers = model.answer(
                    [there.result() if there else model.prepare(i) for i, there in pairs]
                )
            else:
                answers = seat.model.analyse(images)
        except Exception as error:
            if is_poisoned(error):
                raise Poisoned(
                    f"the CUDA context broke while {seat.name} ran on {seat.shown_device}: "
                    f"{first_line(error)}"
                ) from error
            if is_out_of_memory(error):
                # Outside this handler: the traceback keeps the failed batch's tensors alive.
                shortage = first_line(error)
            else:
                return self._failed(seat, error)
        else:
            seat.failures = 0
            return answers
        return self._with_less(seat, images, shortage)

    def _with_less(
        self, seat: Seat, images: Sequence[np.ndarray], shortage: str
    ) -> list[tuple[Any, ...]] | None:
        give_back()
        if len(images) > 1:
            half = (len(images) + 1) // 2  # of three, two may fit
            seat.model.batch_size = half
            first = self._compute(seat, images[:half])
            # The first half may have ended the model's stay here.
            second = self._compute(seat, images[half:]) if seat.name in self._seats else None
            return None if first is None or second is None else [*first, *second]
        on_card, was = seat.model.place.on_card, seat.shown_device
        tried = seat.model.weights_bytes + tried_bytes(shortage)
        needed = max(seat.needed_bytes, tried) if on_card else None
        words = f"{seat.name} ran out of memory on {was}"

        def fell(device: str | None, words: str) -> None:
            give_back()
            name, stay = seat.name, seat.stay
            self._tell(
                ModelFell(model=name, stay=stay, device=device, needed_bytes=needed, words=words)
            )

        if on_card and seat.may_fall_to_cpu:
            try:
                seat.model.move(CPU)
            except Exception as error:
                log.exception("%s can't go on on the CPU", seat.name)
                words += f", can't go on on the CPU ({first_line(error)})"
            else:
                seat.shown_device = "cpu"
                fell("cpu", f"{words} and goes on on the CPU: {shortage}")
                return self._compute(seat, images)
        self.remove(seat.name)
        fell(None, f"{words} and was unloaded: {shortage}")
        return None

    def _failed(self, seat: Seat, error: Exception) -> None:
        seat.failures += 1
        log.warning("%s failed on a frame: %s", seat.name, first_line(error), exc_info=error)
        if seat.failures >= FAILURES_IN_A_ROW:
            self.remove(seat.name)
            give_back()
            words = f"{seat.name} failed {seat.failures} times in a row: {first_line(error)}"
            self._tell(ModelBroke(model=seat.name, stay=seat.stay, words=words))

    def _report(self, captured: Captured, result: _Result, capture: Capture) -> None:
        frame = captured.frame
        previous = self._latest
        unchanged = (
            not result.devices
            and previous is not None
            and previous[0] is not frame
            and captured.content == self._last_content
        )
        self._last_content = captured.content
        milliseconds = {**captured.milliseconds, **result.milliseconds}
        height, width = frame.size
        report = FrameReport(
            sequence=frame.sequence,
            captured_at=frame.captured_at,
            source=capture.source_name,
            width=width,
            height=height,
            devices=result.devices,
            detections=result.answers.get("yolo", ()),
            insights=result.answers.get("clip", ()),
            milliseconds={**milliseconds, "total": sum(milliseconds.values())},
            media_seconds=frame.media_seconds,
            unchanged=unchanged,
        )
        self._latest = (frame, report)
        self._counts = replace(
            self._counts,
            analysed=self._counts.analysed + bool(result.devices),
            unchanged=self._counts.unchanged + unchanged,
        )
        if self._pace is not None:
            counted = capture.inbox.counted(self._counts)
            self._pace.note(time.monotonic(), counted, milliseconds, result.devices)
        if capture.order.every_frame:
            while not self._credit.acquire(timeout=WAIT_SECONDS):
                if self._stopping.is_set() or self._capture is not capture:
                    return
        self._tell(Reported(report=report, counts=self.counts))

    _last_content = -1
