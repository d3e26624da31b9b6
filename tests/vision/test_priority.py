"""The worker stands back for the game, the LLM and the bot, in all of its threads."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from pathlib import Path

import psutil
import pytest

from bot.vision.worker.handle import ProcessWorker
from bot.vision.worker.priority import NICENESS, SLICE_SECONDS
from bot.vision.worker.protocol import Ping, Pong

ATTRIBUTES = struct.Struct("=IIQiIQQQ")
GETATTR = {"x86_64": 315, "aarch64": 275}


def slice_seconds(thread: int) -> float:
    """How long a slice of the processor a thread asks for, as the kernel has it."""
    buffer = ctypes.create_string_buffer(ATTRIBUTES.size)
    number = GETATTR[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, thread, buffer, ATTRIBUTES.size, 0) == 0
    return ATTRIBUTES.unpack(buffer.raw)[5] / 1e9


def session_niceness(pid: int) -> int | None:
    """``None`` where the kernel knows no such thing."""
    try:
        return int(Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").split()[-1])
    except OSError:
        return None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="niceness as Linux has it")
async def test_every_thread_of_the_worker_is_nicer_than_the_bot() -> None:
    worker = await ProcessWorker.start(1, lambda _: None)
    try:
        await worker.ask(Ping(), Pong, timeout=30)
        threads = [thread.id for thread in psutil.Process(worker.pid).threads()]
        assert len(threads) > 1
        assert all(psutil.Process(thread).nice() >= NICENESS for thread in threads)
        assert session_niceness(worker.pid) in (psutil.Process(worker.pid).nice(), None)
        release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
        if release >= (6, 12) and platform.machine() in GETATTR:
            # Before anybody asks for another slice they are a few milliseconds long.
            assert slice_seconds(0) < SLICE_SECONDS
            assert [slice_seconds(thread) for thread in threads] == [SLICE_SECONDS] * len(threads)
    finally:
        await worker.close()
