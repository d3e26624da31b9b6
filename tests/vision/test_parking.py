"""Leaving a card and coming back: the host copy, and what the worker does with a parked model."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
import pytest
import torch

from bot.vision.worker import contexts, vision_worker
from bot.vision.worker.analysis import Seat
from bot.vision.worker.backends.residence import Residence
from bot.vision.worker.contexts import Context
from bot.vision.worker.devices import CPU, INACTIVE_SPLIT, held, torch_is_ready, tried_bytes
from bot.vision.worker.models import Sizes
from bot.vision.worker.protocol import (
    ClipSpec,
    Destination,
    Dying,
    LoadModel,
    ModelFell,
    MoveModel,
    Parked,
    ParkModel,
    Placed,
    Refused,
    Reply,
    Reported,
    ScorePhrases,
    SourceEnded,
    UnloadModel,
    Wanted,
)
from bot.vision.worker.vision_worker import VisionWorker
from tests.vision.scripted import CARD, SPEC, Bench, ScriptedModel, ScriptedSource, numbers_of

SOMEWHERE = "meta"
"""Stands for a card: a device of torch whose tensors are not in host memory."""


def small_model() -> Any:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    model.append(torch.nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight  # shared, as embeddings and heads are
    return model.eval()


def test_a_model_comes_back_from_a_card_as_it_left() -> None:
    model = small_model()
    asked = torch.ones(1, 4)
    before = model(asked)
    residence = Residence(model)
    residence.to_card(SOMEWHERE, half=False)
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    residence.for_cpu()
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
    assert torch.equal(model(asked), before)
    assert model[2].weight is model[0].weight


def test_the_host_copy_is_made_once_and_is_what_a_parked_model_keeps() -> None:
    model = small_model()
    residence = Residence(model)
    residence.to_card(SOMEWHERE, half=True)
    residence.to_host()
    kept = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    assert model[0].weight.dtype == torch.float16
    residence.to_card(SOMEWHERE, half=True)
    residence.to_host()
    assert {key: tensor.data_ptr() for key, tensor in model.state_dict().items()} == kept
    residence.for_cpu()
    assert model[0].weight.dtype == torch.float32
    assert model[1].num_batches_tracked.dtype == torch.int64


def places(model: Any) -> list[str]:
    return [t.device.type for t in (model[0].weight, model[1].running_mean, model[2].weight)]


def test_what_is_not_at_work_comes_to_the_card_for_a_moment_only() -> None:
    model = small_model()
    model[2].weight = torch.nn.Parameter(torch.ones(4, 4))
    asked = torch.ones(1, 4)
    before = model(asked)
    residence = Residence(model, model[0:2])
    everything = residence.weights_bytes
    residence.to_card(SOMEWHERE, half=False)
    assert places(model) == ["meta", "meta", "cpu"]
    assert everything - residence.weights_bytes == 64
    at_work = model[0].weight
    for _ in range(2):
        with residence.whole(SOMEWHERE):
            assert places(model) == ["meta"] * 3
        assert places(model) == ["meta", "meta", "cpu"]
    assert model[0].weight is at_work  # a graph reads from there
    residence.for_cpu()
    with residence.whole("cpu"):
        assert torch.equal(model(asked), before)
    assert residence.weights_bytes == everything


def test_what_is_shared_with_a_part_at_work_stays_on_the_card() -> None:
    model = small_model()
    residence = Residence(model, model[0])
    residence.to_card(SOMEWHERE, half=False)
    assert places(model) == ["meta", "cpu", "meta"]
    assert model[2].weight is model[0].weight


def test_no_room_for_the_rest_leaves_a_model_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    residence = Residence(model, model[0])
    residence.to_card(SOMEWHERE, half=False)

    def full(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    with monkeypatch.context() as card:
        card.setattr(torch.Tensor, "to", full)
        with pytest.raises(torch.OutOfMemoryError), residence.whole(SOMEWHERE):
            pass
    assert places(model) == ["meta", "cpu", "meta"]


def test_a_full_card_leaves_the_weights_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    before = model(torch.ones(1, 4))
    copied: list[int] = []
    to: Any = torch.Tensor.to

    def full(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] == SOMEWHERE:
            copied.append(1)
            if len(copied) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", full)
    residence = Residence(model)
    with pytest.raises(torch.OutOfMemoryError):
        residence.to_card(SOMEWHERE, half=False)
    assert not residence.on_card
    assert torch.equal(model(torch.ones(1, 4)), before)


def test_a_parked_model_sees_no_frame_and_asks_once_to_come_back() -> None:
    yolo, clip = ScriptedModel(place=CARD), ScriptedModel("clip")
    bench = Bench(ScriptedSource([5, 5, 9, 11]), yolo, clip, every_frame=False)
    seat = bench.analysis.seat("yolo")
    assert seat is not None
    yolo.park()
    seat.parked = True
    with bench:
        bench.wait_for(SourceEnded)
    assert len(bench.events(Wanted)) == 1
    assert yolo.seen == []
    assert clip.seen


def parked_bench(source: ScriptedSource, *, every_frame: bool) -> tuple[Bench, ScriptedModel, Seat]:
    yolo = ScriptedModel(place=CARD)
    bench = Bench(source, yolo, ScriptedModel("clip"), every_frame=every_frame)
    seat = bench.analysis.seat("yolo")
    assert seat is not None
    yolo.park()
    seat.parked = True
    return bench, yolo, seat


def bring_back(bench: Bench, seat: Seat) -> None:
    """As the worker does when the bot asks for it."""
    with bench.analysis.lock:
        seat.model.move(CARD)
        seat.parked = seat.wanted = False
        bench.analysis.change.notify_all()


def test_the_picture_that_woke_a_model_is_looked_at_once_it_is_back() -> None:
    bench, yolo, seat = parked_bench(ScriptedSource([50, 90, 130]), every_frame=False)
    with bench:
        bench.wait_for(Wanted)
        bench.wait_for(SourceEnded)  # nothing more will come
        assert yolo.seen == []
        bring_back(bench, seat)
        bench.analysis.catch_up(20)
        last = bench.reports[-1]
        # The newest of those that it missed, and the others not.
        assert yolo.seen == [130]
        assert (last.sequence, list(last.devices)) == (2, ["yolo"])
        assert numbers_of([last]) == [130]
        assert bench.analysis.latest is not None
        assert bench.analysis.latest[1] == last


def test_no_frame_of_a_film_passes_a_parked_model() -> None:
    bench, yolo, seat = parked_bench(ScriptedSource([50, 90, 130, 170]), every_frame=True)
    with bench:
        bench.wait_for(Wanted)
        assert bench.events(Reported) == []
        bring_back(bench, seat)
        bench.wait_for(SourceEnded)
    assert yolo.seen == [50, 90, 130, 170]
    assert numbers_of(bench.reports) == [50, 90, 130, 170]


def test_a_picture_that_stands_still_wakes_nobody() -> None:
    began = threading.Event()

    class Gate(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            began.set()
            return super().wait(timeout)

    gate = Gate()
    yolo = ScriptedModel(place=CARD, gate=gate)
    with Bench(ScriptedSource([5] * 40), yolo) as bench:
        seat = bench.analysis.seat("yolo")
        assert seat is not None
        assert began.wait(20)
        seat.parked = True  # it is at its first batch, and at no other after that
        gate.set()
        bench.wait_for(Reported, 40)
    assert bench.events(Wanted) == []


CLIP_SPEC = ClipSpec(
    folder="x", concepts=("a",), confidence_threshold=0.5, max_insights=1, batch_size=1
)
ELSEWHERE = Destination(device="cuda:1", simulated=True)


class Silent:
    """A channel into which nobody speaks."""

    def __init__(self) -> None:
        self.heard: list[Reply] = []

    def receive(self) -> None:
        return None

    def send(self, envelope: Any, blob: bytes = b"") -> None:
        self.heard.append(envelope.body)


def asked(worker: VisionWorker, request: Any) -> Any:
    answer, _ = worker._do(request)  # pyright: ignore[reportPrivateUsage]
    return answer


def test_the_worker_parks_and_brings_back_with_times() -> None:
    model = ScriptedModel()
    worker = VisionWorker(Silent(), 1, loader=lambda *_: model, forward_log=False)
    assert isinstance(asked(worker, ParkModel(model="yolo")), Refused)
    placed = asked(worker, LoadModel(spec=SPEC, destination=ELSEWHERE))
    assert isinstance(placed, Placed)
    assert placed.backend == "a script"
    assert placed.seconds > 0
    parked = asked(worker, ParkModel(model="yolo"))
    assert isinstance(parked, Parked)
    assert model.parked
    back = asked(worker, MoveModel(model="yolo", destination=ELSEWHERE))
    assert isinstance(back, Placed)
    assert back.seconds > 0
    assert not model.parked


def test_a_question_to_a_parked_clip_brings_it_back_instead_of_waiting() -> None:
    channel = Silent()
    model = ScriptedModel("clip")
    worker = VisionWorker(channel, 1, loader=lambda *_: model, forward_log=False)
    asked(worker, LoadModel(spec=CLIP_SPEC, destination=ELSEWHERE))
    asked(worker, ParkModel(model="clip"))
    question = ScorePhrases(phrases=("a boss",), background=("a game",))
    for _ in range(2):
        answer = asked(worker, question)
        assert isinstance(answer, Refused)
        assert "brought back" in answer.what
    assert [e for e in channel.heard if isinstance(e, Wanted)] == [Wanted(model="clip")]


def test_a_move_without_room_leaves_a_parked_model_parked() -> None:
    def full(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.shown != "cpu":
            raise torch.OutOfMemoryError("full")

    torch_is_ready()
    model = ScriptedModel(fail=full)
    worker = VisionWorker(Silent(), 1, loader=lambda *_: model, forward_log=False)
    asked(worker, LoadModel(spec=SPEC, destination=Destination(device="cpu")))
    asked(worker, ParkModel(model="yolo"))
    answer = asked(worker, MoveModel(model="yolo", destination=ELSEWHERE))
    assert isinstance(answer, Refused)
    assert answer.about == "memory"
    assert model.parked


@pytest.fixture
def real_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker takes what it is sent to for a card, and the card's context answers."""
    torch_is_ready()
    monkeypatch.setattr(vision_worker, "resolve", lambda order: CARD if order.uuid else CPU)
    monkeypatch.setattr(vision_worker, "try_out", tried)
    monkeypatch.setattr(vision_worker, "allocated_bytes", lambda _: 0)
    monkeypatch.setattr(contexts, "_made", {1: Context(1, 0)})
    monkeypatch.setattr(contexts, "on", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)


def tried(model: Any) -> Sizes:
    model.analyse([np.zeros((8, 8, 3), np.uint8)])
    return Sizes(1000, 10)


def broken(words: str) -> ScriptedModel:
    def fail(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.on_card:
            raise torch.AcceleratorError(words)

    return ScriptedModel(fail=fail)


ON_A_CARD = LoadModel(spec=SPEC, destination=Destination(device="cuda:1", uuid="GPU-b"))


@pytest.mark.usefixtures("real_card")
def test_a_card_that_can_not_compute_a_model_is_left_for_another_place() -> None:
    model = broken("CUDA error: no kernel image is available for execution on the device")
    worker = VisionWorker(Silent(), 1, loader=lambda *_: model, forward_log=False)
    answer = asked(worker, ON_A_CARD)
    assert isinstance(answer, Refused)
    assert answer.about == "place"
    assert "cuda:1 can not compute it: AcceleratorError: CUDA error: no kernel image" in answer.what
    assert model.parked


@pytest.mark.usefixtures("real_card")
def test_a_context_that_breaks_while_a_model_is_tried_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "CUDA error: device-side assert triggered"

    def again(_: int) -> None:
        raise torch.AcceleratorError(words)

    monkeypatch.setattr(torch.cuda, "synchronize", again)
    died = threading.Event()
    channel = Silent()
    worker = VisionWorker(
        channel, 1, loader=lambda *_: broken(words), die=died.set, forward_log=False
    )
    worker._take(1, ON_A_CARD)  # pyright: ignore[reportPrivateUsage]
    assert died.wait(20)
    (said,) = [e for e in channel.heard if isinstance(e, Dying)]
    assert "device-side assert" in said.words


def test_who_falls_tells_what_it_needed() -> None:
    def full(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.on_card:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")

    torch_is_ready()
    with Bench(ScriptedSource([5]), ScriptedModel(place=CARD, batch_size=1, fail=full)) as bench:
        fell = bench.wait_for(ModelFell)[0]
    assert fell.needed_bytes == 1000 + (2 << 30)
    assert tried_bytes("CUDA error: out of memory") == 0


def test_what_fragmentation_keeps_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        memory_reserved = staticmethod(lambda index: 900)
        memory_allocated = staticmethod(lambda index: 500)
        memory_stats = staticmethod(lambda index: {INACTIVE_SPLIT: 300})

    torch_is_ready()
    monkeypatch.setattr(torch, "cuda", Cuda)
    monkeypatch.setattr(contexts, "_made", {0: Context(0, 0)})
    (row,) = held()
    assert (row.reserved_bytes, row.active_bytes, row.inactive_split_bytes) == (900, 500, 300)


@pytest.mark.parametrize("how", ["unloaded", "replaced"])
def test_who_is_taken_out_leaves_its_card_at_once(how: str) -> None:
    first, second = ScriptedModel(), ScriptedModel()
    loaded = iter((first, second))
    worker = VisionWorker(Silent(), 1, loader=lambda *_: next(loaded), forward_log=False)
    load = LoadModel(spec=SPEC, destination=ELSEWHERE)
    assert isinstance(asked(worker, load), Placed)
    asked(worker, UnloadModel(model="yolo") if how == "unloaded" else load)
    assert first.parked
    assert not second.parked
