"""The way through a card, rehearsed: no card here, so ``cpu:0`` stands for one.

What is left out is what only a driver can do: page-locked memory, events and CUDA graphs are
stand-ins. The computations are the real ones, in half precision.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bot.vision.worker import contexts
from bot.vision.worker.backends import card, torch_clip, torch_model, torch_yolo
from bot.vision.worker.backends.card import Graphs, Uploads, uploads_for
from bot.vision.worker.backends.torch_clip import TorchClip
from bot.vision.worker.backends.torch_yolo import TorchYolo
from bot.vision.worker.boxes import fits, suppress
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.contexts import Context
from bot.vision.worker.detector import Detector
from bot.vision.worker.devices import (
    CPU,
    Place,
    is_out_of_memory,
    is_poisoned,
    torch_is_ready,
)
from tests.vision.test_backends import at_work, yolo_spec
from tests.vision.test_detector import picture

CARD = "cpu:0"
SIDE, STRIDE = 448, 32
SHIPPED = Path(__file__).parents[2] / "models" / "yolo-nano.pt"
"""Random weights are too undecided between classes for half precision."""


current: list[str] = []
"""The thread's current card, innermost last."""


@contextlib.contextmanager
def on(device: str) -> Iterator[None]:
    current.append(device)
    try:
        yield
    finally:
        current.pop()


class Event:
    """A copy that is always over; counts who waited for it."""

    waits = 0

    def record(self) -> None:
        # Elsewhere it would make a context on the first card, and not guard the copy either.
        assert current[-1:] == [CARD]

    def synchronize(self) -> None:
        Event.waits += 1


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    empty: Any = torch.empty

    def pageable(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        assert not pin_memory or current[-1:] == [CARD]
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for module in (torch_model, torch_yolo, torch_clip):
        monkeypatch.setattr(module, "on", on)


@pytest.fixture
def on_the_card() -> Iterator[None]:
    with on(CARD):
        yield


def overlaps(some: np.ndarray, others: np.ndarray) -> list[float]:
    from bot.vision.worker.backends import agreement

    return [agreement._best_overlap(box, others) for box in some]  # pyright: ignore


def clear(rows: np.ndarray) -> np.ndarray:
    """What suppression leaves of candidates that are well above the threshold."""
    return suppress(rows[rows[:, 4] > 0.22], 0.45, 50)


@pytest.mark.parametrize("size", [(1280, 720), (480, 640)])
def test_boxes_from_a_card_are_those_of_the_cpu(size: tuple[int, int]) -> None:
    yolo = TorchYolo.open(SHIPPED, 1, graphs=False)
    images = [picture(1, size), picture(2, size)]
    laid = fits(images, SIDE, STRIDE)
    expected = yolo.rows(images, laid, 0.2)
    assert sum(len(clear(rows)) for rows in expected) > 0
    yolo.image_size = SIDE
    yolo.to_card(CARD)
    assert yolo.backend == "torch f16"
    for here, there in zip(expected, yolo.rows(images, laid, 0.2), strict=True):
        # Among all candidates: which of two equally sure ones suppression leaves is chance.
        assert min(overlaps(clear(here), there), default=1.0) >= 0.95
        assert min(overlaps(clear(there), here), default=1.0) >= 0.95
    yolo.for_cpu()
    for here, there in zip(expected, yolo.rows(images, laid, 0.2), strict=True):
        assert min(overlaps(clear(here), there), default=1.0) >= 0.95


def test_in_single_precision_a_card_gives_the_same_boxes() -> None:
    yolo = TorchYolo.open(SHIPPED, 1, graphs=False)
    images = [picture(1, (1280, 720))]
    laid = fits(images, SIDE, STRIDE)
    expected = yolo.rows(images, laid, 0.2)[0]
    yolo._half = False  # pyright: ignore[reportPrivateUsage]
    yolo.image_size = SIDE
    yolo.to_card(CARD)
    assert yolo.backend == "torch f32"
    # The picture is not rounded to whole values after scaling: a hair's difference.
    assert min(overlaps(clear(expected), yolo.rows(images, laid, 0.2)[0])) >= 0.99


def test_a_model_that_half_precision_spoils_computes_in_single_and_says_so(
    yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_yolo, "boxes_differ", lambda *_: "a box has an overlap of 0.5")
    yolo = TorchYolo.open(yolo_file, 1, graphs=False)
    yolo.image_size = SIDE
    yolo.to_card(CARD)
    assert yolo.backend == "torch f32"
    assert "in half, a box has an overlap of 0.5" in " ".join(yolo.notes)
    assert {t.dtype for t in yolo.module.parameters()} == {torch.float32}


def test_features_from_a_card_are_those_of_the_cpu(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = TorchClip.open(clip_folder, 1, graphs=False)
    images = [picture(5), picture(6)]
    expected, text = clip.features(images), clip.text(["a boss"])
    clip.to_card(CARD)
    assert clip.backend == "torch f16"
    assert (clip.features(images) * expected).sum(axis=1).min() >= 0.999
    assert (clip.text(["a boss"]) * text).sum() >= 0.999
    clip.leave()
    monkeypatch.setattr(torch_clip, "features_differ", lambda *_: "a cosine of 0.9")
    other = TorchClip.open(clip_folder, 1, graphs=False)
    other.to_card(CARD)
    assert other.backend == "torch f32"
    assert "a cosine of 0.9" in " ".join(other.notes)


def test_a_detector_goes_to_a_card_parks_and_returns() -> None:
    detector: Any = at_work(Detector.load(yolo_spec(SHIPPED), 1))
    image = picture(14, (1920, 1080))
    there = Place(CARD, "cuda:0")
    before = clear(detector.boxes([image])[0])
    for _ in range(2):
        detector.move(there)
        assert detector.backend.startswith("torch f16")
        assert detector.analyse([image])[0]
        detector.park()
    detector.move(CPU)
    assert detector.backend == "torch f32"
    after = detector.boxes([image])[0]
    assert np.median(overlaps(before, after)) >= 0.99


@pytest.mark.usefixtures("on_the_card")
def test_frames_are_sent_once_for_both_models() -> None:
    uploads = Uploads(CARD)
    images = [picture(1), picture(2)]
    sent = uploads.stacked(images)
    sent.fill_(7)  # what is there already is not sent again
    assert uploads.stacked(images) is sent
    assert int(sent[0, 0, 0, 0]) == 7
    other = uploads.stacked([picture(1), picture(3)])
    assert other is sent  # the same memory: a graph reads from there
    assert np.array_equal(other[1].numpy(), picture(3))
    same_content = [image.copy() for image in images]
    assert np.array_equal(uploads.stacked(same_content)[1].numpy(), images[1])
    fewer = uploads.stacked(images[1:])
    assert fewer.data_ptr() == sent.data_ptr()
    assert np.array_equal(fewer[0].numpy(), images[1])
    assert np.array_equal(uploads.stacked(images)[0].numpy(), images[0])


def test_the_last_model_takes_the_frames_and_workspaces_along(
    yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: cleared.append(1), raising=False
    )
    one = TorchYolo.open(yolo_file, 1, graphs=False)
    two = TorchYolo.open(yolo_file, 1, graphs=False)
    for model in (one, two):
        model.to_card(CARD)
    kept = weakref.ref(uploads_for(CARD))
    cleared.clear()
    one.leave()
    assert kept() is not None
    assert cleared == [], "the other's graphs compute in there"
    two.leave()
    assert kept() is None
    assert cleared == [1]


class Graph:
    """Replays by calling again what was captured."""

    made: ClassVar[list[Graph]] = []
    fails: ClassVar[Exception | None] = None
    streams: ClassVar[set[object]] = set()

    def __init__(self) -> None:
        self.replays = 0
        self.given_pool: object = None
        Graph.made.append(self)

    def pool(self) -> object:
        return "a pool"

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Stream:
        def __init__(self, device: Any = None) -> None:
            pass

        def wait_stream(self, other: Any) -> None:
            pass

    @contextlib.contextmanager
    def capture(
        graph: Graph, pool: object, stream: object, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        graph.streams.add(stream)
        graph.given_pool = pool
        if Graph.fails is not None:
            raise Graph.fails
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    Graph.made, Graph.fails, Graph.streams = [], None, set()
    yield
    Graph.made, Graph.fails, Graph.streams = [], None, set()


def run(graphs: Graphs, shapes: Sequence[int], memory: Any = None) -> list[int]:
    """Runs on so many frames each; how many each computation had."""
    computed: list[int] = []
    memory = torch.zeros(4, 4, 4, 3) if memory is None else memory

    def compute(given: Any) -> Any:
        computed.append(len(given))
        return given.sum()

    for n in shapes:
        assert float(graphs.run(compute, memory[:n])) == 0.0
    return computed


def test_a_computation_that_repeats_becomes_a_graph(graphs: None) -> None:
    mine = Graphs(enabled=True)
    # Three runs, one on the side, one that is captured; the rest are replays.
    assert len(run(mine, [1] * 10)) == card.RUNS_BEFORE_CAPTURE + 2
    (made,) = Graph.made
    assert made.replays == 10 - card.RUNS_BEFORE_CAPTURE


def test_graphs_of_one_size_share_stream_and_pool_and_go_together(graphs: None) -> None:
    mine = Graphs(enabled=True)
    memory = torch.zeros(4, 4, 4, 3)
    run(mine, [1, 4] * 10, memory)
    first, second = Graph.made
    assert len(Graph.streams) == 1
    assert (first.given_pool, second.given_pool) == (None, "a pool")
    # A frame of another size: what a graph reads besides its frames may go.
    assert run(mine, [1], torch.zeros(1, 8, 8, 3)) == [1]
    assert run(mine, [1], memory) == [1]
    run(mine, [1] * 9, memory)
    assert len(Graph.made) == 3
    assert Graph.made[2].given_pool is None
    assert len(Graph.streams) == 1


def test_who_sees_frames_of_many_sizes_captures_nothing(graphs: None) -> None:
    mine = Graphs(enabled=True)
    memories = [torch.zeros(1, side, side, 3) for side in (4, 6)]
    for _ in range(10):
        for memory in memories:
            assert run(mine, [1], memory) == [1]
    assert Graph.made == []


def test_a_switch_turns_graphs_off(graphs: None) -> None:
    assert len(run(Graphs(enabled=False), [1] * 10)) == 10
    assert Graph.made == []


class Driver:
    """A card whose context answers, or repeats its error at every call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = ""
        torch_is_ready()
        monkeypatch.setattr(contexts, "_made", {0: Context(0, 0)})
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)

    def synchronize(self, ordinal: int) -> None:
        if self.broken:
            raise torch.AcceleratorError(self.broken)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_graph_that_can_not_be_made_costs_nothing_but_a_note(
    graphs: None, driver: Driver, kind: type[Exception]
) -> None:
    Graph.fails = kind("CUDA error: operation not permitted when stream is capturing")
    mine = Graphs(enabled=True)
    assert len(run(mine, [1] * 10)) == 11
    assert "not permitted" in mine.note
    assert not mine.enabled


def test_nobody_waits_for_the_card_while_a_graph_is_captured(
    graphs: None, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    asked = threading.Event()

    def ask() -> None:  # as a thread does in which the loading of another model failed
        asked.set()
        order.append(f"poisoned: {is_poisoned(RuntimeError('a defect'))}")

    other = threading.Thread(target=ask)

    def compute(given: Any) -> Any:
        if Graph.made and not order:
            other.start()
            assert asked.wait(10)
            other.join(0.2)
            order.append("captured")
        return given.sum()

    mine, memory = Graphs(enabled=True), torch.zeros(1, 4, 4, 3)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: NotYet())
    for _ in range(card.RUNS_BEFORE_CAPTURE + 1):
        mine.run(compute, memory)
    other.join(10)
    assert order == ["captured", "poisoned: False"]


class NotYet:
    """The run on the side, before a capture."""

    def __enter__(self) -> None:
        self.made, Graph.made = Graph.made, []

    def __exit__(self, *_: object) -> None:
        Graph.made = self.made


ILLEGAL = "CUDA error: an illegal memory access was encountered"


def test_a_broken_context_is_no_reason_to_go_on(graphs: None, driver: Driver) -> None:
    driver.broken = ILLEGAL
    Graph.fails = torch.AcceleratorError(ILLEGAL)
    with pytest.raises(torch.AcceleratorError):
        run(Graphs(enabled=True), [1] * 10)


@pytest.mark.parametrize(
    ("error", "broken", "poisoned", "full"),
    [
        (torch.AcceleratorError(ILLEGAL), ILLEGAL, True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), ILLEGAL, True, False),
        (torch.AcceleratorError("CUDA error: no kernel image is available"), "", False, False),
        (torch.AcceleratorError("CUDA error: out of memory"), "", False, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "", False, True),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"),
            "",
            False,
            True,
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            "",
            False,
            True,
        ),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "",
            False,
            True,
        ),
        (RuntimeError("nvrtc: error: NVRTC_ERROR_OUT_OF_MEMORY"), "", False, True),
        (RuntimeError("shapes do not fit"), "", False, False),
        (ValueError("no error of torch"), ILLEGAL, False, False),
    ],
)
def test_what_breaks_a_context_is_told_from_a_full_card_and_the_rest(
    driver: Driver, error: Exception, broken: str, poisoned: bool, full: bool
) -> None:
    driver.broken = broken
    assert is_poisoned(error) == poisoned
    if not poisoned:
        assert is_out_of_memory(error) == full


def test_only_the_surest_boxes_leave_a_card_and_none_that_counts_is_lost() -> None:
    yolo = TorchYolo.open(SHIPPED, 1, graphs=False)
    yolo._half = False  # pyright: ignore[reportPrivateUsage]
    laid = fits([picture(1)], SIDE, STRIDE)
    with torch.inference_mode():
        frames = torch.from_numpy(picture(1)[None])
        rows = yolo._on_card(frames, laid[0])[0].numpy()  # pyright: ignore
    assert rows.shape[1] == 6
    assert (np.diff(rows[:, 4]) <= 0).all()
    everything = yolo.rows([picture(1)], laid, 0.0)[0]
    assert len(everything) > len(rows) == torch_yolo.ROWS_FROM_CARD
    assert (everything[:, 4] > 0.01).sum() == (rows[:, 4] > 0.01).sum() > 0


SHARED_BYTES = 48 << 10
"""Of a block, on every card."""


@pytest.mark.parametrize("mode", ["squash", "shortest"])
@pytest.mark.parametrize("size", [(1080, 1920), (1440, 2560), (2160, 3840), (1440, 5120)])
@pytest.mark.parametrize("side", [128, 224])
def test_a_screen_is_resized_within_a_blocks_shared_memory(
    monkeypatch: pytest.MonkeyPatch, mode: str, size: tuple[int, int], side: int
) -> None:
    asked: list[int] = []
    real: Any = torch.nn.functional.interpolate

    def interpolate(tensor: Any, target: tuple[int, int], **how: Any) -> Any:
        # torch's UpSampleBilinear2d.cu: windows of 32 x 8 threads, and a column for each thread.
        sizes = zip(tensor.shape[-2:], target, strict=True)
        scales = [max(1.0, have / want) for have, want in sizes]
        high, wide = (2 * math.ceil(2 * scale) + 1 for scale in scales)
        asked.append(4 * (32 * wide + 8 * high + 32 * 8 * high))
        return real(tensor, target, **how)

    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    config = {"size": side, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": mode}
    frames = torch.empty((2, *size, 3), dtype=torch.uint8, device="meta")
    assert tuple(Preprocess(config).fitted(frames).shape) == (2, 3, side, side)
    (shared,) = asked
    assert shared <= SHARED_BYTES
