"""The poller: asks the probe off the event loop, with a time limit, and never dies."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Awaitable, Callable

from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.probes import MemoryProbe, ProbeError

log = logging.getLogger(__name__)


class ProbeReader:
    """Runs a probe's reads one after another in a thread of its own.

    The thread is a daemon: a driver call that never returns must not keep the process alive.
    While one hangs further reads fail at once, and reading resumes by itself when it comes back.
    """

    def __init__(self, probe: MemoryProbe, clock: Callable[[], float], time_limit: float) -> None:
        self._probe = probe
        self._clock = clock
        self.time_limit = time_limit
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck_since: float | None = None

    async def read(self, *, processes: bool) -> MemorySnapshot:
        """One reading. Raises ``ProbeError``, also when the time limit is passed."""
        if self._stuck_since is not None:
            waited = self._clock() - self._stuck_since
            raise ProbeError(
                "the driver does not answer any more",
                f"that is so for {waited:.0f} s; the last reading is kept; if this lasts, reboot",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[MemorySnapshot] = loop.create_future()
        asked_at = self._clock()

        def settle(result: MemorySnapshot | BaseException) -> None:
            self._stuck_since = None
            if answer.done():
                return
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        def job() -> None:
            result: MemorySnapshot | BaseException
            try:
                result = self._probe.read(self._clock(), processes=processes)
            except ProbeError as error:
                result = error
            except Exception as error:  # the poller must outlive any driver's surprise
                log.exception("the probe failed in a way it should not")
                result = ProbeError(f"the probe failed: {type(error).__name__}: {error}")
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result)

        self._submit(job)
        done, _ = await asyncio.wait({answer}, timeout=self.time_limit)
        if not done:
            self._stuck_since = asked_at
            answer.cancel()
            raise ProbeError(
                f"the driver did not answer within {self.time_limit:g} s",
                "the last reading is kept with its age",
            )
        return answer.result()

    def close(self) -> None:
        """Let the thread end after what it is doing; a hung one is left to the process's end."""
        if self._thread is not None:
            self._jobs.put(self._probe.close)
            self._jobs.put(None)
            self._thread = None

    def _submit(self, job: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():  # no thread survives a fork
            self._thread = threading.Thread(target=self._run, name="gpu-probe", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


MOST_BACKOFF_SECONDS = 30.0


def pause_seconds(interval: float, failures: int) -> float:
    """How long to wait for the next reading after so many that failed in a row.

    A long interval is rest enough: a driver that is back is not left alone for minutes.
    """
    return max(interval, min(interval * 2 ** min(3, failures), MOST_BACKOFF_SECONDS))


class MemoryMonitor:
    """Calls ``read`` again and again; ``interval`` says how long to wait in between.

    A failed read backs off, up to eight intervals or half a minute, and recovers by itself.
    """

    def __init__(
        self, read: Callable[[], Awaitable[object]], interval: Callable[[], float]
    ) -> None:
        self._read = read
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._failures = 0

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin polling on the running event loop. Idempotent."""
        if not self.running:
            # The poller outlives whoever starts it, so it must not inherit a context: discord.py
            # keeps the webhook session of a command's interaction there.
            self._task = contextvars.Context().run(
                asyncio.get_running_loop().create_task, self._poll(), name="gpu-monitor"
            )

    def stop(self) -> None:
        """End polling. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def hurry(self) -> None:
        """Something is about to change: don't wait out a long interval."""
        self._hurry.set()

    async def _poll(self) -> None:
        while True:
            await self._pause()
            try:
                await self._read()
                self._failures = 0
            except ProbeError:
                self._failures += 1  # the manager has told it already
            except Exception:
                self._failures += 1
                log.exception("a poll failed; the poller goes on")

    async def _pause(self) -> None:
        delay = pause_seconds(self._interval(), self._failures)
        try:
            await asyncio.wait_for(self._hurry.wait(), delay)
        except TimeoutError:
            return
        self._hurry.clear()
        # Hurried: the short interval counts from now.
        await asyncio.sleep(min(self._interval(), delay))
