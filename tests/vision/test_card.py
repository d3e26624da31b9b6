"""The way through a card, rehearsed: no card here, so ``cpu:0`` stands for one.

What is left out is what only a driver can do: page-locked memory, events and CUDA graphs are
stand-ins. The computations are the real ones, in half precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bot.vision.worker.backends import card, torch_clip, torch_yolo
from bot.vision.worker.backends.card import Graphs, Uploads, done_with, uploads_for
from bot.vision.worker.backends.torch_clip import TorchClip
from bot.vision.worker.backends.torch_yolo import TorchYolo
from bot.vision.worker.boxes import fits, suppress
from bot.vision.worker.detector import Detector
from bot.vision.worker.devices import CPU, Place
from tests.vision.test_backends import at_work, yolo_spec
from tests.vision.test_detector import picture

CARD = "cpu:0"
SIDE, STRIDE = 448, 32
SHIPPED = Path(__file__).parents[2] / "models" / "yolo-nano.pt"
"""Random weights are too undecided between classes for half precision."""


class Event:
    """A copy that is always over; counts who waited for it."""

    waits = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Event.waits += 1


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    empty: Any = torch.empty

    def pageable(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", pageable)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    yield
    card._uploads.clear()  # pyright: ignore[reportPrivateUsage]
    card._users.clear()  # pyright: ignore[reportPrivateUsage]


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
    yolo.to_card(CARD, SIDE)
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
    yolo.to_card(CARD, SIDE)
    assert yolo.backend == "torch f32"
    # The picture is not rounded to whole values after scaling: a hair's difference.
    assert min(overlaps(clear(expected), yolo.rows(images, laid, 0.2)[0])) >= 0.99


def test_a_model_that_half_precision_spoils_computes_in_single_and_says_so(
    yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_yolo, "boxes_differ", lambda *_: "a box has an overlap of 0.5")
    yolo = TorchYolo.open(yolo_file, 1, graphs=False)
    yolo.to_card(CARD, SIDE)
    assert yolo.backend == "torch f32"
    assert "in half, a box has an overlap of 0.5" in yolo.note
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
    assert "a cosine of 0.9" in other.note


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


def test_the_last_model_takes_the_frames_memory_along() -> None:
    one, two = object(), object()
    uploads = uploads_for(CARD, one)
    assert uploads_for(CARD, two) is uploads
    done_with(CARD, one)
    assert uploads_for(CARD, two) is uploads
    done_with(CARD, two)
    assert uploads_for(CARD, one) is not uploads


class Graph:
    """Replays by calling again what was captured."""

    made: ClassVar[list[Graph]] = []
    fails: ClassVar[Exception | None] = None

    def __init__(self) -> None:
        self.replays = 0
        Graph.made.append(self)

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
    def capture(graph: Graph, capture_error_mode: str = "global") -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        if Graph.fails is not None:
            raise Graph.fails
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    Graph.made, Graph.fails = [], None
    yield
    Graph.made, Graph.fails = [], None


def run(graphs: Graphs, shapes: Sequence[int]) -> list[int]:
    """Runs on frames of these shapes; how often something was computed."""
    computed: list[int] = []
    frames = {n: torch.zeros(n, 4, 4, 3) for n in set(shapes)}

    def compute(given: Any) -> Any:
        computed.append(len(given))
        return given.sum()

    for n in shapes:
        assert float(graphs.run(compute, frames[n])) == 0.0
    return computed


def test_a_computation_that_repeats_becomes_a_graph(graphs: None) -> None:
    mine = Graphs(enabled=True)
    # Three runs, one on the side, one that is captured; the rest are replays.
    assert len(run(mine, [1] * 10)) == card.RUNS_BEFORE_CAPTURE + 2
    (made,) = Graph.made
    assert made.replays == 10 - card.RUNS_BEFORE_CAPTURE


def test_a_switch_turns_graphs_off(graphs: None) -> None:
    assert len(run(Graphs(enabled=False), [1] * 10)) == 10
    assert Graph.made == []


def test_a_graph_that_can_not_be_made_costs_nothing_but_a_note(graphs: None) -> None:
    Graph.fails = RuntimeError("operation not permitted when stream is capturing")
    mine = Graphs(enabled=True)
    assert len(run(mine, [1] * 10)) == 11
    assert "not permitted" in mine.note
    assert not mine.enabled


def test_a_broken_context_is_no_reason_to_go_on(graphs: None) -> None:
    Graph.fails = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(torch.AcceleratorError):
        run(Graphs(enabled=True), [1] * 10)


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
