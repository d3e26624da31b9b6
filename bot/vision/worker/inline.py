"""The worker inside this process, for tests: the same class, the same bytes, no pipes."""

from __future__ import annotations

import asyncio
import os
import queue
import threading

from bot.vision.worker.handle import EventListener, WorkerGone, WorkerHandle
from bot.vision.worker.protocol import (
    HEADER,
    ReplyEnvelope,
    RequestEnvelope,
    decode_reply,
    decode_request,
    encode,
    lengths,
)
from bot.vision.worker.vision_worker import Loader, VisionWorker, load_model


class InlineWorker(WorkerHandle):
    """A worker whose threads live here."""

    def __init__(self, threads: int, listener: EventListener, loader: Loader) -> None:
        super().__init__(listener)
        self.pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self.worker = VisionWorker(
            self, threads, loader=loader, die=lambda: self._requests.put(None), forward_log=False
        )
        self._thread = threading.Thread(target=self._run, name="inline worker", daemon=True)

    @classmethod
    async def start(
        cls, threads: int, listener: EventListener, *, loader: Loader = load_model
    ) -> InlineWorker:
        worker = cls(threads, listener, loader)
        worker._thread.start()
        await worker._hello
        return worker

    def _run(self) -> None:
        try:
            self.worker.run()
        finally:
            # Whatever happened: somebody waits for the end.
            self._ended.set()
            why = self._last_words or "the inline worker ended"
            self._loop.call_soon_threadsafe(self._lost, why)

    def receive(self) -> RequestEnvelope | None:
        data = self._requests.get()
        if data is None:
            return None
        body, _ = lengths(data[: HEADER.size])
        return decode_request(data[HEADER.size : HEADER.size + body])

    def send(self, envelope: ReplyEnvelope, blob: bytes = b"") -> None:
        data = encode(envelope, blob)
        body, _ = lengths(data[: HEADER.size])
        again = decode_reply(data[HEADER.size : HEADER.size + body])
        try:
            self._loop.call_soon_threadsafe(self._heard, again, blob)
        except RuntimeError as error:
            raise OSError("the event loop is closed") from error

    async def _send(self, data: bytes) -> None:
        if self._ended.is_set():
            raise WorkerGone("the inline worker ended")
        self._requests.put(data)

    async def kill(self, why: str) -> None:
        if self.alive:
            self._last_words = self._last_words or f"the inline worker was ended: {why}"
            self._requests.put(None)
        await self.wait_gone()
