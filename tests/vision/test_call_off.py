"""A card that is needed while a model is on its way there, and one that has no room for it."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bot.vision import service
from bot.vision.worker.devices import torch_is_ready
from bot.vision.worker.handle import WorkerRefused
from bot.vision.worker.inline import InlineWorker
from bot.vision.worker.protocol import (
    CallOff,
    Destination,
    Done,
    LoadModel,
    MoveModel,
    Placed,
    Refused,
    ReplyEnvelope,
    RequestEnvelope,
)
from bot.vision.worker.vision_worker import VisionWorker
from danzar_gpu import Footprint
from tests.gpu_memory.rig import settle
from tests.vision.scripted import CARD, SPEC, ScriptedModel
from tests.vision.test_idle_release import CPU_FULL, MIB, Life, Worker

CARD_1 = Destination(device="cuda:1", simulated=True)
ON_CPU = Destination(device="cpu")


class Line:
    """Both ends of a channel."""

    def __init__(self) -> None:
        self._requests: queue.Queue[RequestEnvelope | None] = queue.Queue()
        self._answers: dict[int, queue.Queue[Any]] = {}
        self._numbers = 0

    def ask(self, request: Any) -> queue.Queue[Any]:
        self._numbers += 1
        answer = self._answers[self._numbers] = queue.Queue()
        self._requests.put(RequestEnvelope(id=self._numbers, body=request))
        return answer

    def end(self) -> None:
        self._requests.put(None)

    def receive(self) -> RequestEnvelope | None:
        return self._requests.get(timeout=20)

    def send(self, envelope: ReplyEnvelope, blob: bytes = b"") -> None:
        if envelope.id is not None:
            self._answers[envelope.id].put(envelope.body)


def test_a_load_that_is_called_off_never_touches_the_card() -> None:
    opened, go_on = threading.Event(), threading.Event()
    model = ScriptedModel()

    def slow(*_: object) -> ScriptedModel:
        opened.set()
        assert go_on.wait(20)
        return model

    line = Line()
    worker = VisionWorker(line, 1, loader=slow, forward_log=False)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        load = line.ask(LoadModel(spec=SPEC, destination=CARD_1))
        assert opened.wait(20)
        assert isinstance(line.ask(CallOff(model="yolo")).get(timeout=20), Done)
        go_on.set()
        refused = load.get(timeout=20)
        assert isinstance(refused, Refused)
        assert refused.about == "called_off"
        assert model.batches == []
        # It was opened all the same, and goes elsewhere without its file.
        placed = line.ask(MoveModel(model="yolo", destination=ON_CPU)).get(timeout=20)
        assert isinstance(placed, Placed)
        # The word was about that one way alone.
        placed = line.ask(MoveModel(model="yolo", destination=CARD_1)).get(timeout=20)
        assert isinstance(placed, Placed)
        assert [where for where, _ in model.batches] == [
            "cpu",
            "cuda:1 (simulated; really on the CPU)",
        ]
    finally:
        line.end()
        running.join(20)


class SlowWorker(Worker):
    """Loads until it is called off."""

    def __init__(self) -> None:
        super().__init__()
        self.loading = asyncio.Event()
        self._called_off = asyncio.Event()

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        if isinstance(request, CallOff):
            self._called_off.set()
        if isinstance(request, LoadModel):
            self.asked.append(request.kind)
            self.loading.set()
            await self._called_off.wait()
            raise WorkerRefused(Refused(what="called off", about="called_off"))
        return await super().ask(request, answer, timeout=timeout)


async def test_a_card_that_is_needed_while_a_model_loads_calls_the_load_off(tmp_path: Path) -> None:
    life = Life(tmp_path, idle=0.0)
    worker = life.worker = SlowWorker()
    async with life:
        await settle(worker.loading.is_set)
        life.rig.cards[1].programs["game"] = 11.9
        await life.manager.refresh(max_age=0)
        status = await life.comes_to("running")
        assert status.device == "cpu"
        assert worker.asked == ["load_model", "call_off", "move_model"]
        [lease] = life.manager.leases
        assert lease.device == "cpu"


class FilledWorker(Worker):
    """One card has no room any more when the model comes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self._told = asyncio.Event(), asyncio.Event()
        self.tried: list[str] = []

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        if isinstance(request, CallOff):
            self._told.set()
        if isinstance(request, LoadModel):
            self.tried.append(request.destination.device)
            self.loading.set()
            if request.destination.device == "cuda:1":
                await self._told.wait()
                raise WorkerRefused(Refused(what="cuda:1 has no room", about="memory"))
        return await super().ask(request, answer, timeout=timeout)


async def test_a_card_that_filled_up_on_the_way_is_no_reason_not_to_go_to_the_other(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path, idle=0.0, main_llm_memory_reservation_gb=0.0)
    worker = life.worker = FilledWorker()
    async with life:
        await settle(worker.loading.is_set)
        life.rig.cards[0].programs.clear()
        life.rig.cards[1].programs["game"] = 11.9
        await life.manager.refresh(max_age=0)
        status = await life.comes_to("running")
        assert status.device == "cuda:0"
        assert worker.tried == ["cuda:1", "cuda:0"]
        assert [e.text for e in life.manager.events if e.kind == "move-failed"] == []


async def test_a_model_that_was_called_off_for_a_moment_s_pressure_is_at_work_all_the_same(
    tmp_path: Path,
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    model = ScriptedModel()

    def slow(*_: object) -> ScriptedModel:
        opening.set()
        assert go_on.wait(20)
        return model

    torch_is_ready()
    life = Life(tmp_path, idle=0.0)
    worker = await InlineWorker.start(1, lambda _: None, loader=slow)
    told = worker.ask

    async def ask(request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        found = await told(request, answer, timeout=timeout)
        if isinstance(request, CallOff):
            # Nobody needs the card any more, and only now the model is open.
            life.rig.cards[1].programs["game"] = 2.0
            await life.manager.refresh(max_age=0)
            go_on.set()
        return found

    worker.ask = ask
    life.rig.source = "simulated"
    life.worker = cast("Any", worker)
    async with life:
        await settle(opening.is_set)
        life.rig.cards[1].programs["game"] = 11.9
        await life.manager.refresh(max_age=0)
        await life.comes_to("running")
        assert not model.parked
        await settle(lambda: life.manager.leases[0].device == "cuda:1")
        await settle(lambda: model.place.shown.startswith("cuda:1"))
        # It went to where it was sent, and came back as from any other place.
        moves = [e.text for e in life.manager.events if e.kind == "moved"]
        assert moves == ["yolo moved from cuda:1 to cpu", "yolo moved from cpu to cuda:1"]
        await worker.close()


@pytest.fixture
def real_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker takes what it is sent to for a card on which a model held 3 GiB at its peak."""

    def resolve(destination: Destination) -> Any:
        return CARD

    def allocated(_: Any) -> int:
        return 1 << 30

    def peak(_: Any) -> int:
        return 4 << 30

    def reset(_: Any) -> None:
        pass

    monkeypatch.setattr("bot.vision.worker.vision_worker.resolve", resolve)
    monkeypatch.setattr(torch.cuda, "memory_allocated", allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)


@pytest.mark.usefixtures("real_card")
def test_a_card_without_room_tells_what_was_needed() -> None:
    def full(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.on_card:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1")

    torch_is_ready()
    line = Line()
    worker = VisionWorker(line, 1, loader=lambda *_: ScriptedModel(fail=full), forward_log=False)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        refused = line.ask(LoadModel(spec=SPEC, destination=CARD_1)).get(timeout=20)
        assert isinstance(refused, Refused)
        assert (refused.about, refused.needed_bytes) == ("memory", 5 << 30)
    finally:
        line.end()
        running.join(20)


class FullWorker(Worker):
    """Its card turns out to have no room."""

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        if isinstance(request, LoadModel | MoveModel) and request.destination.device != "cpu":
            raise WorkerRefused(Refused(what="full", about="memory", needed_bytes=900 * MIB))
        return await super().ask(request, answer, timeout=timeout)


@pytest.mark.parametrize("programs", [None, CPU_FULL], ids=["load", "move"])
async def test_a_load_or_a_move_that_finds_no_room_is_learned(
    tmp_path: Path, programs: dict[str, float] | None
) -> None:
    life = Life(tmp_path, idle=0.0, programs=programs)
    life.worker = FullWorker()
    async with life:
        assert (await life.comes_to("running")).device == "cpu"
        if programs is not None:
            life.rig.cards[1].programs["game"] = 2.0
        await settle(lambda: bool(life.manager.out_of_memory))
        known = life.manager.measured_as(f"some.pt {p} 160px x4" for p in ("fp32", "fp16"))
        assert known is not None
        needed = life.manager.expected_footprint(known, Footprint())
        assert needed.model_bytes == pytest.approx(900 * MIB)
        assert life.manager.out_of_memory == {"yolo": 1}


class ChoosyWorker(Worker):
    """Of its cards one is out of its reach."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[str] = []

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        if isinstance(request, LoadModel | MoveModel):
            self.tried.append(request.destination.device)
            if request.destination.device == "cuda:1":
                raise WorkerRefused(Refused(what="cuda:1 is another's", about="process"))
        return await super().ask(request, answer, timeout=timeout)


@pytest.mark.parametrize("fallback_to_cpu", [True, False])
async def test_a_card_out_of_reach_is_done_without_even_where_the_cpu_may_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallback_to_cpu: bool
) -> None:
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.02)
    life = Life(tmp_path, idle=0.0, fallback_to_cpu=fallback_to_cpu)
    worker = life.worker = ChoosyWorker()
    async with life:
        if fallback_to_cpu:
            assert (await life.comes_to("running")).device == "cpu"
        else:
            assert "cuda:1 is another's" in (await life.comes_to("waiting")).reason
        life.rig.cards[0].programs.clear()
        await life.manager.refresh(max_age=0)
        life.manager.configure(main_llm_memory_reservation_gb=0.0)
        await settle(lambda: life.service.status.device == "cuda:0")
        assert worker.tried.count("cuda:1") == 1
