"""Frames in, reports out: the bot's one door to vision. Supervises the worker; no torch here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bot.settings import Settings
from bot.vision.asking import BACKGROUND, Scores, probability
from bot.vision.clip import ClipService
from bot.vision.packages import missing_packages, why_no_vision
from bot.vision.reports import FrameReport, PipelineCounts
from bot.vision.second_look import SecondLook
from bot.vision.service import CONTEXT_BYTES, HOLDER, ModelService, ServiceStatus
from bot.vision.setbacks import TOO_MANY, Setbacks
from bot.vision.trimming import Trimmer
from bot.vision.watchdog import Verdict, Watched, watch_over
from bot.vision.worker.handle import (
    ProcessWorker,
    WorkerFactory,
    WorkerGone,
    WorkerHandle,
    WorkerRefused,
)
from bot.vision.worker.protocol import (
    Consumed,
    Done,
    Logged,
    ModelBroke,
    ModelFell,
    Picture,
    Ping,
    Pong,
    Progress,
    ReleaseCapture,
    Reply,
    Reported,
    Scored,
    ScorePhrases,
    SetConcepts,
    SourceEnded,
    SourceOpened,
    SourceTrouble,
    StartCapture,
    Trim,
    Wanted,
)
from bot.vision.yolo import YoloService
from danzar_gpu import GPUMemoryManager
from danzar_gpu.idle_context import ContextGuard

log = logging.getLogger(__name__)

ASK_SECONDS = 30.0
PICTURE_SECONDS = 10.0

PipelineState = Literal["off", "starting", "running", "failed"]
__all__ = ["Look", "PipelineState", "ServiceStatus", "VisionPipeline", "VisionUnavailable"]


class VisionUnavailable(Exception):
    """There is nothing to show; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Look:
    """The newest report, and its annotated frame if that was asked for."""

    report: FrameReport
    jpeg: bytes | None


class VisionPipeline:
    """Keeps a worker alive, the models in it, and the newest report at hand.

    ``every_frame`` is for ``danzar watch``: capture starts when the models are ready, no frame
    of a file is dropped, and neither source nor worker is started a second time.
    """

    def __init__(
        self,
        settings: Settings,
        manager: GPUMemoryManager,
        *,
        worker_factory: WorkerFactory | None = None,
        every_frame: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._manager = manager
        self._factory = worker_factory or ProcessWorker.start
        self._every_frame = every_frame
        self._clock = clock
        self._second_look = SecondLook()
        self._clip = ClipService(settings, manager, second_look=self._second_look)
        self._trimmer = Trimmer(manager)
        self._services: dict[str, ModelService] = {
            "yolo": YoloService(settings, manager, second_look=self._second_look),
            "clip": self._clip,
        }
        for service in self._services.values():
            service.may_rest = not every_frame
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unloading = {name: asyncio.Lock() for name in self._services}
        self._state: PipelineState = "off"
        self._reason = ""
        self._why_off = f"Vision is off; {self._command('vision start')} starts it"
        self._source = ""
        self._source_trouble = ""
        self._latest: FrameReport | None = None
        self._counts = PipelineCounts()
        self._concepts = settings.clip.concepts
        self._subscribers: list[Callable[[FrameReport], None]] = []
        self._worker: WorkerHandle | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._failures = Setbacks()
        self._planned: Verdict | None = None
        """Why the worker is replaced on purpose, which is no failure."""
        self._context_guard = ContextGuard()
        self.worker_starts = 0
        """How many workers were brought up since the bot started."""
        self._stopping = asyncio.Lock()
        self.ended: asyncio.Future[SourceEnded] | None = None
        """Done when the source has no more frames; made anew by each start."""

    def _command(self, words: str) -> str:
        """As people type it in this bot."""
        return f"`{self._settings.discord.prefix}{words}`"

    # --- what is -------------------------------------------------------------------------------

    @property
    def state(self) -> PipelineState:
        return self._state

    @property
    def state_reason(self) -> str:
        """What a person should know about the state; empty when all is well."""
        if self._state != "running":
            return self._reason
        troubles = [service.trouble for service in self._services.values()]
        return "; ".join(filter(None, (self._source_trouble, *troubles)))

    @property
    def source(self) -> str:
        """The frame source in use, for people; empty before it is open."""
        return self._source

    @property
    def latest(self) -> FrameReport | None:
        """The newest report of the worker that runs."""
        return self._latest

    @property
    def counts(self) -> PipelineCounts:
        """What became of the frames since the worker started."""
        return self._counts

    @property
    def services(self) -> dict[str, ServiceStatus]:
        return {name: service.status for name, service in self._services.items()}

    @property
    def concepts(self) -> tuple[str, ...]:
        """The phrases that CLIP chooses from."""
        return self._concepts

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid if self._worker is not None else None

    def subscribe(self, callback: Callable[[FrameReport], None]) -> Callable[[], None]:
        """Call ``callback`` with each report, on the event loop; returns the way out."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    # --- what may be asked ---------------------------------------------------------------------

    async def start(self) -> None:
        """Bring vision up; returns once the worker is there or won't be. Idempotent."""
        async with self._stopping:
            if missing := missing_packages():
                self._without_packages(why_no_vision(missing))
            elif self._supervisor is None or self._supervisor.done():
                for setbacks in (self._failures, *(s.setbacks for s in self._services.values())):
                    setbacks.clear()
                self._second_look.clear()
                self._up.clear()
                self._set("starting", "the vision worker starts")
                self.ended = asyncio.get_running_loop().create_future()
                self._supervisor = asyncio.create_task(self._supervise(), name="vision")
        await self._up.wait()

    def _without_packages(self, words: str) -> None:
        """Off, and no crash: the bot alone is a way to install Danzar."""
        if self._reason != words:
            log.warning("%s", words)
        self._set("off", words)
        self._why_off = words
        self.ended = asyncio.get_running_loop().create_future()
        self.ended.set_result(SourceEnded(words=words, failed=True))
        self._up.set()

    async def stop(self) -> None:
        """End the worker; every lease of vision is released. Idempotent."""
        async with self._stopping:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None:
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)
            self._set("off", "vision is off")
            self._up.set()

    async def settle(self) -> None:
        """Wait until each model runs or is known not to."""
        for service in self._services.values():
            await service.settled.wait()

    async def look(self, with_image: bool) -> Look:
        """The newest report; its annotated JPEG only when asked for.

        Raises:
            VisionUnavailable: vision does not run or has seen nothing yet.
        """
        if self._state == "off":
            raise VisionUnavailable(self._why_off)
        worker, report = self._worker, self._latest
        if self._state == "failed" or worker is None or report is None:
            why = self.state_reason or "no frame was captured yet"
            raise VisionUnavailable(f"There is nothing to see: {why}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PICTURE_SECONDS):
                again = [await service.returned() for service in self._services.values()]
                if not with_image and not any(again):
                    return Look(report, None)
        from bot.vision.worker.protocol import TakePicture

        try:
            picture, jpeg = await worker.ask(TakePicture(), Picture, timeout=PICTURE_SECONDS)
        except (WorkerGone, WorkerRefused, TimeoutError) as error:
            raise VisionUnavailable(
                f"The picture can't be had: {str(error) or 'no answer'}"
            ) from error
        return Look(picture.report or report, jpeg if with_image else None)

    async def use_concepts(self, concepts: tuple[str, ...]) -> None:
        """Let CLIP choose from other phrases: now, if it is there, and from each start on.

        Raises:
            VisionUnavailable: CLIP did not take them; it goes on with those that it had.
        """
        await self._wake_clip()
        worker, state = self._worker, self._clip.status.state
        if worker is not None and state in ("loading", "running", "moving"):
            try:
                await worker.ask(SetConcepts(concepts=concepts), Done, timeout=ASK_SECONDS)
            except (WorkerGone, WorkerRefused, TimeoutError) as error:
                why = str(error) or f"no answer in {ASK_SECONDS:g} s"
                raise VisionUnavailable(
                    f"The phrases could not be changed ({why}): try again in a moment"
                ) from error
        self.choose_from(concepts)

    def choose_from(self, concepts: tuple[str, ...]) -> None:
        """Let CLIP choose from these phrases from its next loading on."""
        self._concepts = self._clip.concepts = concepts

    async def score(self, phrases: Sequence[str]) -> Scores:
        """How likely each phrase is on the newest frame, see ``bot.vision.asking``.

        Raises:
            VisionUnavailable: CLIP does not run, or nothing was seen yet.
        """
        worker = self._worker
        if worker is None:
            why = self._reason if self._state == "failed" else ""
            raise VisionUnavailable(why or self._why_off)
        clip = self._clip.status
        if clip.state in ("off", "failed", "waiting"):
            raise VisionUnavailable(
                f"CLIP does not run ({clip.state}): {clip.reason}; "
                f"{self._command('vision status')} shows more"
            )
        await self._wake_clip()
        request = ScorePhrases(phrases=tuple(phrases), background=BACKGROUND)
        try:
            scored, _ = await worker.ask(request, Scored, timeout=ASK_SECONDS)
        except (WorkerGone, WorkerRefused, TimeoutError) as error:
            why = str(error) or f"no answer in {ASK_SECONDS:g} s; try again"
            raise VisionUnavailable(f"The phrase could not be scored: {why}") from error
        return Scores(
            dict(zip(phrases, map(probability, scored.log_odds), strict=True)),
            scored.report,
            scored.device,
            scored.milliseconds,
        )

    async def _wake_clip(self) -> None:
        """If it is parked, it comes back to answer."""
        with contextlib.suppress(TimeoutError):  # the worker's own answer says what is the matter
            async with asyncio.timeout(ASK_SECONDS):
                await self._clip.wake()

    async def unload(self, name: str) -> None:
        """Take one model out until ``load`` or the next start; the rest goes on."""
        async with self._unloading[name]:
            task = self._tasks.pop(name, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if self._worker is not None:
                await self._services[name].unload(self._worker)

    def load(self, name: str) -> None:
        """Bring a model back. Does nothing if it is there or vision is off."""
        task = self._tasks.get(name)
        if self._worker is not None and (task is None or task.done()):
            run = self._run_service(self._services[name], self._worker)
            self._tasks[name] = asyncio.create_task(run, name=f"vision {name}")

    async def use_settings(self, settings: Settings) -> tuple[str, ...]:
        """Go on with other settings; what was started again for them, in words.

        What does not run now takes them when it starts.
        """
        before, ordered = self._settings, self._order()
        self._settings = settings
        for service in self._services.values():
            service.settings = settings
        # Phrases that somebody chose in chat stay chosen.
        chosen = self._concepts != before.clip.concepts
        new_phrases = settings.clip.concepts != before.clip.concepts and not chosen
        if new_phrases:
            self._clip.concepts, self._concepts = (), settings.clip.concepts
        worker = self._worker
        if worker is None:
            return ()
        # The worker's thread pools and what its models are opened with are fixed at their start.
        fixed = ("cpu_budget", "backend", "cuda_graphs")
        if any(getattr(settings.vision, k) != getattr(before.vision, k) for k in fixed):
            await self.stop()
            await self.start()
            return ("the vision worker",)
        again: list[str] = []
        for name, service in self._services.items():
            other = _model_part(settings, name) != _model_part(before, name)
            # One that was unloaded by hand stays away.
            if name in self._tasks and (other or (name == "clip" and new_phrases)):
                await self.unload(name)
                self.load(name)
                again.append(service.title)
        if self._order() != ordered:
            with contextlib.suppress(WorkerGone, WorkerRefused, TimeoutError):
                await worker.ask(self._order(), Done, timeout=ASK_SECONDS)
                again.append("the capture")
        return tuple(again)

    async def _run_service(self, service: ModelService, worker: WorkerHandle) -> None:
        async with self._unloading[service.name]:
            pass  # who is still being taken out does not take the new lease with it
        try:
            await service.run(worker)
        except Exception as error:
            log.exception("the service of %s failed", service.title)
            await worker.kill(f"a fault in Danzar: {type(error).__name__}: {error}")

    async def trim(self) -> tuple[int, int]:
        """Let the worker return its allocator's unused memory to the driver.

        Returns the bytes that it held on all cards before and after.

        Raises:
            VisionUnavailable: there is no worker, or it did not answer.
        """
        worker = self._worker
        if worker is None:
            raise VisionUnavailable("Vision is off: it holds no GPU memory")
        try:
            before, _ = await worker.ask(Ping(), Pong, timeout=ASK_SECONDS)
            after, _ = await worker.ask(Trim(), Pong, timeout=ASK_SECONDS)
        except (WorkerGone, WorkerRefused, TimeoutError) as error:
            raise VisionUnavailable(f"The worker could not be asked: {error}") from error
        self._hold(worker, after)
        return sum(h.reserved_bytes for h in before.held), sum(h.reserved_bytes for h in after.held)

    async def consumed(self, reports: int) -> None:
        """With ``every_frame``: so many reports were dealt with; the worker may go on."""
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(WorkerGone, TimeoutError):
                await worker.ask(Consumed(reports=reports), Done, timeout=ASK_SECONDS)

    # --- the worker's life ---------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            self._planned = None
            try:
                why = await self._live()
            except (WorkerGone, WorkerRefused, OSError, TimeoutError) as error:
                why = str(error) or "the vision worker did not answer in time"
            except Exception as error:
                # Nobody would look after the worker any more: that must not go unnoticed.
                log.exception("looking after the vision worker failed")
                why = f"a fault in Danzar: {type(error).__name__}: {error}"
            if self._planned is not None:
                self._begin_anew(self._planned)
                continue
            delay = self._failures.one_more(self._clock())
            if self._every_frame or delay is None:
                self._give_up(why)
                return
            self._set("starting", f"{why}; it is started again in {delay:g} s")
            log.warning("%s; it is started again in %g s", why, delay)
            self._up.set()
            await asyncio.sleep(delay)

    def _give_up(self, why: str) -> None:
        if self._every_frame:
            self._set("failed", why)
        else:
            self._set(
                "failed",
                f"vision is off after {TOO_MANY}: {why}; "
                f"{self._command('vision start')} tries again",
            )
        log.error("%s", self._reason)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(SourceEnded(words=why, failed=True))
        self._up.set()

    async def _live(self) -> str:
        """One worker from start to end; returns why it ended."""
        worker = await self._factory(self._settings.vision.threads, self._heard)
        self.worker_starts += 1
        self._counts = PipelineCounts()
        self._worker = worker
        why = "vision was stopped"
        watchdog: asyncio.Task[None] | None = None
        try:
            self._manager.holder_memory(HOLDER, worker.pid, {})
            for name in self._services:
                self.load(name)
            watchdog = asyncio.create_task(self._watch_over(worker), name="vision watchdog")
            # A source that can't be opened is told before the models have come.
            await worker.ask(self._order(), Done, timeout=ASK_SECONDS)
            self._set("running", "")
            self._up.set()
            if self._every_frame:
                await self.settle()
                await worker.ask(ReleaseCapture(), Done, timeout=ASK_SECONDS)
            why = await worker.wait_gone()
            return why
        except BaseException as error:
            why = str(error) or why
            raise
        finally:
            # Nothing loads into it any more, and whoever stops vision lets this come to its end.
            self._worker = None
            await to_its_end(self._end(worker, watchdog, why))

    def _order(self) -> StartCapture:
        return StartCapture(
            capture=self._settings.capture,
            yolo_fps=self._settings.yolo.processing_fps,
            clip_fps=self._settings.clip.processing_fps,
            every_frame=self._every_frame,
            retry=not self._every_frame,
            held=self._every_frame,
        )

    async def _end(
        self, worker: WorkerHandle, watchdog: asyncio.Task[None] | None, why: str
    ) -> None:
        tasks = [*self._tasks.values(), *((watchdog,) if watchdog else ())]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await worker.close()
        finally:
            # Only now is its memory free.
            if self._supervisor is None:
                for lease in self._manager.leases:
                    if lease.holder == HOLDER:
                        lease.release()
            self._manager.holder_gone(HOLDER, why)
            self._latest = None
            self._source = self._source_trouble = ""
            self._second_look.worker_gone()
            for service in self._services.values():
                service.stopped()

    async def _watch_over(self, worker: WorkerHandle) -> None:
        """Let the watchdog ask; a worker that is ended for new cards is no failure."""
        services = self._services.values()
        watched = Watched(
            settings=lambda: self._settings.vision,
            loading=lambda: any(s.status.state in ("loading", "moving") for s in services),
            snapshot=lambda: self._manager.snapshot,
            heard=lambda pong: self._look_after(worker, pong),
            idle_context=self._idle_context,
            second_look=self._due_for_another,
        )
        try:
            verdict = await watch_over(worker, watched)
        except Exception as error:
            log.exception("the watchdog of the vision worker failed")
            verdict = Verdict(f"a fault in Danzar: {type(error).__name__}: {error}")
        if verdict is not None:
            # First: whoever waits for its end cancels this task.
            self._planned = verdict if verdict.planned else None
            await worker.kill(verdict.why)

    def _idle_context(self) -> str | None:
        """Why this worker should make way for one without a context on a card that is short."""
        if self._every_frame or self._manager.source == "simulated":
            return None  # a film would lose frames; a scripted card holds no context
        manager = self._manager
        contexts = manager.idle_contexts(HOLDER)
        return self._context_guard.due(contexts, manager.rooms(), manager.config, self._clock())

    def _due_for_another(self) -> str | None:
        """Why another worker should try a card that this one can't use."""
        return None if self._every_frame else self._second_look.due(self._clock())

    def _begin_anew(self, verdict: Verdict) -> None:
        if verdict.planned == "idle context":
            self._manager.context_given_up(f"{verdict.why}: the worker starts again without it")
            self._set("starting", "the vision worker starts again to give GPU memory back")
            return
        self._set("starting", f"the vision worker is started again: {verdict.why}")
        log.info("%s", self._reason)

    async def _look_after(self, worker: WorkerHandle, pong: Pong) -> None:
        self._hold(worker, pong)
        trimmed = await self._trimmer.trim(worker, pong)
        if trimmed is not None:
            self._hold(worker, trimmed)

    def _hold(self, worker: WorkerHandle, pong: Pong) -> None:
        self._counts = pong.counts
        held = {h.index: (h.reserved_bytes, h.active_bytes) for h in pong.held}
        contexts = {h.index: h.context_bytes or CONTEXT_BYTES for h in pong.held}
        self._manager.holder_memory(HOLDER, worker.pid, held, contexts)

    def _heard(self, event: Reply) -> None:
        match event:
            case Reported():
                self._publish(event)
            case Progress() | ModelFell() | ModelBroke() | Wanted():
                self._services[event.model].heard(event)
            case SourceOpened():
                self._source, self._source_trouble = event.description, ""
            case SourceTrouble():
                if event.words != self._source_trouble:
                    log.warning("capture: %s", event.words)
                self._source_trouble = event.words
            case SourceEnded():
                self._source_trouble = event.words
                log.info("%s", event.words)
                if self.ended is not None and not self.ended.done():
                    self.ended.set_result(event)
            case Logged():
                log.log(event.level, "%s", event.text)
            case _:
                log.warning("the vision worker said %s unasked", type(event).__name__)

    def _publish(self, event: Reported) -> None:
        self._latest, self._counts = event.report, event.counts
        for service in self._services.values():
            service.saw(event.report)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event.report)
            except Exception:
                log.exception("a subscriber of frame reports failed; the others go on")

    def _set(self, state: PipelineState, reason: str) -> None:
        self._state, self._reason = state, reason


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await something that has to be finished even if the task that does so is cancelled."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


def _model_part(settings: Settings, name: str) -> dict[str, object]:
    """What a model is loaded with: its section without rates, wishes and lists of phrases."""
    section = settings.yolo if name == "yolo" else settings.clip
    elsewhere = {"processing_fps", "device", "profile", "profiles"}
    return section.model_dump(exclude=elsewhere)
