"""Grabs the screen that ``DISPLAY`` names, each way as often as asked: milliseconds a frame."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import mss
import numpy as np

from benchmarks.subjects.answering import answer_lines
from bot.settings import CaptureSettings
from bot.vision.sources import open_source


def ways() -> dict[str, Callable[[], Any]]:
    """Each returns one frame as an array with three colours, as models want it."""
    source = open_source(CaptureSettings(source="screen"))
    kept = mss.MSS()

    def ours() -> Any:
        frame = source.grab()
        assert frame is not None
        return frame.image

    def new_each_time() -> Any:
        with mss.MSS() as screen:
            return np.array(screen.grab(screen.monitors[1]))[:, :, :3]

    def reused() -> Any:
        return np.ascontiguousarray(np.array(kept.grab(kept.monitors[1]))[:, :, :3])

    def rgb() -> Any:
        shot = kept.grab(kept.monitors[1])
        return np.frombuffer(shot.rgb, np.uint8).reshape(shot.height, shot.width, 3)

    return {"Danzar": ours, "new": new_each_time, "reused": reused, "rgb": rgb}


def main() -> None:
    known = ways()

    def do(question: dict[str, Any]) -> dict[str, Any]:
        grab = known[question["way"]]
        shape = grab().shape
        times: list[float] = []
        for _ in range(question["times"]):
            began = time.perf_counter()
            grab()
            times.append(1000 * (time.perf_counter() - began))
        return {"milliseconds": statistics.median(times), "width": shape[1], "height": shape[0]}

    answer_lines(do)


if __name__ == "__main__":
    main()
