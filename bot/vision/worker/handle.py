"""The bot's side of the worker: start it, ask it, hear it, end it. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

from bot.vision.worker.job import Job
from bot.vision.worker.protocol import (
    HEADER,
    Dying,
    Hello,
    ProtocolError,
    Refused,
    Reply,
    ReplyEnvelope,
    Request,
    RequestEnvelope,
    Shutdown,
    decode_reply,
    encode,
    lengths,
)

log = logging.getLogger(__name__)

START_SECONDS = 60.0
CLOSE_SECONDS = 2.0
LAST_BREATH_SECONDS = 1.0
NEW_PROCESS_GROUP, NO_WINDOW = 0x200, 0x8000000
"""Windows' CREATE_..., which `subprocess` knows on Windows only."""
KILLED = 9
"""SIGKILL, which `signal` knows on POSIX only."""
CRASH = ("Fatal Python error: ", "Windows fatal exception: ")
"""How the first line of ``faulthandler`` begins."""
_ROOT = Path(__file__).resolve().parent.parent.parent.parent

EventListener = Callable[[Reply], None]
Answer = TypeVar("Answer")


class WorkerGone(Exception):
    """The worker is dead or was ended; says why."""


class WorkerRefused(Exception):
    """The worker could not do what it was asked; says why and what to do."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.words)
        self.refusal = refusal


class WorkerHandle(ABC):
    """A worker that is up. Used on one event loop."""

    pid: int
    """Of the process that computes: the driver keeps its accounts by it."""

    def __init__(self, listener: EventListener) -> None:
        self._listener = listener
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Reply, bytes]]] = {}
        self._hello: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._last_words = ""

    async def ask(
        self, request: Request, answer: type[Answer], *, timeout: float
    ) -> tuple[Answer, bytes]:
        """Send a request; its answer and blob.

        Raises:
            WorkerRefused: it could not be done.
            WorkerGone: the worker died meanwhile.
            TimeoutError: no answer in ``timeout`` seconds.
        """
        if self._gone.done():
            raise WorkerGone(self._gone.result())
        number = next(self._numbers)
        future: asyncio.Future[tuple[Reply, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout):
                await self._send(encode(RequestEnvelope(id=number, body=request)))
                reply, blob = await future
        finally:
            self._waiting.pop(number, None)
        if isinstance(reply, Refused):
            raise WorkerRefused(reply)
        if not isinstance(reply, answer):
            # Nobody knows any more what it did: a new one begins with what is known.
            words = f"it answered {type(reply).__name__} to {request.kind}"
            await self.kill(words)
            raise WorkerGone(f"the vision worker was ended: {words}")
        return reply, blob

    async def wait_gone(self) -> str:
        """Why it is gone, once it is."""
        return await asyncio.shield(self._gone)

    @property
    def alive(self) -> bool:
        return not self._gone.done()

    async def close(self) -> None:
        """End it: politely, then not; one that hangs costs ``CLOSE_SECONDS``. Idempotent."""
        if self.alive:
            with contextlib.suppress(WorkerGone, WorkerRefused, TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.ask(Shutdown(), object, timeout=CLOSE_SECONDS)
                    await self.wait_gone()
        await self.kill("it was asked to end")

    @abstractmethod
    async def kill(self, why: str) -> None:
        """End it at once; returns when it is gone. Idempotent."""

    @abstractmethod
    async def _send(self, data: bytes) -> None: ...

    def _heard(self, envelope: ReplyEnvelope, blob: bytes) -> None:
        if envelope.id is not None:
            future = self._waiting.get(envelope.id)
            if future is not None and not future.done():
                future.set_result((envelope.body, blob))
            return
        match envelope.body:
            case Hello(pid=pid):
                if not self._hello.done():
                    self._hello.set_result(pid)
            case Dying(words=words):
                self._last_words = words
            case event:
                try:
                    self._listener(event)
                except Exception:
                    # Whoever reads the pipe must go on: the end of the worker is heard there, too.
                    log.exception("%s of the vision worker could not be used", event.kind)

    def _lost(self, why: str) -> None:
        if self._gone.done():
            return
        self._gone.set_result(why)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerGone(why))
        if not self._hello.done():
            self._hello.set_exception(WorkerGone(why))
            self._hello.exception()


WorkerFactory = Callable[[int, EventListener], Awaitable[WorkerHandle]]
"""(threads, listener) -> a worker that is up. Raises ``WorkerGone`` or ``OSError``."""


class ProcessWorker(WorkerHandle):
    """A worker in a process of its own, over pipes."""

    def __init__(self, process: asyncio.subprocess.Process, listener: EventListener) -> None:
        super().__init__(listener)
        self._process = process
        self.pid = process.pid
        self._stderr: deque[str] = deque(maxlen=200)
        self._why = ""
        self._job: Job | None = None
        self._tasks = [
            asyncio.create_task(self._listen(), name="vision worker"),
            asyncio.create_task(self._drain_stderr(), name="vision worker stderr"),
        ]

    @classmethod
    async def start(cls, threads: int, listener: EventListener) -> ProcessWorker:
        """Spawn it and wait until it speaks.

        Raises:
            WorkerGone: it died at once or said nothing.
            OSError: it can't be started.
        """
        search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a torch.py in the working folder is not ours
            "-m",
            "bot.vision.worker",
            "--threads",
            str(threads),
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search},
            # Ctrl-C reaches the whole foreground group, and a window that is closed ends all that
            # run in it: the worker is no part of either. It opens no window of its own.
            start_new_session=os.name == "posix",
            creationflags=0 if os.name == "posix" else NEW_PROCESS_GROUP | NO_WINDOW,
        )
        worker = cls(process, listener)
        try:
            async with asyncio.timeout(START_SECONDS):
                # On Windows a venv's python.exe is a launcher: the interpreter is its child.
                worker.pid = await asyncio.shield(worker._hello)
            worker._hold()
        except TimeoutError:
            await worker.kill("it said nothing after its start")
            raise WorkerGone(f"the vision worker said nothing in {START_SECONDS:.0f} s") from None
        except BaseException:
            await worker.kill("its start was given up")
            raise
        return worker

    def _hold(self) -> None:
        try:
            self._job = Job(self.pid)
        except OSError as error:
            log.warning("the vision worker could outlive a bot that is killed: %s", error)

    async def _send(self, data: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(data)
            await pipe.drain()
        except (ConnectionError, RuntimeError) as error:
            raise WorkerGone(f"the vision worker does not listen any more: {error}") from None

    async def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            while True:
                body, blob = lengths(await pipe.readexactly(HEADER.size))
                content = await pipe.readexactly(body + blob)
                self._heard(decode_reply(content[:body]), content[body:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except ProtocolError as error:
            self._last_words = f"it sent nonsense: {str(error)[:200]}"
        except Exception as error:
            log.exception("the vision worker's messages can't be read any more")
            self._last_words = f"its messages could not be read: {type(error).__name__}: {error}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_BREATH_SECONDS):
                await self._process.wait()
        self._strike()
        status = await self._process.wait()
        if self._job is not None:
            self._job.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.wait([self._tasks[1]])
        self._lost(self._obituary(status))

    def _strike(self) -> None:
        """SIGKILL, which ends a stopped process, too."""
        if self._process.returncode is not None:
            return
        if os.name == "posix":
            # Popen.kill would reap the child before asyncio can, which then reports 255.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def _obituary(self, status: int) -> str:
        if self._why:
            return self._why
        ended = f"signal {-status}" if status < 0 else f"status {_shown(status)}"
        if status == -KILLED:
            ended += " (not sent by Danzar; a system that is out of memory does that)"
        crash = next((i for i, line in enumerate(self._stderr) if line.startswith(CRASH)), None)
        if crash is not None:
            stacks = list(self._stderr)[crash:]
            log.error("the vision worker crashed:\n%s", "\n".join(stacks))
            self._last_words = self._last_words or stacks[0].partition(": ")[2]
        # Who is killed says nothing: its last line is about something else.
        spoken = () if status == -KILLED else reversed(self._stderr)
        last = self._last_words or next(filter(None, spoken), "")
        return f"the vision worker ended with {ended}{': ' + last if last else ''}"

    async def _drain_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        begun = b""
        while chunk := await pipe.read(8192):
            # A crash writes its stacks in pieces of lines.
            *lines, begun = (begun + chunk).split(b"\n")
            begun = begun[:8192]
            for line in (line.decode("utf-8", "replace").strip()[:500] for line in lines):
                self._stderr.append(line)
                log.debug("worker: %s", line)
        self._stderr.append(begun.decode("utf-8", "replace").strip()[:500])

    async def kill(self, why: str) -> None:
        if self.alive:
            self._why = self._why or f"the vision worker was ended: {why}"
            self._strike()
        await self.wait_gone()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process.stdin is not None:
            self._process.stdin.close()


def _shown(status: int) -> str:
    """Windows' own (an access violation is 0xC0000005) are looked up as they are documented."""
    return f"0x{status:08X}" if status > 0xFFFF else str(status)
