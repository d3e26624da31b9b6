"""A card that breaks: asked of the stand-in alone, since no real one does so at will."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from bot.settings import Settings
from bot.vision.pipeline import VisionPipeline
from danzar_gpu.probes import open_probe
from tests.gpu.contest import seconds_until_all_are_on, told
from tests.gpu.program import ROOT, Program
from tests.standin import Fault
from tests.standin.cuda import SONAME, TWO_CARDS, StandinCuda
from tests.standin.nvml import SCENARIO_VARIABLE
from tests.vision.running import manager_of, running, settings_for, until

pytestmark = pytest.mark.gpu

MIB = 1 << 20
ILLEGAL_ADDRESS, UNAVAILABLE, UNKNOWN, LOST = 700, 46, 999, 15


@pytest.fixture
def driver() -> Iterator[StandinCuda]:
    """What this process and its workers have for a driver."""
    preloaded = Path(os.environ.get("LD_PRELOAD", ""))
    if preloaded.name != SONAME:
        pytest.skip("a real card does not break at will")
    scenario = Path(os.environ[SCENARIO_VARIABLE])
    standin = StandinCuda(preloaded.with_name("libnvidia-ml.so.1"), scenario)
    yield standin
    standin.write(TWO_CARDS)


def settings(**sections: dict[str, object]) -> Settings:
    """The shipped models, for vision's own card; the other one is the LLM's in part."""
    return settings_for(
        ROOT / "models" / "yolo-nano.pt",
        ROOT / "models" / "clip-tiny",
        gpu_memory={"main_llm_memory_reservation_gb": 4.0, **sections.pop("gpu_memory", {})},
        yolo={"image_size": None},
        vision={"hang_timeout_seconds": 30.0},
        **sections,
    )


def said(pipeline: VisionPipeline, kind: str) -> list[str]:
    return [event.text for event in manager_of(pipeline).events if event.kind == kind]


async def test_a_broken_context_costs_a_worker_and_nothing_else(driver: StandinCuda) -> None:
    async with running(settings(), open_probe("nvml")) as pipeline:
        await seconds_until_all_are_on(pipeline, "cuda:1")
        first = pipeline.worker_pid
        driver.write(TWO_CARDS.with_faults(Fault("cuda", ILLEGAL_ADDRESS, device=1)))
        with told(pipeline):
            await until(lambda: pipeline.worker_pid != first, "the worker's end")
        driver.write(TWO_CARDS)
        await seconds_until_all_are_on(pipeline, "cuda:1")
        [words] = said(pipeline, "holder-gone")
        assert "the CUDA context broke" in words
        assert "an illegal memory access" in words
        assert sorted(lease.name for lease in manager_of(pipeline).leases) == ["clip", "yolo"]


async def test_a_card_that_gives_no_context_is_done_without_until_another_worker_has_more_luck(
    driver: StandinCuda,
) -> None:
    driver.write(TWO_CARDS.with_faults(Fault("cuda context", UNAVAILABLE, device=1)))
    async with running(settings(), open_probe("nvml")) as pipeline:
        await seconds_until_all_are_on(pipeline, "cuda:0")
        first = pipeline.worker_pid
        events = list(manager_of(pipeline).events)
        ended = next((n for n, e in enumerate(events) if e.kind == "holder-gone"), len(events))
        failed = [e.text for e in events[:ended] if e.kind == "move-failed"]
        assert len(failed) <= 2, "each model tried it once"
        assert all("busy or unavailable" in words for words in failed)
        driver.write(TWO_CARDS)
        await seconds_until_all_are_on(pipeline, "cuda:1")
        assert pipeline.worker_pid != first
        assert "another one may have more luck" in said(pipeline, "holder-gone")[0]


async def test_a_cuda_that_does_not_start_is_tried_again_with_another_worker(
    driver: StandinCuda,
) -> None:
    """As after a suspend, until the kernel's module is loaded again."""
    driver.write(TWO_CARDS.with_faults(Fault("cuda start", UNKNOWN)))
    async with running(settings(), open_probe("nvml")) as pipeline:
        await seconds_until_all_are_on(pipeline, "cpu")
        first = pipeline.worker_pid
        failed = said(pipeline, "move-failed")
        assert len(failed) >= 2, "each model was told"
        assert all("CUDA does not start" in words for words in failed)
        driver.write(TWO_CARDS)
        await seconds_until_all_are_on(pipeline, "cuda:1")
        assert pipeline.worker_pid != first


async def test_a_lost_card_is_left_and_taken_again_when_it_is_back(driver: StandinCuda) -> None:
    async with running(settings(), open_probe("nvml")) as pipeline:
        await seconds_until_all_are_on(pipeline, "cuda:1")
        gone = [Fault("*", LOST, device=1), Fault("cuda", ILLEGAL_ADDRESS, device=1)]
        driver.write(TWO_CARDS.with_faults(*gone))
        await seconds_until_all_are_on(pipeline, "cuda:0")
        driver.write(TWO_CARDS)
        await seconds_until_all_are_on(pipeline, "cuda:1")


@pytest.fixture
def larger_and_larger(tmp_path: Path) -> Path:
    """Pictures, each of which wants larger buffers on the card than those before it."""
    for number in range(12):
        width, height = 640 + 280 * number, 360 + 160 * number
        noise = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:02}.jpg"), noise)
    return tmp_path


async def test_memory_that_runs_out_in_the_middle_of_it_sends_the_models_to_the_cpu(
    driver: StandinCuda, larger_and_larger: Path
) -> None:
    """Nobody looks at the card meanwhile: the computation itself meets the end of the memory."""
    blind = {"memory_check_interval": 60.0, "pressure_check_interval": 60.0}
    capture = {"source": "images", "path": str(larger_and_larger), "loop": True, "fps": 1}
    alone = {"main_llm_device": "cuda:1", "main_llm_memory_reservation_gb": 0.0}
    program = Program("cuda", 1)
    try:
        async with running(
            settings(gpu_memory={**alone, **blind}, capture=capture), open_probe("nvml")
        ) as pipeline:
            await seconds_until_all_are_on(pipeline, "cuda:1")
            first = pipeline.worker_pid
            await fill(pipeline, program)
            with told(pipeline):
                await until(lambda: said(pipeline, "move-failed"), "the end of the memory")
            assert "ran out of memory on cuda:1" in said(pipeline, "move-failed")[0]
            program.give()
            looking = asyncio.create_task(_look(pipeline))
            await seconds_until_all_are_on(pipeline, "cuda:1")
            looking.cancel()
            assert pipeline.worker_pid == first
    finally:
        program.close()


async def fill(pipeline: VisionPipeline, program: Program) -> None:
    """Leave room for what is on vision's card, and none for the next size of pictures."""
    for _ in range(20):
        card = (await manager_of(pipeline).refresh(max_age=0)).device(1)
        assert card is not None
        try:
            program.take(card.free_bytes - MIB)
        except MemoryError:
            continue  # a picture was quicker
        return
    raise AssertionError("the card never was as free as it was said to be")


async def _look(pipeline: VisionPipeline) -> None:
    while True:
        await manager_of(pipeline).refresh(max_age=0)
        await asyncio.sleep(0.1)
