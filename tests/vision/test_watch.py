"""``danzar watch`` as people and programs use it: a process, its output and its exit status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from bot.cli import watch
from bot.cli.exits import Exit
from bot.cli.source_argument import UsageError, capture_settings
from bot.settings import CaptureSettings
from bot.vision.reports import Detection, FrameReport, Insight
from bot.vision.scene import render
from tests.bot.running import interrupt, interruptible
from tests.vision.conftest import CONCEPTS, LABELS, make_video
from tests.vision.screen import Screen, x_display

KEYS = {
    "sequence",
    "time",
    "media_seconds",
    "source",
    "width",
    "height",
    "devices",
    "detections",
    "insights",
    "milliseconds",
    "unchanged",
}


@pytest.fixture
def config(tmp_path: Path, yolo_file: Path, clip_folder: Path) -> Path:
    return write_config(tmp_path, yolo_file, clip_folder)


def write_config(folder: Path, yolo: Path, clip: Path, **sections: Any) -> Path:
    path = folder / "danzar.yaml"
    content = {
        "capture": {"fps": 10},
        "yolo": {"model_path": str(yolo), "confidence_threshold": 0.2, "image_size": 160},
        "clip": {
            "model_path": str(clip),
            "confidence_threshold": 0.0,
            "profiles": {"default": list(CONCEPTS)},
        },
        "vision": {"cpu_budget": 1, "backend": "torch"},
        **sections,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(config: Path, *arguments: str) -> list[str]:
    probe = ["--probe", "simulated"]
    order = config.with_name("interrupt")
    return interruptible(order, "--config", str(config), *probe, "watch", *arguments)


def watched(
    config: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, *arguments),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, **(environment or {})},
    )


def reports(shown: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Each line of standard output, which is all JSON."""
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_a_film_gives_as_many_reports_as_asked_for(tmp_path: Path, config: Path) -> None:
    film = make_video(tmp_path / "film.mp4", frames=25)
    shown = watched(config, "--source", str(film), "--frames", "20", "--json")
    assert shown.returncode == Exit.OK, shown.stderr
    found = reports(shown)
    assert [r["sequence"] for r in found] == list(range(20))
    assert all(set(r) == KEYS for r in found)
    assert all("CPU" in r["devices"].get("yolo", "").upper() or r["unchanged"] for r in found)
    assert any(r["detections"] for r in found)
    assert all(i["text"] in CONCEPTS for r in found for i in r["insights"])
    assert "yolo: random.pt on c" in shown.stderr


def test_a_shorter_film_ends_at_its_end(config: Path, video_file: Path) -> None:
    shown = watched(config, "--source", str(video_file), "--frames", "20", "--json")
    assert shown.returncode == Exit.OK, shown.stderr
    assert [r["sequence"] for r in reports(shown)] == list(range(12))
    assert "has ended" in shown.stderr


def test_the_screen_gives_as_many_reports_as_asked_for(config: Path, screen: Screen) -> None:
    picture = np.ascontiguousarray(render(11, screen.size).image[..., ::-1])
    screen.show(picture)
    shown = watched(
        config,
        *("--source", "screen", "--frames", "20", "--json"),
        environment={"DISPLAY": screen.display},
    )
    assert shown.returncode == Exit.OK, shown.stderr
    found = reports(shown)
    assert len(found) == 20
    assert {(r["source"], r["width"], r["height"]) for r in found} == {("screen", 640, 480)}
    assert all(r["detections"] for r in found), "a still screen carries its answers over"
    assert {d["label"] for r in found for d in r["detections"]} <= set(LABELS)
    assert sum(r["unchanged"] for r in found) >= 15


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both)


def test_the_shipped_models_see_the_game_on_the_screen(tmp_path: Path) -> None:
    config = tmp_path / "danzar.yaml"
    config.write_text("capture: {fps: 10}\n", encoding="utf-8")
    scene = render(10_000_008, (1280, 720), None, "fighting enemies")
    with x_display((1280, 720)) as screen:
        screen.show(np.ascontiguousarray(scene.image[..., ::-1]))
        shown = watched(
            config,
            *("--source", "screen", "--frames", "20", "--json"),
            environment={"DISPLAY": screen.display},
        )
    assert shown.returncode == Exit.OK, shown.stderr
    found = reports(shown)
    assert len(found) == 20
    for report in found:
        right = [
            d
            for d in report["detections"]
            for known in scene.objects
            if d["label"] == known.label and overlap(d["box"], known.box) >= 0.5
        ]
        assert len(right) >= 3
        assert len(right) >= len(report["detections"]) / 2
        assert report["insights"], "CLIP has a word for it"


def test_people_get_lines(config: Path) -> None:
    shown = watched(config, "--source", "scene", "--frames", "2")
    assert shown.returncode == Exit.OK, shown.stderr
    first, second = shown.stdout.splitlines()
    assert first.startswith("#0 · 0.00 s · ")
    assert second.startswith("#1 · 0.10 s · ")


def test_a_missing_model_is_told_and_the_other_goes_on(
    tmp_path: Path, clip_folder: Path, video_file: Path
) -> None:
    config = write_config(tmp_path, tmp_path / "nowhere.pt", clip_folder)
    shown = watched(config, "--source", str(video_file), "--frames", "3", "--json")
    assert shown.returncode == Exit.OK, shown.stderr
    assert "nowhere.pt is missing" in shown.stderr
    assert all(r["insights"] for r in reports(shown))


def test_without_any_model_there_is_nothing_to_watch(tmp_path: Path, video_file: Path) -> None:
    config = write_config(tmp_path, tmp_path / "nowhere.pt", tmp_path / "nothing")
    shown = watched(config, "--source", str(video_file), "--json")
    assert shown.returncode == Exit.FAILED
    assert shown.stdout == ""
    assert "no model runs" in shown.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always has a screen")
def test_a_screen_that_is_not_there_is_told(config: Path) -> None:
    shown = watched(config, "--source", "screen", "--json", environment={"DISPLAY": ":4095"})
    assert shown.returncode == Exit.FAILED
    assert shown.stdout == ""
    assert "the screen :4095 can't be read" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("source", ["no/such/file.mp4", "region"])
def test_arguments_that_make_no_sense_are_refused(config: Path, source: str) -> None:
    shown = watched(config, "--source", source)
    assert shown.returncode == Exit.CONFIGURATION
    assert shown.stderr.startswith("danzar watch: ")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, Exit.OK), (signal.SIGTERM, Exit.OK)]
)
def test_ctrl_c_ends_it_and_its_worker(config: Path, number: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        command(config, "--source", "scene", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as program:
        assert program.stdout is not None
        json.loads(program.stdout.readline())
        children = psutil.Process(program.pid).children()
        assert children
        interrupt(program, config.with_name("interrupt"), number)
        output, errors = program.communicate(timeout=60)
    assert program.returncode == status, errors
    assert "Traceback" not in errors
    assert all(set(json.loads(line)) == KEYS for line in output.splitlines())
    assert not any(child.is_running() for child in children)


def test_a_reader_that_goes_away_ends_it(config: Path) -> None:
    with subprocess.Popen(
        command(config, "--source", "scene", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        deadline = time.monotonic() + 120
        while program.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert program.returncode == Exit.OK
        assert "Traceback" not in program.stderr.read()


def test_sources_by_word_path_and_address(tmp_path: Path, video_file: Path) -> None:
    configured = CaptureSettings(monitor=2, fps=7)

    def chosen(source: str | None) -> tuple[str, str | None]:
        found = capture_settings(configured, source)
        assert (found.monitor, found.fps) == (2, 7)
        return found.source, found.path or found.url

    assert chosen(None) == ("auto", None)
    assert chosen("scene") == ("scene", None)
    assert chosen("screen") == ("screen", None)
    assert chosen(str(video_file)) == ("video", str(video_file))
    assert chosen(video_file.as_uri()) == ("video", str(video_file))
    assert chosen(str(tmp_path)) == ("images", str(tmp_path))
    assert chosen("rtsp://camera/1") == ("stream", "rtsp://camera/1")
    folder = tmp_path / "boss fight #2, 50%"
    folder.mkdir()
    uri = folder.as_uri()
    for address in (uri, uri.replace("file://", "file://localhost")):
        assert chosen(address) == ("images", str(folder))


@pytest.mark.parametrize(
    "source", ["ftp://ada:s3cret@camera/1", "rtsp://", "rtsp://ada:s3cret@camera:99999/1"]
)
def test_an_address_that_can_not_be_watched_is_refused_before_the_start(source: str) -> None:
    with pytest.raises(UsageError, match="--source takes an address such as") as refused:
        capture_settings(CaptureSettings(), source)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "--source is empty"),
        (" ", "--source is empty"),
        ("file://", "--source is empty"),
        ("~nobody-of-that-name/film.mp4", r"home|there is no"),
        (os.devnull, f"{os.devnull} is a device or a pipe, not a file or folder"),
        ("x" * 300, "there is no" if sys.platform == "win32" else "can't be reached: File name"),
    ],
)
def test_a_source_that_is_no_place_is_refused_and_never_taken_for_the_current_folder(
    source: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        capture_settings(CaptureSettings(), source)
    assert "--source takes screen" in str(refused.value)


@pytest.mark.parametrize("frames", ["0", "-3", "many"])
def test_the_number_of_frames_is_positive(frames: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--frames", frames])
    assert "--frames" in capsys.readouterr().err


def test_a_line_tells_what_was_seen() -> None:
    report = FrameReport(
        sequence=4,
        captured_at=0.0,
        source="video",
        width=10,
        height=10,
        devices={"yolo": "cpu"},
        detections=(
            Detection("enemy", 0.9, (0, 0, 1, 1)),
            Detection("boss", 0.8, (0, 0, 1, 1)),
            Detection("enemy", 0.7, (0, 0, 1, 1)),
        ),
        insights=(Insight("a boss fight", 0.9),),
        milliseconds={"total": 12.3},
        media_seconds=1.5,
    )
    assert watch.describe(report) == "#4 · 1.50 s · 2 x enemy, boss · a boss fight 90% · 12 ms"
