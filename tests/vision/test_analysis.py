"""From frames to reports: nothing is lost, nothing is computed twice, trouble is dealt with."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from bot.vision.frames import Frame
from bot.vision.worker import analysis
from bot.vision.worker.analysis import REPORTS_AHEAD, WAIT_SECONDS
from bot.vision.worker.devices import Place
from bot.vision.worker.inbox import Captured, Inbox
from bot.vision.worker.protocol import (
    Dying,
    ModelBroke,
    ModelFell,
    Reported,
    SourceEnded,
    SourceOpened,
    SourceTrouble,
)
from tests.vision.scripted import CARD, Bench, ScriptedModel, ScriptedSource, numbers_of

DISTINCT = [20 + 8 * n for n in range(24)]


def test_each_frame_of_a_file_is_reported_in_order_and_batched() -> None:
    yolo = ScriptedModel(batch_size=4, seconds=0.02)
    with Bench(ScriptedSource(DISTINCT), yolo) as bench:
        bench.wait_for(SourceEnded)
    assert [r.sequence for r in bench.reports] == list(range(24))
    assert numbers_of(bench.reports) == DISTINCT
    assert max(len(batch) for _, batch in yolo.batches) > 1, "frames waited, so they were batched"
    assert max(len(batch) for _, batch in yolo.batches) <= 4
    assert bench.told[-1] == SourceEnded(words="a script has ended", failed=False)
    assert bench.events(Reported)[-1].counts.analysed == 24
    assert bench.events(Reported)[-1].counts.dropped == 0


def test_on_a_card_both_models_see_a_frame_before_the_next_one_is_sent_there() -> None:
    order: list[tuple[str, int]] = []

    def note(model: ScriptedModel, numbers: list[int]) -> None:
        order.extend((model.name, number) for number in numbers)

    models = [ScriptedModel("yolo", 1, CARD, fail=note), ScriptedModel("clip", 1, CARD, fail=note)]
    for model in models:
        model.seconds = 0.002
    with Bench(ScriptedSource(DISTINCT), *models) as bench:
        bench.wait_for(SourceEnded)
    assert order[::2] == [("yolo", number) for number in DISTINCT]
    assert order[1::2] == [("clip", number) for number in DISTINCT]


def test_after_the_end_of_a_film_nobody_asks_for_frames_without_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []
    take = Inbox.take

    def counted(inbox: Inbox, most: int, timeout: float) -> list[Captured]:
        asked.append(timeout)
        return take(inbox, most, timeout)

    monkeypatch.setattr(Inbox, "take", counted)
    with Bench(ScriptedSource(DISTINCT[:2]), ScriptedModel()) as bench:
        bench.wait_for(SourceEnded)
        asked.clear()
        time.sleep(4 * WAIT_SECONDS)
    # A thread that spins asks thousands of times; it kept a core busy for nothing.
    assert len(asked) < 50


def test_equal_frames_are_looked_at_once_and_carry_the_answer_over() -> None:
    yolo = ScriptedModel()
    with Bench(ScriptedSource([50, 50, 50, 90, 90, 50]), yolo) as bench:
        bench.wait_for(SourceEnded)
    assert yolo.seen == [50, 90, 50]
    assert numbers_of(bench.reports) == [50, 50, 50, 90, 90, 50]
    assert [r.unchanged for r in bench.reports] == [False, True, True, False, True, False]
    assert [bool(r.devices) for r in bench.reports] == [True, False, False, True, False, True]
    counts = bench.events(Reported)[-1].counts
    assert (counts.captured, counts.analysed, counts.unchanged) == (6, 3, 3)


@dataclass
class PreparingModel(ScriptedModel):
    """Does its first step by itself, for where it is."""

    prepared: list[int] = field(default_factory=list[int])
    began: threading.Event = field(default_factory=threading.Event)
    """Another thread than the one that computes prepares for it."""

    def prepare(self, image: np.ndarray) -> tuple[Place, np.ndarray]:
        if threading.current_thread().name != "analysis":
            self.began.set()
        self.prepared.append(int(image[0, 0, 0]))
        return self.place, image

    def answer(self, prepared: Sequence[tuple[Place, np.ndarray]]) -> list[tuple[Any, ...]]:
        assert all(place == self.place for place, _ in prepared)
        return super().analyse([image for _, image in prepared])


def test_the_second_models_pictures_are_prepared_while_the_first_one_computes() -> None:
    clip = PreparingModel("clip", batch_size=2)
    # YOLO goes on only once CLIP's pictures are being prepared.
    yolo = ScriptedModel(batch_size=3, gate=clip.began)
    with Bench(ScriptedSource([*DISTINCT[:8], DISTINCT[7], *DISTINCT[8:10]]), yolo, clip) as bench:
        bench.wait_for(SourceEnded)
    assert [r.insights[0].text for r in bench.reports] == [
        f"picture {n}" for n in numbers_of(bench.reports)
    ]
    assert numbers_of(bench.reports) == [*DISTINCT[:8], DISTINCT[7], *DISTINCT[8:10]]


def open_when_frames_wait(gate: threading.Event, bench: Bench) -> None:
    """Whatever came by now is being computed; there are enough for a full batch after it."""
    deadline = time.monotonic() + 10
    while len(bench.capture.inbox) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gate.set()


def test_a_models_next_pictures_are_prepared_while_it_computes() -> None:
    gate = threading.Event()
    yolo = PreparingModel(batch_size=1, gate=gate)
    with Bench(ScriptedSource(DISTINCT), yolo) as bench:
        open_when_frames_wait(gate, bench)
        bench.wait_for(SourceEnded)
    assert yolo.began.is_set()
    assert sorted(yolo.prepared) == DISTINCT, "each picture once"
    assert yolo.seen == DISTINCT
    assert all("yolo" in report.devices for report in bench.reports)


def test_what_was_prepared_for_the_card_is_not_used_on_the_cpu() -> None:
    # YOLO takes four frames at once; CLIP takes them one by one and falls at the first of four.
    gate = threading.Event()
    yolo = ScriptedModel(batch_size=4, place=CARD, gate=gate)

    def full(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.on_card and len(yolo.batches) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    clip = PreparingModel("clip", batch_size=1, place=CARD, fail=full)
    with Bench(ScriptedSource(DISTINCT), yolo, clip) as bench:
        open_when_frames_wait(gate, bench)
        bench.wait_for(SourceEnded)
    assert not bench.events(ModelBroke)
    assert len(bench.events(ModelFell)) == 1
    first, second, *_ = (len(batch) for _, batch in yolo.batches)
    assert second == 4
    on_the_cpu = [n for where, batch in clip.batches for n in batch if where == "cpu"]
    assert on_the_cpu == DISTINCT[first:]
    assert all("clip" in report.devices for report in bench.reports)


def test_a_single_picture_is_prepared_for_clip_while_yolo_computes() -> None:
    clip = PreparingModel("clip", batch_size=1)
    yolo = PreparingModel(batch_size=1, gate=clip.began)
    with Bench(ScriptedSource([70], live=True), yolo, clip, every_frame=False) as bench:
        (told,) = bench.wait_for(Reported)
    assert set(told.report.devices) == {"yolo", "clip"}
    assert not yolo.began.is_set(), "nothing could be done while it waited for another thread"


pictures: list[weakref.ref[np.ndarray]] = []


class Remembered(ScriptedSource):
    """Knows which of its pictures somebody still has."""

    def grab(self, not_before: float | None = None) -> Frame | None:
        frame = super().grab(not_before)
        if frame is not None:
            pictures.append(weakref.ref(frame.image))
        return frame


@pytest.mark.parametrize("midway", [True, False], ids=["stopped", "at its end"])
def test_what_a_films_frames_took_goes_back_once_they_are_let_go(
    midway: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    monkeypatch.setattr(
        analysis,
        "return_freed_memory",
        lambda: alive.append(sum(picture() is not None for picture in pictures)),
    )
    pictures.clear()
    yolo = ScriptedModel(batch_size=4, seconds=0.05)
    with Bench(Remembered(DISTINCT), yolo) as bench:
        bench.wait_for(Reported if midway else SourceEnded)
        if midway:
            bench.capture.stop()
            bench.analysis.watch(None)
        deadline = time.monotonic() + 10
        while not alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (len(pictures) < len(DISTINCT)) == midway
    assert alive == [1], "the newest, which people may ask for"


def test_clip_keeps_its_rate_in_the_time_of_the_film() -> None:
    yolo, clip = ScriptedModel(), ScriptedModel("clip")
    source = ScriptedSource(DISTINCT[:20], fps=10)
    with Bench(source, yolo, clip, fps=10, clip_fps=2) as bench:
        bench.wait_for(SourceEnded)
    assert yolo.seen == DISTINCT[:20]
    assert clip.seen == DISTINCT[:20:5]
    assert [r.insights[0].text for r in bench.reports[5:10]] == [f"picture {DISTINCT[5]}"] * 5
    assert "clip" not in bench.reports[6].devices


def test_live_frames_are_dropped_when_a_model_can_not_keep_up_and_the_newest_wins() -> None:
    gate = threading.Event()
    yolo = ScriptedModel(gate=gate)
    source = ScriptedSource(DISTINCT, live=True)
    with Bench(source, yolo, every_frame=False, fps=120) as bench:
        deadline = time.monotonic() + 10
        while len(bench.capture.inbox) == 0 or bench.analysis.counts.captured < len(DISTINCT):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gate.set()
        bench.wait_for(Reported, 2)
    counts = bench.analysis.counts
    assert yolo.seen[-1] == DISTINCT[-1]
    assert len(yolo.seen) == 2
    assert counts.captured == counts.analysed + counts.dropped
    assert counts.dropped == len(DISTINCT) - 2


def test_a_batch_that_does_not_fit_is_halved_and_no_frame_is_lost() -> None:
    def only_two(model: ScriptedModel, numbers: list[int]) -> None:
        if len(numbers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    yolo = ScriptedModel(batch_size=8, place=CARD, fail=only_two, seconds=0.01)
    with Bench(ScriptedSource(DISTINCT), yolo) as bench:
        bench.wait_for(SourceEnded)
    assert numbers_of(bench.reports) == DISTINCT
    assert bench.events(ModelFell) == []
    assert yolo.batch_size == 2
    assert {r.devices["yolo"] for r in bench.reports} == {"cuda:1"}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
    ],
    ids=["plain", "cudnn", "masked"],
)
def test_a_full_card_sends_the_model_to_the_cpu_with_the_same_frames(error: Exception) -> None:
    def full(model: ScriptedModel, numbers: list[int]) -> None:
        if model.place.on_card and DISTINCT[9] in numbers:
            raise error

    yolo, clip = ScriptedModel(place=CARD, fail=full), ScriptedModel("clip")
    with Bench(ScriptedSource(DISTINCT), yolo, clip) as bench:
        bench.wait_for(SourceEnded)
    assert numbers_of(bench.reports) == DISTINCT
    (fell,) = bench.events(ModelFell)
    assert (fell.model, fell.device) == ("yolo", "cpu")
    assert "ran out of memory on cuda:1" in fell.words
    assert bench.reports[0].devices["yolo"] == "cuda:1"
    assert bench.reports[-1].devices["yolo"] == "cpu"
    assert clip.seen == DISTINCT


def test_where_the_cpu_is_not_allowed_the_model_is_unloaded_and_the_other_goes_on() -> None:
    def full(model: ScriptedModel, numbers: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    yolo, clip = ScriptedModel(place=CARD, fail=full), ScriptedModel("clip")
    with Bench(ScriptedSource(DISTINCT), yolo, clip, may_fall_to_cpu=False) as bench:
        bench.wait_for(SourceEnded)
        assert bench.analysis.seat("yolo") is None
    (fell,) = bench.events(ModelFell)
    assert fell.device is None
    assert clip.seen == DISTINCT
    assert len(bench.reports) == len(DISTINCT)


def test_a_broken_context_ends_the_process() -> None:
    def broken(model: ScriptedModel, numbers: list[int]) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with Bench(ScriptedSource(DISTINCT), ScriptedModel(place=CARD, fail=broken)) as bench:
        (dying,) = bench.wait_for(Dying)
    assert "CUDA context broke" in dying.words
    assert "cuda:1" in dying.words


def test_a_model_that_fails_once_goes_on_and_one_that_always_fails_is_taken_out() -> None:
    def once(model: ScriptedModel, numbers: list[int]) -> None:
        if len(model.batches) == 2:
            raise ValueError("a strange frame")

    def always(model: ScriptedModel, numbers: list[int]) -> None:
        raise ValueError("no good")

    yolo = ScriptedModel(fail=once, batch_size=2, seconds=0.01)
    clip = ScriptedModel("clip", fail=always, batch_size=2)
    with Bench(ScriptedSource(DISTINCT), yolo, clip) as bench:
        bench.wait_for(SourceEnded)
    (broke,) = bench.events(ModelBroke)
    assert broke.model == "clip"
    assert "3 times in a row: ValueError: no good" in broke.words
    assert len(clip.batches) == 3
    assert len(bench.reports) == len(DISTINCT)
    assert numbers_of(bench.reports)[-1] == DISTINCT[-1]


def test_one_bad_frame_of_a_film_costs_no_other_frame_its_answer() -> None:
    bad = DISTINCT[len(DISTINCT) // 2]

    def strange(model: ScriptedModel, numbers: list[int]) -> None:
        if bad in numbers:
            raise ValueError("a strange frame")

    class Preparing(PreparingModel):
        def prepare(self, image: np.ndarray) -> tuple[Place, np.ndarray]:
            if int(image[0, 0, 0]) == bad:
                raise ValueError("no picture to prepare")
            return super().prepare(image)

    yolo = ScriptedModel(fail=strange, batch_size=1)
    clip = Preparing("clip", fail=strange, batch_size=1)
    with Bench(ScriptedSource(DISTINCT), yolo, clip) as bench:
        bench.wait_for(SourceEnded)
    assert not bench.events(ModelBroke)
    for model in ("yolo", "clip"):
        looked = [i for i, report in enumerate(bench.reports) if model in report.devices]
        assert looked == [i for i, n in enumerate(DISTINCT) if n != bad]


def test_a_model_that_comes_later_looks_at_the_screen_that_stands_still() -> None:
    source = ScriptedSource([70] * 100_000, live=True)
    with Bench(source, every_frame=False, fps=100) as bench:
        bench.wait_for(Reported, 3)
        yolo = ScriptedModel()
        bench.put(yolo)
        deadline = time.monotonic() + 10
        while not bench.reports[-1].detections and time.monotonic() < deadline:
            time.sleep(0.01)
    assert yolo.seen == [70]
    assert numbers_of(bench.reports)[-1] == 70


def test_who_reads_slowly_holds_up_the_film_instead_of_filling_the_memory() -> None:
    source = ScriptedSource([20 + n % 200 for n in range(REPORTS_AHEAD * 3)])
    with Bench(source, ScriptedModel()) as bench:
        bench.wait_for(Reported, REPORTS_AHEAD)
        time.sleep(0.3)
        assert len(bench.reports) == REPORTS_AHEAD
        bench.analysis.consumed(10)
        bench.wait_for(Reported, REPORTS_AHEAD + 10)
        bench.analysis.consumed(REPORTS_AHEAD * 3)
        bench.wait_for(SourceEnded)
    assert [r.sequence for r in bench.reports] == list(range(REPORTS_AHEAD * 3))


def test_reports_of_an_earlier_order_hold_nobody_up() -> None:
    with Bench(ScriptedSource([20 + n for n in range(REPORTS_AHEAD)]), ScriptedModel()) as bench:
        bench.wait_for(Reported, REPORTS_AHEAD)
        bench.watch(ScriptedSource([20 + n for n in range(REPORTS_AHEAD)]))
        bench.wait_for(Reported, 2 * REPORTS_AHEAD)


def test_a_source_that_fails_is_told_and_opened_again() -> None:
    source = ScriptedSource([30, 60], live=True, fault="the cable came out")
    with Bench(source, ScriptedModel(), every_frame=False, retry=True) as bench:
        (trouble, *_) = bench.wait_for(SourceTrouble)
        bench.wait_for(SourceOpened, 2)
    assert trouble.words == "the cable came out; mend it"


def test_a_source_that_fails_ends_a_watch() -> None:
    source = ScriptedSource([30, 60], fault="the disk is gone")
    with Bench(source, ScriptedModel()) as bench:
        (ended,) = bench.wait_for(SourceEnded)
    assert ended.failed
    assert numbers_of(bench.reports) == [30, 60], "what came before counts"


def test_a_film_is_played_at_its_own_pace_for_the_bot() -> None:
    yolo = ScriptedModel()
    source = ScriptedSource(DISTINCT[:6], fps=10)
    began = time.monotonic()
    with Bench(source, yolo, every_frame=False, fps=100) as bench:
        bench.wait_for(SourceEnded)
    assert time.monotonic() - began >= 0.5
    assert len(bench.reports) == 6
