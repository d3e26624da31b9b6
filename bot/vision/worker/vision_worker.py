"""The worker itself: does what the bot process asks, one channel, the same in any process."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from bot.vision.refusal import first_line
from bot.vision.worker.analysis import Analysis, Seat, Stuck
from bot.vision.worker.capture import Capture, inbox_for
from bot.vision.worker.devices import (
    Place,
    PlaceError,
    allocated_bytes,
    give_back,
    held,
    is_out_of_memory,
    is_poisoned,
    peak_bytes,
    resolve,
    tried_bytes,
)
from bot.vision.worker.models import ModelError, Sizes, VisionModel, try_out
from bot.vision.worker.protocol import (
    CallOff,
    Channel,
    ClipSpec,
    Consumed,
    Destination,
    Done,
    Dying,
    Hello,
    LoadModel,
    Logged,
    ModelName,
    MoveModel,
    Parked,
    ParkModel,
    Picture,
    Ping,
    Placed,
    Pong,
    Progress,
    Refused,
    ReleaseCapture,
    Reply,
    ReplyEnvelope,
    Request,
    Scored,
    ScorePhrases,
    SetConcepts,
    Shutdown,
    StartCapture,
    StopCapture,
    TakePicture,
    Trim,
    UnloadModel,
    YoloSpec,
)

log = logging.getLogger("bot.vision.worker")

CATCH_UP_SECONDS = 2.0
"""So long a picture waits for a model that has just come back."""

Loader = Callable[[YoloSpec | ClipSpec, int, Place, Callable[[str], None]], VisionModel]
"""(specification, threads, where it will compute, what it is at) -> the model, in host memory."""


def load_model(
    spec: YoloSpec | ClipSpec, threads: int, place: Place, say: Callable[[str], None]
) -> VisionModel:
    """The model of a specification, in host memory. Raises ``ModelError``."""
    if isinstance(spec, YoloSpec):
        from bot.vision.worker.detector import Detector

        return Detector.load(spec, threads, place, say)
    from bot.vision.worker.labeller import Labeller

    return Labeller.load(spec, threads, place, say)


class VisionWorker:
    """Captures frames and runs models until the channel ends or a shutdown is asked for.

    Requests that take long (loading, moving) run in threads of their own, one after another
    for each model, so that a model that loads blocks neither the other one nor a ping.
    """

    def __init__(
        self,
        channel: Channel,
        threads: int,
        *,
        loader: Loader = load_model,
        die: Callable[[], None] = lambda: None,
        forward_log: bool = True,
    ) -> None:
        self._channel = channel
        self._threads = threads
        self._loader = loader
        self._die = die
        self._forward_log = forward_log
        self._analysis = Analysis(self._tell)
        self._capture: Capture | None = None
        self._called_off: set[ModelName] = set()
        self._stays = count(1)
        self._turns: dict[str, threading.Lock] = {
            "yolo": threading.Lock(),
            "clip": threading.Lock(),
        }

    def run(self) -> None:
        """Serve the channel; returns when it ends."""
        handler = _ChannelLog(self._tell)
        logger = logging.getLogger("bot.vision")
        if self._forward_log:
            logger.addHandler(handler)
        self._analysis.start()
        try:
            self._tell(Hello(pid=os.getpid()))
            while (envelope := self._channel.receive()) is not None:
                if isinstance(envelope.body, Shutdown):
                    self._answer(envelope.id, Done())
                    break
                self._take(envelope.id, envelope.body)
        except OSError:
            pass  # nobody is left to talk to
        finally:
            logger.removeHandler(handler)
            self._stop_capture()
            self._analysis.stop()

    def _tell(self, event: Reply) -> None:
        self._channel.send(ReplyEnvelope(id=None, body=event))
        if isinstance(event, Dying):
            self._die()

    def _answer(self, request: int, answer: Reply, blob: bytes = b"") -> None:
        self._channel.send(ReplyEnvelope(id=request, body=answer), blob)

    def _take(self, number: int, request: Request) -> None:
        match request:
            case Ping():
                self._answer(number, self._pong())
            case Trim():
                self._aside(number, "trim", lambda: self._do(request))
            case Consumed():
                self._analysis.consumed(request.reports)
                self._answer(number, Done())
            case StartCapture() | ReleaseCapture() | StopCapture() | TakePicture():
                self._aside(number, "capture", lambda: self._do(request))
            case CallOff():
                self._called_off.add(request.model)
                self._answer(number, Done())
            case LoadModel():
                self._called_off.discard(request.spec.kind)
                self._aside(number, request.spec.kind, lambda: self._do(request))
            case MoveModel() | ParkModel() | UnloadModel():
                self._called_off.discard(request.model)
                self._aside(number, request.model, lambda: self._do(request))
            case SetConcepts() | ScorePhrases():
                self._aside(number, "clip", lambda: self._do(request))
            case Shutdown():
                pass

    def _aside(self, number: int, turn: str, work: Callable[[], tuple[Reply, bytes]]) -> None:
        lock = self._turns.setdefault(turn, threading.Lock())

        def run() -> None:
            blob = b""
            with lock, contextlib.suppress(OSError):  # nobody may be left to talk to
                try:
                    answer, blob = work()
                except Exception as error:
                    if (words := _beyond_help(error, turn)) is not None:
                        # No answer: whatever it were, what the model held is there until the end.
                        self._tell(Dying(words=words))
                        return
                    answer = _refused(error, turn)
                self._answer(number, answer, blob)

        threading.Thread(target=run, name=turn, daemon=True).start()

    def _do(self, request: Request) -> tuple[Reply, bytes]:
        match request:
            case LoadModel():
                return self._load(request), b""
            case MoveModel():
                return self._move(request.model, request.destination), b""
            case ParkModel():
                return self._park(request.model), b""
            case UnloadModel():
                with self._analysis.lock:  # nothing is given back while a graph is captured
                    self._analysis.remove(request.model)
                    give_back()
            case SetConcepts():
                seat = self._analysis.seat("clip")
                if seat is None:
                    return Refused(what="CLIP is not loaded"), b""
                with self._analysis.lock:
                    model: Any = seat.model
                    model.use_concepts(request.concepts)
                    seat.content = -1
            case ScorePhrases():
                return self._score(request), b""
            case StartCapture():
                self._start_capture(request)
            case ReleaseCapture():
                if self._capture is not None:
                    self._capture.release()
            case StopCapture():
                self._stop_capture()
            case TakePicture():
                return self._picture()
            case Trim():
                # Between two batches: what a batch in flight uses can't be given back.
                with self._analysis.lock:
                    gc.collect()
                    give_back()
                return self._pong(), b""
            case _:
                pass
        return Done(), b""

    # --- models -------------------------------------------------------------------------------

    def _load(self, request: LoadModel) -> Reply:
        name: ModelName = request.spec.kind
        began = time.monotonic()
        self._tell(Progress(model=name, text="opening", fraction=0.1))
        place = resolve(request.destination)

        def say(text: str) -> None:
            self._tell(Progress(model=name, text=text, fraction=0.2))

        model = self._loader(request.spec, self._threads, place, say)
        self._tell(Progress(model=name, text="placing", fraction=0.6))
        seat = Seat(name, model, request.may_fall_to_cpu, parked=True)
        answer, waited = self._settle(seat, place)
        if isinstance(answer, Placed):
            self._analysis.put(seat)
            self._tell(Progress(model=name, text="ready", fraction=1.0))
            answer = answer.model_copy(update={"seconds": time.monotonic() - began - waited})
        elif answer.about == "called_off":
            self._analysis.put(seat)
        return answer

    def _move(self, name: ModelName, destination: Destination) -> Reply:
        """Who does not get there is on no card afterwards, whatever was the matter."""
        seat = self._analysis.seat(name)
        if seat is None:
            return Refused(what=f"{name} is not loaded")
        with self._analysis.lock:
            began = time.monotonic()
            try:
                answer, _ = self._settle(seat, resolve(destination))
            except PlaceError as error:
                self._analysis.leave(seat)
                answer = _refused(error, name)
            if isinstance(answer, Placed):
                answer = answer.model_copy(update={"seconds": time.monotonic() - began})
            elif answer.about == "other":
                # Nobody knows what is the matter with it: it is to be loaded anew.
                self._analysis.remove(name)
            give_back()
            return answer

    def _park(self, name: ModelName) -> Reply:
        seat = self._analysis.seat(name)
        if seat is None:
            return Refused(what=f"{name} is not loaded")
        with self._analysis.lock:
            began = time.monotonic()
            self._analysis.leave(seat)
            give_back()
            return Parked(seconds=time.monotonic() - began)

    def _settle(self, seat: Seat, place: Place) -> tuple[Placed | Refused, float]:
        """Put a model where it shall live and try it there, else park it, unless it was called off;
        also how long a batch was waited for."""
        asked = time.monotonic()
        # A trial computes: it takes its turn with the frames.
        with self._analysis.lock:
            waited = time.monotonic() - asked
            if seat.name in self._called_off:
                words = f"{seat.name} was called off on its way to {place.shown}"
                return Refused(what=words, about="called_off"), waited
            before = 0
            try:
                before = allocated_bytes(place)
                seat.model.move(place)
                sizes = try_out(seat.model)
            except Exception as error:
                if is_poisoned(error):
                    raise
                answer = _not_placed(seat, place, before, error)
            else:
                seat.parked = seat.wanted = False
                seat.stay, seat.shown_device = next(self._stays), place.shown
                seat.needed_bytes = sizes.weights_bytes + (sizes.activations_bytes or 0)
                self._analysis.change.notify_all()
                return _placed(seat, sizes), waited
            # Outside the handler: its traceback keeps what was computed alive.
            self._analysis.leave(seat)
            give_back()
            return answer, waited

    # --- capture ------------------------------------------------------------------------------

    def _start_capture(self, order: StartCapture) -> None:
        self._stop_capture()
        capture = Capture(order, inbox_for(order, self._batch_size()), self._tell)
        self._capture = capture
        self._analysis.watch(capture)
        capture.start()

    def _batch_size(self) -> int:
        seats = [self._analysis.seat("yolo"), self._analysis.seat("clip")]
        return max((s.model.batch_size for s in seats if s is not None), default=4)

    def _stop_capture(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.stop()
            self._analysis.watch(None)

    def _picture(self) -> tuple[Reply, bytes]:
        self._analysis.catch_up(CATCH_UP_SECONDS)
        latest = self._analysis.latest
        if latest is None:
            return Picture(report=None), b""
        from bot.vision.annotate import annotate

        frame, report = latest
        return Picture(report=report), annotate(frame.image, report)

    def _score(self, request: ScorePhrases) -> Reply:
        seat, latest = self._analysis.seat("clip"), self._analysis.latest
        if seat is None:
            return Refused(what="CLIP is not loaded", remedy="`!vision status` says why")
        if seat.parked:
            return self._wanted_first(seat)
        if latest is None:
            return Refused(what="No frame was captured yet", remedy="try again in a moment")
        frame, report = latest
        model: Any = seat.model
        began = time.perf_counter()
        # It computes: it takes its turn with the frames.
        with self._analysis.lock:
            if seat.parked:
                return self._wanted_first(seat)
            odds = model.log_odds(frame.image, request.phrases, request.background)
        return Scored(
            log_odds=odds,
            report=report,
            device=seat.shown_device,
            milliseconds=(time.perf_counter() - began) * 1e3,
        )

    def _wanted_first(self, seat: Seat) -> Refused:
        self._analysis.want(seat)
        return Refused(
            what=f"{seat.name} was parked and is being brought back", remedy="try again in a moment"
        )

    def _pong(self) -> Pong:
        import psutil

        return Pong(
            busy_seconds=self._analysis.busy_seconds,
            counts=self._analysis.counts,
            held=held(),
            resident_bytes=psutil.Process().memory_info().rss,
        )


def _beyond_help(error: Exception, turn: str) -> str | None:
    """Why only the end of the process gives back what it holds; ``None``: it may go on."""
    if isinstance(error, Stuck):
        return str(error)
    if is_poisoned(error):
        return f"the CUDA context broke ({turn}): {first_line(error)}"
    return None


def _refused(error: Exception, turn: str) -> Refused:
    match error:
        case ModelError():
            return Refused(what=error.what, remedy=error.remedy, about="model")
        case PlaceError():
            return Refused(what=error.what, remedy=error.remedy, about=error.about)
        case _:
            log.error("%s failed", turn, exc_info=error)
            return Refused(what=f"{type(error).__name__}: {error}")


def _not_placed(seat: Seat, place: Place, before: int, error: Exception) -> Refused:
    """What was the matter; ``before``: what was allocated there when it set out."""
    if is_out_of_memory(error):
        tried = tried_bytes(str(error)) if place.on_card else 0
        return Refused(
            what=f"{place.shown} has no room for it: {first_line(error)}",
            about="memory",
            needed_bytes=peak_bytes(place) - before + tried if tried else None,
        )
    if place.on_card and isinstance(error, RuntimeError):
        what = f"{place.shown} can not compute it: {first_line(error)}"
        return Refused(what=what, about="place")
    return _refused(error, seat.name)


def _placed(seat: Seat, sizes: Sizes) -> Placed:
    model = seat.model
    return Placed(
        stay=seat.stay,
        device=model.place.shown,
        on_card=model.place.on_card,
        weights_bytes=sizes.weights_bytes,
        activations_bytes=sizes.activations_bytes,
        backend=model.backend,
        notes=(*model.notes, *((model.place.note,) if model.place.note else ())),
    )


class _ChannelLog(logging.Handler):
    """Warnings of the worker go to the bot's log."""

    def __init__(self, tell: Callable[[Reply], None]) -> None:
        super().__init__(logging.INFO)
        self._tell_bot = tell

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the bot process may be gone, and with it the log
            self._tell_bot(Logged(level=record.levelno, text=self.format(record)))
