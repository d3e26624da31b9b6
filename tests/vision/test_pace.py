"""What limits the pipeline, as people are told."""

from __future__ import annotations

import pytest

from bot.settings import CaptureSettings
from bot.vision.reports import PipelineCounts
from bot.vision.worker import pace
from bot.vision.worker.pace import Pace
from bot.vision.worker.protocol import Reported, StartCapture
from tests.vision.scripted import Bench, ScriptedModel, ScriptedSource


def played(
    seconds: float,
    *,
    reports: float,
    dropped: float = 0.0,
    yolo: float = 0.0,
    clip: float = 0.0,
    every_frame: bool = False,
    fps: float = 10.0,
) -> str:
    """What is said after so many seconds of so many reports and drops a second."""
    capture = CaptureSettings(source="screen", fps=fps)
    order = StartCapture(capture=capture, yolo_fps=10, clip_fps=10, every_frame=every_frame)
    pace_ = Pace(order)
    for n in range(round(seconds * reports) + 1):
        at = n / reports
        counts = PipelineCounts(
            captured=round(at * (reports + dropped)), dropped=round(at * dropped)
        )
        milliseconds = {"capture": 4.0, "gate": 1.0, "yolo": yolo, "clip": clip}
        pace_.note(at, counts, milliseconds, {"yolo": "cpu", "clip": "cuda:1"})
    return pace_.limit


def test_who_takes_the_time_is_named_first_when_frames_are_dropped() -> None:
    said = played(20, reports=4, dropped=6, yolo=60, clip=180)
    assert said.startswith("CLIP on cuda:1 takes 72% of the time, YOLO on cpu takes 24%")
    assert "6.0 of 10.0 frames a second are dropped" in said
    assert "vision.cpu_budget" in said


def test_a_source_that_is_slower_than_asked_for_is_named() -> None:
    assert played(20, reports=6) == "the source gives 6.0 of 10 frames a second (5 ms each)"


def test_nothing_is_said_while_all_is_well_or_little_is_known_or_a_file_is_read() -> None:
    assert played(20, reports=10, yolo=30) == ""
    assert played(20, reports=10, dropped=0.5, yolo=30) == ""
    assert played(1, reports=4, dropped=6, yolo=200) == ""
    assert played(20, reports=4, dropped=6, yolo=200, every_frame=True) == ""


def test_only_the_last_seconds_count() -> None:
    order = StartCapture(capture=CaptureSettings(source="screen", fps=10), yolo_fps=10, clip_fps=10)
    pace_ = Pace(order)
    for n in range(300):
        dropped = min(n, 100) * 2
        pace_.note(n / 10, PipelineCounts(captured=n + dropped, dropped=dropped), {}, {})
        if n == 100:
            assert "dropped" in pace_.limit
    assert pace_.limit == ""


def test_reports_carry_what_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0.3)
    monkeypatch.setattr(pace, "AGAIN_SECONDS", 0.0)
    source = ScriptedSource(range(1, 250), live=True)
    with Bench(source, ScriptedModel(seconds=0.1), every_frame=False, fps=50.0) as bench:
        said = [bench.wait_for(Reported, n)[-1].counts.limit for n in range(1, 10)]
    assert any("YOLO on cpu takes" in words for words in said)
