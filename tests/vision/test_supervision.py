"""Whatever befalls the worker, or those who look after it: found, said, mended, never for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bot.settings import Settings
from bot.vision.pipeline import VisionPipeline, VisionUnavailable
from bot.vision.service import ModelService
from bot.vision.worker import devices, vision_worker
from bot.vision.worker.handle import (
    EventListener,
    ProcessWorker,
    WorkerFactory,
    WorkerGone,
    WorkerHandle,
    WorkerRefused,
)
from bot.vision.worker.inline import InlineWorker
from bot.vision.worker.protocol import Destination, LoadModel, Placed, Reply, YoloSpec
from bot.vision.worker.protocol import Held as HeldThere
from danzar_gpu.memory import MemorySnapshot
from tests.gpu_memory.rig import Card, ScriptedProbe
from tests.vision.running import inline, manager_of, running, settings_for, two_cards, until
from tests.vision.scripted import Bench, ScriptedModel, ScriptedSource

NOWHERE = YoloSpec(
    path="nowhere.pt",
    classes=(),
    confidence_threshold=0.5,
    iou_threshold=0.5,
    max_detections=10,
    batch_size=1,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.vision.setbacks.BACKOFF_SECONDS", (0.0,))
    monkeypatch.setattr("bot.vision.watchdog.PING_SECONDS", 0.02)


def stub(folder: Path, **sections: Any) -> Settings:
    """Settings for scripted models: their file only has to exist."""
    path = folder / "yolo.pt"
    path.write_bytes(b"a scripted model")
    return settings_for(path, folder, clip={"enabled": False}, **sections)


async def test_a_worker_that_grows_is_replaced_and_a_loop_of_it_ends_in_words(
    tmp_path: Path,
) -> None:
    # An inline worker is as large as this process, far beyond the limit.
    settings = stub(tmp_path, vision={"worker_memory_limit_gb": 0.01})
    factory = inline(ScriptedModel("yolo"))
    async with running(settings, worker_factory=factory) as pipeline:
        await until(lambda: pipeline.state == "failed", "giving up")
        words = pipeline.state_reason
        assert "vision is off after 5 failures in 10 minutes" in words
        assert "GB of main memory, more than vision.worker_memory_limit_gb (0.01)" in words
        assert "`!vision start` tries again" in words
        assert manager_of(pipeline).leases == ()
        started = pipeline.worker_starts
        await asyncio.sleep(0.1)
        assert pipeline.worker_starts == started == 5, "it does not go on trying"
        await pipeline.start()
        assert pipeline.worker_starts > started, "a person's word makes it try again"


async def test_a_model_that_breaks_is_loaded_again_and_a_loop_of_it_ends_in_words(
    tmp_path: Path,
) -> None:
    defect = 3

    def fails(model: ScriptedModel, numbers: list[int]) -> None:
        # A blank picture is the trial at its loading.
        if numbers != [0] and len(model.batches) <= defect:
            raise ValueError("no good")

    settings = stub(tmp_path, capture={"source": "scene", "fps": 50}, yolo={"processing_fps": 50})
    async with running(
        settings, worker_factory=inline(ScriptedModel("yolo", fail=fails))
    ) as pipeline:
        manager = manager_of(pipeline)
        await until(lambda: pipeline.services["yolo"].frames, "frames after the second loading")
        assert pipeline.worker_starts == 1
        defect = 1 << 60
        await until(lambda: pipeline.services["yolo"].state == "failed", "giving up")
        assert pipeline.services["yolo"].reason.startswith("5 failures in 10 minutes: yolo failed")
        assert "`!vision start` try again" in pipeline.services["yolo"].reason
        assert manager.leases == ()
        assert pipeline.state == "running", "the other model may go on"
        defect = 0
        await pipeline.stop()
        await pipeline.start()
        await until(lambda: pipeline.services["yolo"].state == "running", "a person's start")


async def test_a_model_whose_trial_breaks_is_tried_again(tmp_path: Path) -> None:
    def fails(model: ScriptedModel, numbers: list[int]) -> None:
        if len(model.batches) <= 2:
            raise RuntimeError("a defect of a model")

    factory = inline(ScriptedModel("yolo", fail=fails))
    async with running(stub(tmp_path), worker_factory=factory) as pipeline:
        await until(lambda: pipeline.services["yolo"].state == "running", "the third loading")
        assert pipeline.worker_starts == 1


async def test_a_card_that_comes_is_used_and_is_no_failure(tmp_path: Path) -> None:
    rig = two_cards()
    rig.missing = {0, 1}
    settings = stub(tmp_path)
    async with running(settings, rig, worker_factory=inline(ScriptedModel("yolo"))) as pipeline:
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        assert pipeline.services["yolo"].device == "cpu"
        rig.missing = set()
        await until(
            lambda: (pipeline.services["yolo"].device or "").startswith("cuda:1"), "the card"
        )
        await until(lambda: pipeline.state == "running", "the second worker")
        assert pipeline.worker_starts == 2
        assert not pipeline._failures  # pyright: ignore[reportPrivateUsage]
        # A card that goes and comes back is no new one.
        rig.missing = {0}
        await asyncio.sleep(0.4)
        rig.missing = set()
        await asyncio.sleep(0.4)
        assert pipeline.worker_starts == 2


async def test_a_fault_in_a_service_does_not_leave_it_loading_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(self: ModelService, worker: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(ModelService, "run", breaks)
    async with running(stub(tmp_path), worker_factory=inline()) as pipeline:
        await until(lambda: pipeline.state == "failed", "giving up")
        assert "a fault in Danzar: KeyError: 'a defect'" in pipeline.state_reason


async def test_a_fault_in_the_supervisor_is_told_as_a_failure(tmp_path: Path) -> None:
    async def breaks(threads: int, listener: object) -> None:
        raise RuntimeError("a defect")

    async with running(stub(tmp_path), worker_factory=breaks) as pipeline:
        await until(lambda: pipeline.state == "failed", "giving up")
        with pytest.raises(VisionUnavailable, match="a fault in Danzar: RuntimeError: a defect"):
            await pipeline.look(with_image=False)


async def test_a_listener_that_fails_does_not_deafen_the_bot() -> None:
    heard: list[str] = []

    def fails(event: Reply) -> None:
        heard.append(event.kind)
        raise KeyError("a defect of the listener")

    worker = await ProcessWorker.start(1, fails)
    order = LoadModel(spec=NOWHERE, destination=Destination(device="cpu"))
    with pytest.raises(WorkerRefused):
        await worker.ask(order, Placed, timeout=60)
    assert heard
    psutil.Process(worker.pid).suspend()
    began = time.monotonic()
    await worker.close()
    # Not a speed: SIGTERM leaves the bot five seconds in all.
    assert time.monotonic() - began < 5
    with pytest.raises(WorkerGone):
        await worker.ask(order, Placed, timeout=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills nobody to have memory")
async def test_a_worker_that_somebody_killed_says_who_might_have() -> None:
    worker = await ProcessWorker.start(1, lambda _: None)
    os.kill(worker.pid, signal.SIGKILL)
    assert "a system that is out of memory does that" in await worker.wait_gone()
    await worker.close()


async def test_a_worker_that_crashes_leaves_its_stacks_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = await ProcessWorker.start(1, lambda _: None)
    words = crash(worker.pid)
    assert f"ended with {words}" in await worker.wait_gone()
    await worker.close()
    [told] = [r.getMessage() for r in caplog.records if "crashed" in r.getMessage()]
    assert "vision_worker.py" in told
    assert "in run" in told


def test_a_frame_that_breaks_the_analysis_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bot.vision.worker.analysis import Analysis
    from bot.vision.worker.protocol import Dying, Reported

    deal = Analysis._deal_with  # pyright: ignore[reportPrivateUsage]

    def breaks(self: Analysis, batch: list[object], capture: object) -> None:
        if batch[0].frame.image[0, 0, 0] == 3:  # pyright: ignore
            raise IndexError("a frame of a kind that nobody thought of")
        deal(self, batch, capture)  # pyright: ignore

    monkeypatch.setattr(Analysis, "_deal_with", breaks)
    model = ScriptedModel(batch_size=1)
    with Bench(ScriptedSource((1, 2, 3, 4)), model, every_frame=False) as bench:
        bench.wait_for(Reported, count=1)
        deadline = time.monotonic() + 20
        while 4 not in model.seen and time.monotonic() < deadline:
            time.sleep(0.01)
    assert 4 in model.seen
    assert bench.events(Dying) == []


@pytest.mark.parametrize("accounts", [True, False], ids=["accounts", "WDDM"])
async def test_a_worker_gives_the_context_that_it_left_behind_back_and_it_is_no_failure(
    tmp_path: Path, accounts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held(ScriptedProbe):
        """The first worker's context stays on card 0 whatever its models do."""

        def read(self, now: float, *, processes: bool) -> MemorySnapshot:
            starts = pipelines[0].worker_starts if pipelines else 0
            self.cards[0].ours = {os.getpid(): 512 << 20} if starts == 1 else {}
            found = super().read(now, processes=processes)
            if accounts:
                return found
            return replace(found, devices=tuple(replace(d, processes=None) for d in found.devices))

    def own_word() -> tuple[HeldThere, ...]:
        here = HeldThere(index=0, reserved_bytes=0, active_bytes=0, context_bytes=512 << 20)
        return (here,) if pipelines and pipelines[0].worker_starts == 1 else ()

    if not accounts:
        monkeypatch.setattr(vision_worker, "held", own_word)

    pipelines: list[VisionPipeline] = []
    rig = Held(Card("RTX 4070", programs={"ollama": 4.0}))
    settings = stub(tmp_path)
    async with running(
        settings, rig, start=False, worker_factory=inline(ScriptedModel("yolo"))
    ) as pipeline:
        pipelines.append(pipeline)
        rig.cards[0].programs["game"] = 3.4
        await pipeline.start()
        await until(lambda: pipeline.worker_starts == 2, "the second worker")
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        assert pipeline.services["yolo"].device == "cpu"
        assert not pipeline._failures  # pyright: ignore[reportPrivateUsage]
        told = [e.text for e in manager_of(pipeline).events if e.kind == "context-returned"]
        assert len(told) == 1
        assert "are vision's CUDA context, though no model of vision is there" in told[0]
        await asyncio.sleep(0.4)
        assert pipeline.worker_starts == 2


class Reluctant(InlineWorker):
    """Takes as long to close as a test wants."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.closing, self.may_close, self.closed = asyncio.Event(), asyncio.Event(), False

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()
        await super().close()
        self.closed = True


def reluctant(workers: list[Reluctant]) -> WorkerFactory:
    async def start(threads: int, listener: EventListener) -> WorkerHandle:
        worker = await Reluctant.start(threads, listener, loader=lambda *_: ScriptedModel())
        assert isinstance(worker, Reluctant)
        workers.append(worker)
        return worker

    return start


async def test_a_stop_in_the_middle_of_an_end_lets_it_come_to_its_end(tmp_path: Path) -> None:
    workers: list[Reluctant] = []
    async with running(stub(tmp_path), worker_factory=reluctant(workers)) as pipeline:
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        [worker] = workers
        await worker.kill("it is of no use any more")
        await worker.closing.wait()
        stopping = asyncio.create_task(pipeline.stop())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
        worker.may_close.set()
        await stopping
        assert worker.closed
        assert manager_of(pipeline).leases == ()
        assert pipeline.services["yolo"].state == "off"


async def test_nothing_is_loaded_into_a_worker_that_ends(tmp_path: Path) -> None:
    workers: list[Reluctant] = []
    async with running(stub(tmp_path), worker_factory=reluctant(workers)) as pipeline:
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        await workers[0].kill("it is of no use any more")
        await workers[0].closing.wait()
        pipeline.load("yolo")
        for _ in range(5):
            await asyncio.sleep(0)
        assert pipeline.services["yolo"].state == "running", "as it was, until the end is told"
        workers[0].may_close.set()
        await until(lambda: len(workers) == 2, "the second worker")
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO in it")
        workers[1].may_close.set()


class Opening:
    """A factory of workers whose first model is opened when the test wants."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.workers: list[InlineWorker] = []

    def _load(self, *_: object) -> ScriptedModel:
        self.began.set()
        assert self.go_on.wait(20)
        return ScriptedModel()

    async def __call__(self, threads: int, listener: EventListener) -> WorkerHandle:
        devices.torch_is_ready()
        self.workers.append(await InlineWorker.start(threads, listener, loader=self._load))
        return self.workers[-1]


async def test_a_load_during_an_unload_comes_after_it(tmp_path: Path) -> None:
    opening = Opening()
    async with running(stub(tmp_path), worker_factory=opening) as pipeline:
        await until(opening.began.is_set, "the loading")
        unloading = asyncio.create_task(pipeline.unload("yolo"))
        await asyncio.sleep(0)
        pipeline.load("yolo")
        await asyncio.sleep(0.3)  # by then it would have asked for room, and been unloaded, too
        opening.go_on.set()
        await unloading
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        [lease] = manager_of(pipeline).leases
        assert lease.device == "cuda:1"


async def test_a_watch_whose_worker_dies_while_a_model_loads_ends_in_words(
    tmp_path: Path,
) -> None:
    opening = Opening()
    async with running(stub(tmp_path), worker_factory=opening, every_frame=True) as pipeline:
        await until(opening.began.is_set, "the loading")
        await opening.workers[0].kill("a test wants it")
        await until(lambda: pipeline.state == "failed", "the end")
        opening.go_on.set()
        assert "a test wants it" in pipeline.state_reason


def crash(pid: int) -> str:
    """Make a process crash; what it ends with, and its last words."""
    if sys.platform != "win32":
        os.kill(pid, signal.SIGFPE)
        return "signal 8: Floating point exception"
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.windll.kernel32
    kernel.OpenProcess.restype = wintypes.HANDLE
    process = wintypes.HANDLE(kernel.OpenProcess(0x1FFFFF, False, pid))
    # A thread whose code is nowhere.
    assert kernel.CreateRemoteThread(process, None, 0, None, None, 0, None)
    kernel.CloseHandle(process)
    return "status 0xC0000005: access violation"
