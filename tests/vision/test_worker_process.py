"""The worker as a process: it ends with its parent, and the bot never sees torch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bot.vision.worker.handle import ProcessWorker, WorkerGone
from bot.vision.worker.protocol import Done, Ping, Pong, Reply, TakePicture
from tests.vision.running import KILLED

HOST = """
import asyncio, sys
from bot.vision.worker.handle import ProcessWorker

async def main():
    worker = await ProcessWorker.start(1, lambda event: None)
    print(worker.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return gone(pid)


@contextlib.contextmanager
def host() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that started a worker, in a session of its own."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    try:
        yield program, worker
    finally:
        program.kill()
        program.communicate()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(worker).kill()


@pytest.mark.parametrize("state", ["at work", "stopped"])
def test_the_worker_ends_when_its_parent_is_killed(state: str) -> None:
    with host() as (program, worker):
        if state == "stopped":
            if sys.platform == "darwin":
                pytest.skip("macOS ends no stopped child with its parent")
            psutil.Process(worker).suspend()
        program.kill()
        program.wait()
        assert wait_until_gone(worker)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no Ctrl-C to a process")
def test_ctrl_c_in_the_terminal_prints_no_traceback_of_the_worker() -> None:
    with host() as (program, worker):
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=30)
        assert wait_until_gone(worker)
        assert "bot.vision.worker" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no Ctrl-C to a process")
def test_the_worker_ignores_ctrl_c_itself() -> None:
    async def main() -> None:
        worker = await ProcessWorker.start(1, lambda _: None)
        try:
            os.kill(worker.pid, signal.SIGINT)
            pong, _ = await worker.ask(Ping(), Pong, timeout=30)
            assert pong.busy_seconds == 0
        finally:
            await worker.close()

    asyncio.run(main())


async def test_it_answers_at_once_and_is_light_before_a_model_comes() -> None:
    events: list[Reply] = []
    worker = await ProcessWorker.start(1, events.append)
    try:
        pong, _ = await worker.ask(Ping(), Pong, timeout=30)
        assert pong.held == ()
        process = psutil.Process(worker.pid)
        assert process.nice() > psutil.Process().nice() or process.nice() >= 5
        loaded = {Path(m.path).name for m in process.memory_maps()}
        assert not any(name.startswith(("libtorch", "torch")) for name in loaded)
        assert worker.alive
    finally:
        await worker.close()
    assert not worker.alive
    with pytest.raises(WorkerGone):
        await worker.ask(TakePicture(), Done, timeout=1)
    await worker.close()


async def test_whoever_waits_for_a_worker_that_dies_is_told() -> None:
    worker = await ProcessWorker.start(1, lambda _: None)
    process = psutil.Process(worker.pid)
    process.suspend()
    asking = asyncio.create_task(worker.ask(Ping(), Pong, timeout=60))
    await asyncio.sleep(0.1)
    process.kill()
    with pytest.raises(WorkerGone, match=KILLED):
        await asking
    assert KILLED in await worker.wait_gone()


async def test_a_worker_that_answers_something_else_is_ended() -> None:
    worker = await ProcessWorker.start(1, lambda event: None)
    with pytest.raises(WorkerGone, match="it answered Pong to ping"):
        await worker.ask(Ping(), Done, timeout=30)
    assert "it answered Pong to ping" in await asyncio.wait_for(worker.wait_gone(), 20)
    assert gone(worker.pid)
    await worker.close()


async def test_a_silent_worker_times_out() -> None:
    worker = await ProcessWorker.start(1, lambda _: None)
    psutil.Process(worker.pid).suspend()
    with pytest.raises(TimeoutError):
        await worker.ask(Ping(), Pong, timeout=0.3)
    await worker.kill("it was silent")
    assert await worker.wait_gone() == "the vision worker was ended: it was silent"
    assert gone(worker.pid)


HEAVY = ("torch", "torchvision", "ultralytics", "open_clip", "av", "cv2", "numpy", "PIL")


def test_the_bot_process_imports_nothing_heavy() -> None:
    program = (
        "import json, sys\n"
        "import bot.vision.pipeline, bot.vision.yolo, bot.vision.clip, bot.vision.service\n"
        "import bot.vision.worker.handle, bot.vision.model_files, bot.cli.watch, bot.cli.pull\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = {name.split(".")[0] for name in json.loads(shown.stdout)}
    assert "pydantic" in modules
    assert not modules & set(HEAVY)


def test_the_worker_imports_no_discord() -> None:
    program = (
        "import json, sys\n"
        "import bot.vision.worker.__main__, bot.vision.worker.vision_worker\n"
        "import bot.vision.worker.detector, bot.vision.worker.labeller\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = {name.split(".")[0] for name in json.loads(shown.stdout)}
    assert "numpy" in modules
    assert not modules & {"discord", "torch", "ultralytics", "open_clip"}
