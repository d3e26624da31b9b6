"""The pipeline with a real worker process and small real models, from start to end."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from bot.vision.pipeline import VisionUnavailable
from bot.vision.reports import FrameReport
from tests.vision.conftest import CONCEPTS, LABELS
from tests.vision.running import (
    KILLED,
    both_run,
    manager_of,
    running,
    settings_for,
    two_cards,
    until,
)


async def test_frames_in_reports_out(yolo_file: Path, clip_folder: Path) -> None:
    async with running(settings_for(yolo_file, clip_folder), start=False) as pipeline:
        assert pipeline.state == "off"
        with pytest.raises(VisionUnavailable, match="off"):
            await pipeline.look(with_image=False)
        seen: list[FrameReport] = []
        unsubscribe = pipeline.subscribe(seen.append)
        await pipeline.start()
        await pipeline.start()
        assert pipeline.state == "running"
        worker = pipeline.worker_pid
        assert worker != os.getpid()

        await until(lambda: both_run(pipeline), "both models")
        boxes = await until(
            lambda: [r for r in seen if r.detections and "yolo" in r.devices], "a detection"
        )
        report = boxes[-1]
        assert {d.label for d in report.detections} <= set(LABELS)
        assert (report.width, report.height, report.source) == (1280, 720, "scene")
        assert report.devices["yolo"] == "cuda:1 (simulated; really on the CPU)"
        assert report.milliseconds["total"] >= report.milliseconds["yolo"] > 0
        said = await until(lambda: [r for r in seen if r.insights], "an insight")
        assert {i.text for i in said[-1].insights} == set(CONCEPTS)

        look = await pipeline.look(with_image=True)
        assert look.jpeg is not None
        assert Image.open(io.BytesIO(look.jpeg)).size == (1280, 720)
        assert (await pipeline.look(with_image=False)).jpeg is None

        yolo = pipeline.services["yolo"]
        assert (yolo.model, yolo.state) == ("random.pt", "running")
        assert yolo.device == "cuda:1 (simulated; really on the CPU)"
        assert yolo.frames > 0
        assert yolo.milliseconds_p50
        assert yolo.measured_bytes is None, "no card was there to measure on"
        assert "Super" in yolo.reason
        assert "scene" in pipeline.source
        assert pipeline.counts.captured >= pipeline.counts.analysed > 0
        assert {lease.name for lease in manager_of(pipeline).leases} == {"yolo", "clip"}

        unsubscribe()
        await pipeline.stop()
        await pipeline.stop()
        assert pipeline.state == "off"
        assert manager_of(pipeline).leases == ()
        assert not psutil.pid_exists(worker or 0)
        assert pipeline.latest is None


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_a_dead_worker_is_replaced_and_its_leases_are_released(
    yolo_file: Path, clip_folder: Path, how: str
) -> None:
    settings = settings_for(yolo_file, clip_folder, clip={"enabled": False})
    async with running(settings) as pipeline:
        manager = manager_of(pipeline)
        await until(lambda: pipeline.services["yolo"].state == "running", "YOLO")
        first = pipeline.worker_pid
        assert first is not None
        process = psutil.Process(first)
        process.kill() if how == "killed" else process.suspend()

        await until(lambda: any(e.kind == "holder-gone" for e in manager.events), "the release")
        await until(lambda: pipeline.state == "starting" or pipeline.worker_pid, "the replacement")
        await until(
            lambda: (
                pipeline.worker_pid not in (None, first)
                and pipeline.services["yolo"].state == "running"
                and pipeline.latest
            ),
            "a report of the second worker",
        )
        assert not psutil.pid_exists(first)
        assert [lease.name for lease in manager.leases] == ["yolo"]
        gone = next(e.text for e in manager.events if e.kind == "holder-gone")
        assert (KILLED if how == "killed" else "silent") in gone


async def test_a_worker_that_always_dies_ends_in_words(
    yolo_file: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.vision.setbacks.BACKOFF_SECONDS", (0.0,))

    async def dies(threads: int, listener: object) -> None:
        raise OSError("no such interpreter")

    settings = settings_for(yolo_file, clip_folder)
    async with running(settings, worker_factory=dies) as pipeline:
        await until(lambda: pipeline.state == "failed", "giving up")
        assert "after 5 failures in 10 minutes" in pipeline.state_reason
        assert "no such interpreter" in pipeline.state_reason
        assert "`!vision start`" in pipeline.state_reason
        with pytest.raises(VisionUnavailable, match="no such interpreter"):
            await pipeline.look(with_image=False)


async def test_a_missing_model_costs_itself_alone(tmp_path: Path, clip_folder: Path) -> None:
    settings = settings_for(tmp_path / "nowhere.pt", clip_folder)
    async with running(settings) as pipeline:
        await until(lambda: pipeline.services["clip"].state == "running", "CLIP")
        await until(lambda: pipeline.latest and pipeline.latest.insights, "an insight")
        yolo = pipeline.services["yolo"]
        assert yolo.state == "failed"
        assert "nowhere.pt is missing" in yolo.reason
        assert pipeline.state == "running"
        assert pipeline.state_reason.startswith("YOLO off: ")
        assert [lease.name for lease in manager_of(pipeline).leases] == ["clip"]


async def test_a_file_that_is_no_model_costs_itself_alone(
    tmp_path: Path, clip_folder: Path
) -> None:
    path = tmp_path / "yolo-nano.pt"
    path.write_bytes(b"no model")
    async with running(settings_for(path, clip_folder)) as pipeline:
        await pipeline.settle()
        yolo = pipeline.services["yolo"]
        assert yolo.state == "failed"
        assert "yolo-nano.pt" in yolo.reason
        await until(lambda: pipeline.services["clip"].state == "running", "CLIP")
        assert [lease.name for lease in manager_of(pipeline).leases] == ["clip"]


async def test_pressure_moves_the_models_and_no_frame_is_lost(
    yolo_file: Path, clip_folder: Path, video_file: Path
) -> None:
    rig = two_cards()
    settings = settings_for(
        yolo_file,
        clip_folder,
        capture={"source": "video", "path": str(video_file), "loop": True},
    )
    async with running(settings, rig, every_frame=True) as pipeline:
        seen: list[FrameReport] = []
        pipeline.subscribe(seen.append)

        async def read_on() -> None:
            while True:
                await asyncio.sleep(0.02)
                await pipeline.consumed(1)

        reader = asyncio.create_task(read_on())
        await until(lambda: len(seen) > 5, "reports")
        assert seen[0].devices["yolo"].startswith("cuda:1")

        rig.cards[1].programs["game"] = 11.6
        await until(lambda: seen[-1].devices.get("yolo") == "cpu", "YOLO on the CPU")
        assert pipeline.services["yolo"].device == "cpu"

        rig.cards[1].programs["game"] = 2.0
        await until(lambda: seen[-1].devices.get("yolo", "").startswith("cuda:1"), "YOLO's return")
        reader.cancel()
        assert [r.sequence for r in seen] == list(range(len(seen)))
        assert all("yolo" in r.devices or r.unchanged for r in seen)
        assert pipeline.counts.dropped == 0
        moves = [e.text for e in manager_of(pipeline).events if e.kind == "moved"]
        assert any("yolo moved from cuda:1 to cpu" in text for text in moves)
        assert any("yolo moved from cpu to cuda:1" in text for text in moves)


async def test_a_model_is_unloaded_and_loaded_on_request(
    yolo_file: Path, clip_folder: Path
) -> None:
    async with running(settings_for(yolo_file, clip_folder)) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        await pipeline.unload("yolo")
        assert pipeline.services["yolo"].state == "off"
        assert [lease.name for lease in manager_of(pipeline).leases] == ["clip"]
        pipeline.load("yolo")
        await until(lambda: both_run(pipeline), "YOLO again")
        assert {lease.name for lease in manager_of(pipeline).leases} == {"yolo", "clip"}


async def test_other_phrases_count_at_once(yolo_file: Path, clip_folder: Path) -> None:
    settings = settings_for(yolo_file, clip_folder, yolo={"enabled": False})
    async with running(settings) as pipeline:
        await until(lambda: pipeline.services["clip"].state == "running", "CLIP")
        assert pipeline.services["yolo"].state == "off"
        await pipeline.use_concepts(("a shop screen", "a world map"))
        assert pipeline.concepts == ("a shop screen", "a world map")
        await until(
            lambda: (
                pipeline.latest
                and {i.text for i in pipeline.latest.insights} == {"a shop screen", "a world map"}
            ),
            "the new phrases",
        )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always has a screen")
async def test_a_screen_that_is_missing_is_told_and_tried_again(
    yolo_file: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    settings = settings_for(yolo_file, clip_folder, capture={"source": "screen"})
    async with running(settings) as pipeline:
        await until(lambda: "DISPLAY is not set" in pipeline.state_reason, "the reason")
        assert pipeline.state == "running"
        with pytest.raises(VisionUnavailable, match="DISPLAY is not set"):
            await pipeline.look(with_image=False)
