"""Python imports this at its start where the folder is in ``PYTHONPATH``. In a vision worker it
waits for the file that ``DANZAR_WORKER_FAULT`` names, and lets the fault in it happen, once."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

grown: list[bytes] = []


def wait_for_a_fault(path: Path) -> None:
    while True:
        time.sleep(0.1)
        try:
            kind = path.read_text("utf-8").strip()
            path.unlink()
        except OSError:
            continue
        FAULTS[kind]()


def instead(holder: type, name: str, other: Callable[..., Any], times: float) -> None:
    """``other(what it was, self, ...)`` so many times, then as before."""
    before = getattr(holder, name)
    left = times

    def called(self: Any, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left <= 0:
            setattr(holder, name, before)
        return other(before, self, *arguments)

    setattr(holder, name, called)


def context() -> None:
    """What torch raises after a kernel has written where it must not."""
    import torch

    from bot.vision.worker.detector import Detector

    def breaks(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    instead(Detector, "analyse", breaks, 1)


def model(times: float = 1) -> None:
    from bot.vision.worker.detector import Detector

    def breaks(*_: Any) -> None:
        raise RuntimeError("a defect of a model")

    instead(Detector, "analyse", breaks, times)


def frame() -> None:
    """A frame of no width and no height, as a decoder may leave one."""
    import numpy as np

    from bot.vision.worker.analysis import Analysis

    def torn(deal: Callable[..., Any], self: Any, batch: list[Any], capture: Any) -> None:
        image = np.zeros((0, 0, 3), np.uint8)
        first = dataclasses.replace(
            batch[0], frame=dataclasses.replace(batch[0].frame, image=image), content=-2
        )
        deal(self, [first, *batch[1:]], capture)

    instead(Analysis, "_deal_with", torn, 2)  # one of two is due


def memory() -> None:
    while True:
        grown.append(b"x" * (64 << 20))
        time.sleep(0.05)


FAULTS: dict[str, Callable[[], None]] = {
    "context": context,
    "model": model,
    "model for ever": lambda: model(float("inf")),
    "frame": frame,
    "memory": memory,
}

if "bot.vision.worker" in sys.orig_argv and "DANZAR_WORKER_FAULT" in os.environ:
    threading.Thread(
        target=wait_for_a_fault, args=(Path(os.environ["DANZAR_WORKER_FAULT"]),), daemon=True
    ).start()
