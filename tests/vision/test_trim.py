"""Giving unused memory back: from the pipeline to the worker, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.vision.pipeline import VisionUnavailable
from bot.vision.worker import vision_worker
from bot.vision.worker.protocol import Held, Pong, Trim
from tests.vision.running import both_run, manager_of, running, settings_for, until


async def test_a_trim_reaches_the_worker_and_its_word_is_kept(
    yolo_file: Path, clip_folder: Path
) -> None:
    async with running(settings_for(yolo_file, clip_folder)) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        before, after = await pipeline.trim()
        # No card here: the worker holds nothing on one, and says so instead of failing.
        assert (before, after) == (0, 0)
        assert pipeline.state == "running"
        assert {lease.name for lease in manager_of(pipeline).leases} == {"yolo", "clip"}


async def test_without_a_worker_there_is_nothing_to_trim(
    yolo_file: Path, clip_folder: Path
) -> None:
    async with running(settings_for(yolo_file, clip_folder), start=False) as pipeline:
        with pytest.raises(VisionUnavailable, match="holds no GPU memory"):
            await pipeline.trim()


def test_the_worker_gives_back_before_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(vision_worker, "give_back", lambda: order.append("given back"))

    def held() -> tuple[Held, ...]:
        order.append("counted")
        return (Held(index=0, reserved_bytes=5, active_bytes=3),)

    monkeypatch.setattr(vision_worker, "held", held)

    class Nobody:
        def receive(self) -> None:
            return None

        def send(self, envelope: object, blob: bytes = b"") -> None:
            pass

    worker = vision_worker.VisionWorker(Nobody(), threads=1, forward_log=False)
    answer, _ = worker._do(Trim())  # pyright: ignore[reportPrivateUsage]
    assert isinstance(answer, Pong)
    assert answer.held[0].reserved_bytes == 5
    assert order == ["given back", "counted"]
