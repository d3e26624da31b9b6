"""The capture thread: takes frames at their rate, lets the gate judge them, passes them on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bot.vision.frames import FrameSource, SourceError, SourceWaiting
from bot.vision.sources import open_source
from bot.vision.worker.darkness import Darkness
from bot.vision.worker.gate import DuplicateGate
from bot.vision.worker.inbox import Captured, Inbox
from bot.vision.worker.protocol import (
    Reply,
    SourceEnded,
    SourceOpened,
    SourceTrouble,
    StartCapture,
)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
QUEUE_FRAMES = 8
"""How many frames of a file may wait, when none of them may be lost; at 1080p each takes 9 MB."""


def inbox_for(order: StartCapture, batch_size: int) -> Inbox:
    """Room for one frame of a screen; for a batch where frames come faster than models look."""
    source = order.capture.source
    if order.every_frame and source in ("video", "images", "scene"):
        return Inbox(max(QUEUE_FRAMES, 2 * batch_size), live=False)
    return Inbox(batch_size if source in ("video", "stream", "images") else 1, live=True)


class Capture:
    """One order to capture, carried out by a thread until it is stopped or the source ends."""

    def __init__(
        self,
        order: StartCapture,
        inbox: Inbox,
        tell: Callable[[Reply], None],
        *,
        open_it: Callable[..., FrameSource] = open_source,
    ) -> None:
        self.order = order
        self.inbox = inbox
        self.source_name: str = order.capture.source
        self.ending: SourceEnded | None = None
        """Set when the source has no more frames; some may still wait in the inbox."""
        self._tell = tell
        self._open = open_it
        self._gate = DuplicateGate()
        self._darkness = Darkness()
        self._content = 0
        self._trouble = ""
        self._stop = threading.Event()
        self._go = threading.Event()
        if not order.held:
            self._go.set()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def release(self) -> None:
        """Take frames now."""
        self._go.set()

    def stop(self) -> None:
        """Returns when the thread is gone, or at least told to go."""
        self._stop.set()
        self._go.set()
        self.inbox.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=15)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            source: FrameSource | None = None
            try:
                source = self._open(self.order.capture)
                self.source_name = source.name
                self._tell(SourceOpened(description=source.description))
                self._go.wait()
                frames = self._follow(source)
                if self._stop.is_set():
                    break
                words = f"{source.description} has ended"
                if not (self.order.retry and source.live):
                    self._end(words, failed=False)
                    break
                failures = 0 if frames else failures
            except SourceError as error:
                words = str(error)
                if not self.order.retry:
                    self._end(words, failed=True)
                    break
            except Exception as error:  # a source that somebody added may raise anything
                words = f"the frame source failed: {type(error).__name__}: {error}"
                if not self.order.retry:
                    self._end(words, failed=True)
                    break
            finally:
                if source is not None:
                    source.close()
            self._tell(SourceTrouble(words=words))
            self._stop.wait(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    def _end(self, words: str, *, failed: bool) -> None:
        self.ending = SourceEnded(words=words, failed=failed)
        self.inbox.close()

    def _follow(self, source: FrameSource) -> int:
        """Frames until the end or a stop; returns how many there were."""
        paced = source.live or not self.order.every_frame
        period = 1.0 / self.order.capture.fps
        began = due = time.monotonic()
        frames = 0
        self._trouble = ""
        while not self._stop.is_set():
            if paced:
                now = time.monotonic()
                if due > now and self._stop.wait(due - now):
                    break
                # A frame that came late moves the rhythm; it is not made up for by a burst.
                due = max(due + period, time.monotonic() - period)
            started = time.perf_counter()
            at = time.monotonic()
            try:
                frame = source.grab(at - began if paced and not source.live else None)
            except SourceWaiting as error:
                # It stays open: who sends the pictures may come any time.
                self._tell_trouble(source, str(error))
                continue
            if frame is None:
                break
            if paced and not source.live and frame.media_seconds is not None:
                ahead = frame.media_seconds - (time.monotonic() - began)
                if ahead > 0 and self._stop.wait(ahead):
                    break
            grabbed = time.perf_counter()
            changed = self._gate.passes(frame)
            self._content += changed
            dark = ""
            if source.live:
                dark = self._darkness.look(frame, source.name, at, changed=changed)
            self._tell_trouble(source, dark)
            gated = time.perf_counter()
            timings = {"capture": (grabbed - started) * 1e3, "gate": (gated - grabbed) * 1e3}
            if not self.inbox.put(Captured(frame, self._content, at, timings)):
                break
            frames += 1
        return frames

    def _tell_trouble(self, source: FrameSource, words: str) -> None:
        """What keeps an open source from showing anything, once; empty: it is over."""
        if words != self._trouble:
            self._trouble = words
            well = SourceOpened(description=source.description)
            self._tell(SourceTrouble(words=words) if words else well)
