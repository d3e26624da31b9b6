"""``danzar bench``: what it advises, what it says, and one real run with small models."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from bot.cli import bench
from bot.cli.bench_findings import CaptureRun, Findings, ModelRun, advise, limit, shares
from bot.settings import Settings
from bot.vision.measured_worker import ACKNOWLEDGED, MeasuredWorker
from bot.vision.reports import PipelineCounts
from bot.vision.worker.handle import WorkerGone, WorkerHandle
from bot.vision.worker.protocol import Reported
from danzar_gpu import open_probe
from tests.bot.doubles import frame_report
from tests.standin import GUIDE, StandinNvml
from tests.standin.here import driver_here
from tests.vision.conftest import make_clip, make_yolo
from tests.vision.running import settings_for


def model(name: str, milliseconds: float, device: str = "cpu") -> ModelRun:
    return ModelRun(
        model=name,
        name=f"{name}.pt",
        device=device,
        backend="OpenVINO f32" if device == "cpu" else "torch f16",
        milliseconds=milliseconds,
        batched_milliseconds=milliseconds / 2,
        cpu_seconds=milliseconds / 1000,
        load_seconds=1.0,
        card_bytes=None if device == "cpu" else 400 << 20,
    )


def findings(*models: ModelRun, cores: int = 8, threads: int = 4, **more: Any) -> Findings:
    found = Findings(cores, threads, "none", models=list(models), **more)
    found.destined.update({run.model: run.device for run in models})
    found.reasons.update({run.model: "a reason" for run in models})
    return found


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


def test_a_machine_with_room_needs_no_change() -> None:
    found = findings(model("yolo", 80.0), model("clip", 100.0))
    assert shares(found, settings()) == pytest.approx({"yolo": 0.4, "clip": 0.1})
    assert advise(found, settings()) == []
    assert limit(found, settings()).startswith("Nothing is short: the models need 50% of each")


def test_a_slow_model_is_named_with_the_rate_that_it_can_hold() -> None:
    found = findings(model("yolo", 300.0), model("clip", 100.0), cores=4, threads=4)
    assert "YOLO on cpu limits: at 5 frames a second it would need 150%" in limit(found, settings())
    (advice,) = advise(found, settings())
    # 80 % of a second less CLIP's 10 % leaves 0.7 s for frames of 0.3 s.
    assert (advice.key, advice.value) == ("yolo.processing_fps", "2.3")
    assert "300 ms a frame on cpu" in advice.why


def test_idle_cores_and_a_smaller_picture_come_before_a_lower_rate() -> None:
    config = settings(yolo={"image_size": 640})
    found = findings(model("yolo", 300.0), cores=8, threads=4)
    keys = {a.key: a.value for a in advise(found, config)}
    assert list(keys) == ["vision.cpu_budget", "yolo.image_size", "yolo.processing_fps"]
    assert (keys["vision.cpu_budget"], keys["yolo.image_size"]) == ("8", "448")


def test_a_fast_card_is_offered_a_higher_rate() -> None:
    found = findings(model("yolo", 2.0, "cuda:1"), model("clip", 4.0, "cuda:1"))
    (advice,) = advise(found, settings())
    assert (advice.key, advice.value) == ("capture.fps", "30")
    assert "yolo.processing_fps must rise with it" in advice.why


def test_rates_that_capture_can_not_serve_are_pointed_out() -> None:
    config = settings(yolo={"processing_fps": 20}, capture={"fps": 10})
    found = findings(model("yolo", 50.0))
    (advice,) = advise(found, config)
    assert (advice.key, advice.value) == ("yolo.processing_fps", "10")


def test_a_slow_capture_is_pointed_out() -> None:
    found = findings(model("yolo", 80.0), model("clip", 100.0))
    found.capture = CaptureRun("screen 0", 100.0, 1.0, 4.9, 7680, 2160)
    (advice,) = advise(found, settings())
    assert (advice.key, advice.value) == ("capture.fps", "3")
    assert "7680 x 2160 takes 100 ms" in advice.why


def test_the_device_where_a_model_would_live_decides() -> None:
    found = findings(model("yolo", 2.0, "cuda:1"))
    found.models.insert(0, model("yolo", 500.0))
    assert shares(found, settings()) == pytest.approx({"yolo": 0.01})


def printed(found: Findings, config: Settings) -> str:
    stream = io.StringIO()
    bench.show(found, config, Console(file=stream, width=120))
    return stream.getvalue()


def test_people_read_figures_reasons_and_problems() -> None:
    found = findings(model("yolo", 80.0, "cuda:1"), model("yolo", 90.0))
    found.destined["yolo"] = "cuda:1"
    found.poll_source, found.cards, found.poll_microseconds = "nvml", 2, 61.0
    found.problems.append("nothing could be captured: DISPLAY is not set")
    text = printed(found, settings())
    assert "YOLO yolo.pt" in text
    assert "0.39 GB" in text
    assert "YOLO would live on cuda:1: a reason" in text
    assert "A reading of 2 cards takes 61 µs (nvml)." in text
    assert "Not measured: nothing could be captured: DISPLAY is not set" in text


def test_without_a_card_it_says_so() -> None:
    assert "No NVIDIA card can be read here" in printed(findings(model("yolo", 80.0)), settings())


def test_nothing_measured_is_said_and_not_advised() -> None:
    found = findings()
    found.problems.append("YOLO can't be measured: it is missing")
    assert limit(found, settings()) == "No model could be measured."
    assert advise(found, settings()) == []
    assert found.as_json(settings())["busy"] == {}


async def test_a_real_run_with_small_models(tmp_path: Path) -> None:
    yolo_file = make_yolo(tmp_path / "random.pt")
    clip_folder = make_clip(tmp_path / "random-clip")
    config = settings_for(
        yolo_file,
        clip_folder,
        data={"folder": str(tmp_path)},
        vision={"backend": "torch", "hang_timeout_seconds": 60, "cpu_budget": 1},
    )
    steps: list[str] = []
    found = await bench.measure(config, open_probe("none"), steps.append, capture_seconds=1.0)
    assert found.problems == []
    assert [(r.model, r.device) for r in found.models] == [("yolo", "cpu"), ("clip", "cpu")]
    assert all(r.milliseconds > 0 for r in found.models)
    # Windows counts a process's time in ticks of 16 ms, longer than these models take.
    assert sys.platform == "win32" or all(r.cpu_seconds > 0 for r in found.models)
    assert found.capture is not None
    assert found.capture.source.startswith("rendered scene")
    assert found.worker_bytes > 50e6
    assert found.poll_microseconds is None
    assert "CLIP on cpu: frame by frame" in steps
    assert json.loads(json.dumps(found.as_json(config)))["models"][0]["name"] == yolo_file.name


async def test_a_missing_model_is_named_and_cards_are_still_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin_nvml: StandinNvml
) -> None:
    async def no_film(_: Path) -> None:
        pass  # no model is there to look at it

    monkeypatch.setattr(bench, "_render", no_film)
    config = settings_for(
        tmp_path / "absent.pt",
        tmp_path / "clip",
        clip={"enabled": False},
        capture={"source": "video", "path": str(tmp_path / "absent.mp4")},
        data={"folder": str(tmp_path)},
    )
    standin_nvml.write(GUIDE)
    with driver_here(standin_nvml):
        found = await bench.measure(config, open_probe("auto"), capture_seconds=0.1)
    assert found.models == []
    assert re.search(r"A reading of 2 cards takes \d+ µs \(nvml\)", printed(found, config))
    missing, off, capture = found.problems
    assert "absent.pt is missing" in missing and "change yolo.model_path" in missing
    assert "CLIP is off in the configuration" in off
    assert "there is no video file" in capture


async def test_a_worker_that_goes_while_a_film_is_acknowledged_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ctrl-C reaches the worker first: nobody waits for what it was just told."""

    class Gone:
        async def ask(self, *_: object, **__: object) -> None:
            raise WorkerGone("the vision worker ended with status 0")

    worker = MeasuredWorker(1.0, cast(WorkerHandle, Gone()))
    with pytest.raises(WorkerGone):
        await worker.play(Path("film.mp4"), 5)
    for _ in range(ACKNOWLEDGED):
        worker.heard(Reported(report=frame_report(), counts=PipelineCounts()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert "never retrieved" not in caplog.text
