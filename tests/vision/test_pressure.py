"""Memory gets tight while ``danzar watch`` runs on the stand-in driver: models leave and return."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.standin import RTX_4070, RTX_4070_SUPER, Process, Scenario, StandinNvml, gib
from tests.vision.test_watch import write_config

ARGUMENTS = ("--probe", "nvml", "watch", "--source", "scene", "--json")
INTERVAL_SECONDS = 1.0
STRANGER = Process(4000001, gib(11.5), "/usr/bin/mystery", kind="graphics")
GAME = Process(4000002, gib(11.9), "/games/game.exe", kind="graphics")
OBS = Process(4000003, gib(1.8), "/usr/bin/obs64.exe", kind="graphics")
CALM = Scenario((RTX_4070.using(STRANGER), RTX_4070_SUPER.using(OBS)))
TIGHT = Scenario((RTX_4070.using(STRANGER), RTX_4070_SUPER.using(GAME)))


class Watch:
    """``danzar watch --json``, read report by report."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.reports: list[dict[str, Any]] = []

    def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> float:
        """Read on until a report satisfies ``holds``; returns how many seconds it took."""
        began = time.monotonic()
        assert self._process.stdout
        for line in self._process.stdout:
            self.reports.append(json.loads(line))
            if holds(self.reports[-1]):
                return time.monotonic() - began
            assert time.monotonic() - began < 90, f"{what} never happened"
        raise AssertionError(f"it ended before {what}")


def both_on(device: str) -> Callable[[dict[str, Any]], bool]:
    def holds(report: dict[str, Any]) -> bool:
        where = report["devices"]
        return len(where) == 2 and all(d.startswith(device) for d in where.values())

    return holds


@pytest.fixture
def config(tmp_path: Path, yolo_file: Path, clip_folder: Path) -> Path:
    path = write_config(
        tmp_path,
        yolo_file,
        clip_folder,
        gpu_memory={
            "memory_check_interval": INTERVAL_SECONDS,
            "pressure_check_interval": 0.5,
            "return_dwell_seconds": 2,
            "move_cooldown_seconds": 3,
            "min_residency_seconds": 1,
        },
    )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["clip"]["processing_fps"] = 10
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_models_leave_under_pressure_return_and_lose_no_frame(
    config: Path, standin_nvml: StandinNvml
) -> None:
    standin_nvml.write(CALM)
    words = config.with_name("stderr.txt")  # a pipe that nobody reads takes 4 KiB on Windows
    with (
        words.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "bot", "--config", str(config), *ARGUMENTS],
            env={**os.environ, **standin_nvml.environment()},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        watch = Watch(process)
        try:
            watch.until(both_on("cuda:1"), "the start on cuda:1")
            standin_nvml.write(TIGHT)
            watch.until(both_on("cpu"), "leaving the card")
            standin_nvml.write(CALM)
            watch.until(both_on("cuda:1"), "the return")
        finally:
            process.terminate()
    told = words.read_text("utf-8", "replace")
    numbers = [report["sequence"] for report in watch.reports]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    # Each frame was seen, or equals the one before and carries its answers.
    assert all("yolo" in r["devices"] or r["unchanged"] for r in watch.reports)
    moves = [line for line in told.splitlines() if " moved from " in line]
    assert len(moves) == 4, told
    assert "Device 1 (RTX 4070 SUPER) is short of" in told
