"""Whatever fails: a model is where its lease is, and on no card without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.vision.worker import vision_worker
from bot.vision.worker.devices import CPU, Place, torch_is_ready
from bot.vision.worker.handle import WorkerRefused
from bot.vision.worker.models import ModelError, Sizes, VisionModel
from bot.vision.worker.protocol import (
    Destination,
    Dying,
    LoadModel,
    ModelFell,
    MoveModel,
    ParkModel,
    Placed,
    Refused,
    Reported,
    SourceEnded,
    UnloadModel,
    Wanted,
)
from bot.vision.worker.vision_worker import VisionWorker
from tests.gpu_memory.rig import settle
from tests.vision.scripted import CARD, SPEC, Bench, ScriptedModel, ScriptedSource, picture
from tests.vision.test_idle_release import CPU_FULL, Life, Worker
from tests.vision.test_parking import Silent, asked

Fault = Callable[[str, str], None]
"""Told of each step of a model and of the device that it is about; it may raise."""


@dataclass
class Tracked(ScriptedModel):
    """Knows what it really has in hand on which card."""

    fault: Fault = lambda step, device: None
    held: str | None = field(default=None, init=False)
    """The card that has memory of it; ``None``: all of it is in host memory."""

    def move(self, place: Place) -> None:
        self.held = None
        self.fault("leave", self.place.device)
        self.held = place.device if place.on_card else None  # half of the way counts, too
        self.fault("arrive", place.device)
        super().move(place)

    def park(self) -> None:
        self.fault("park", self.place.device)
        self.held = None
        super().park()

    def analyse(self, images: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.fault("analyse", self.place.device)
        return super().analyse(images)


def tried(model: VisionModel) -> Sizes:
    model.analyse([picture(0)])
    return Sizes(1000, 10 if model.place.on_card else None)


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker takes what it is sent to for cards."""

    def resolve(order: Destination) -> Place:
        return CPU if order.device == "cpu" else Place(order.device, order.device)

    torch_is_ready()
    monkeypatch.setattr(vision_worker, "resolve", resolve)
    monkeypatch.setattr(vision_worker, "try_out", tried)
    monkeypatch.setattr(vision_worker, "allocated_bytes", lambda _: 0)


def at(step: str, device: str, error: Exception) -> Fault:
    def fault(now: str, where: str) -> None:
        if (now, where) == (step, device):
            raise error

    return fault


OTHER_CARD = Destination(device="cuda:0")
THE_CARD = Destination(device="cuda:1")
DEFECT = KeyError("a defect")
FULL = torch.OutOfMemoryError("CUDA out of memory")


def worker_with(model: Tracked, die: Callable[[], None] = lambda: None) -> VisionWorker:
    return VisionWorker(Silent(), 1, loader=lambda *_: model, die=die, forward_log=False)


@pytest.mark.parametrize("step", ["arrive", "analyse"])
@pytest.mark.parametrize("error", [DEFECT, FULL], ids=["defect", "full"])
def test_a_model_that_can_not_be_loaded_leaves_nothing_on_the_card(
    step: str, error: Exception
) -> None:
    model = Tracked(fault=at(step, "cuda:1", error))
    worker = worker_with(model)
    refused = asked(worker, LoadModel(spec=SPEC, destination=THE_CARD))
    assert isinstance(refused, Refused)
    assert model.held is None


@pytest.mark.parametrize("step", ["arrive", "analyse"])
@pytest.mark.parametrize("about", ["other", "memory", "model"])
def test_a_model_that_can_not_move_is_on_no_card_afterwards(step: str, about: str) -> None:
    error = {"other": DEFECT, "memory": FULL, "model": ModelError("no file", "pull it")}[about]
    model = Tracked(fault=at(step, "cuda:0", error))
    worker = worker_with(model)
    assert isinstance(asked(worker, LoadModel(spec=SPEC, destination=THE_CARD)), Placed)
    refused = asked(worker, MoveModel(model="yolo", destination=OTHER_CARD))
    assert isinstance(refused, Refused)
    assert refused.about == about
    assert (model.held, model.parked) == (None, True)
    again = asked(worker, MoveModel(model="yolo", destination=THE_CARD))
    # What nobody understands is loaded anew; all else comes back from its host copy.
    assert isinstance(again, Refused if about == "other" else Placed)


def test_a_card_that_is_refused_before_the_move_parks_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Tracked()
    worker = worker_with(model)
    asked(worker, LoadModel(spec=SPEC, destination=THE_CARD))

    def gone(order: Destination) -> Place:
        raise vision_worker.PlaceError("torch does not see it", "look at CUDA_VISIBLE_DEVICES")

    monkeypatch.setattr(vision_worker, "resolve", gone)
    refused = asked(worker, MoveModel(model="yolo", destination=OTHER_CARD))
    assert isinstance(refused, Refused)
    assert refused.about == "place"
    assert (model.held, model.parked) == (None, True)


@pytest.mark.parametrize(
    "request_",
    [
        ParkModel(model="yolo"),
        UnloadModel(model="yolo"),
        MoveModel(model="yolo", destination=OTHER_CARD),
    ],
    ids=["park", "unload", "move"],
)
def test_a_model_that_can_not_leave_its_card_ends_the_worker(request_: Any) -> None:
    fault = at("park", "cuda:1", DEFECT)

    def stuck(step: str, device: str) -> None:
        fault(step, device)
        at("arrive", "cuda:0", FULL)(step, device)

    model = Tracked(fault=stuck)
    died = threading.Event()
    worker = worker_with(model, died.set)
    assert isinstance(asked(worker, LoadModel(spec=SPEC, destination=THE_CARD)), Placed)
    worker._take(2, request_)  # pyright: ignore[reportPrivateUsage]
    assert died.wait(20)
    channel: Any = worker._channel  # pyright: ignore[reportPrivateUsage]
    [dying] = [said for said in channel.heard if isinstance(said, Dying)]
    assert "yolo can't leave cuda:1: KeyError: 'a defect'" in dying.words
    assert not [said for said in channel.heard if isinstance(said, Refused)]


def test_a_model_that_can_not_fall_to_the_cpu_is_unloaded_and_no_frame_is_lost() -> None:
    def fault(step: str, device: str) -> None:
        at("analyse", "cuda:1", FULL)(step, device)
        at("arrive", "cpu", DEFECT)(step, device)

    model = Tracked(place=CARD, fault=fault)
    model.held = "cuda:1"
    numbers = [50, 90, 130]
    with Bench(ScriptedSource(numbers), model, ScriptedModel("clip")) as bench:
        bench.wait_for(SourceEnded)
        assert bench.analysis.seat("yolo") is None
    [fell] = bench.events(ModelFell)
    assert fell.device is None
    assert "cuda:1, can't go on on the CPU (KeyError: 'a defect') and was unloaded" in fell.words
    assert model.held is None
    assert len(bench.events(Reported)) == len(numbers)


class Slow(Worker):
    """Each move waits for the test's word, and numbers its stay."""

    def __init__(self) -> None:
        super().__init__()
        self.moving, self.go_on = asyncio.Event(), asyncio.Event()
        self.stays = 0

    async def ask(self, request: Any, answer: type[Any], *, timeout: float) -> tuple[Any, bytes]:
        if isinstance(request, MoveModel):
            self.moving.set()
            await self.go_on.wait()
        reply, blob = await super().ask(request, answer, timeout=timeout)
        if isinstance(reply, Placed):
            self.stays += 1
            reply = reply.model_copy(update={"stay": self.stays})
        return reply, blob


async def to_the_other_card(life: Life) -> None:
    """It sets out from card 1 to card 0."""
    await life.comes_to("running")
    life.rig.cards[0].programs["ollama"] = 0.0
    life.rig.cards[1].programs["game"] = 11.9


async def test_a_fall_that_the_model_was_sent_on_from_is_no_news(tmp_path: Path) -> None:
    life = Life(tmp_path, idle=0.0)
    worker = life.worker = Slow()
    async with life:
        await to_the_other_card(life)
        await settle(worker.moving.is_set)
        assert life.manager.leases[0].target is not None
        life.service.heard(ModelFell(model="yolo", stay=1, device="cpu", words="the first"))
        worker.go_on.set()
        await settle(lambda: life.service.status.device == "cuda:0")
        life.service.heard(ModelFell(model="yolo", stay=2, device="cpu", words="the second"))
        await settle(lambda: life.manager.leases[0].device == "cpu")
        offloads = [move.reason for move in await life.moves() if move.kind == "offload"]
        assert offloads == ["the second"]


async def test_a_model_that_broke_when_it_was_to_be_parked_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Worker):
        async def ask(
            self, request: Any, answer: type[Any], *, timeout: float
        ) -> tuple[Any, bytes]:
            if isinstance(request, ParkModel) and "park_model" not in self.asked:
                self.asked.append("park_model")
                raise WorkerRefused(Refused(what="yolo is not loaded"))
            return await super().ask(request, answer, timeout=timeout)

    monkeypatch.setattr("bot.vision.setbacks.BACKOFF_SECONDS", (0.0,))
    life = Life(tmp_path, idle=0.2)
    life.worker = Broken()
    async with life:
        await settle(lambda: life.worker.asked.count("load_model") == 2)
        assert life.worker.asked[:3] == ["load_model", "park_model", "load_model"]


async def test_who_can_not_come_back_is_waited_for_by_nobody(tmp_path: Path) -> None:
    class Lost(Worker):
        async def ask(
            self, request: Any, answer: type[Any], *, timeout: float
        ) -> tuple[Any, bytes]:
            if isinstance(request, MoveModel):
                raise WorkerRefused(Refused(what="its file is gone", about="model"))
            return await super().ask(request, answer, timeout=timeout)

    life = Life(tmp_path, idle=0.2)
    life.worker = Lost()
    async with life:
        await life.comes_to("parked")
        life.service.heard(Wanted(model="yolo"))
        await life.comes_to("failed")
        # A film's frames don't pass a parked model.
        assert life.worker.asked[-1] == "unload_model"
        assert life.manager.leases == ()


@pytest.mark.parametrize("origin", ["cuda:1", "cpu"])
async def test_an_offload_on_the_way_to_a_card_is_followed_after_the_arrival(
    tmp_path: Path, origin: str
) -> None:
    life = Life(tmp_path, idle=0.0, programs=CPU_FULL if origin == "cpu" else None)
    worker = life.worker = Slow()
    async with life:
        await to_the_other_card(life)
        await settle(worker.moving.is_set)
        life.manager.offload("yolo", "by hand")
        worker.go_on.set()
        await settle(lambda: life.service.status.reason == "by hand")
        [lease] = life.manager.leases
        assert (lease.device, lease.target) == ("cpu", None)
        moves = [(move.from_device, move.to_device) for move in await life.moves()]
        assert moves[1:] == [(origin, "cuda:0"), ("cuda:0", "cpu")]
