"""Other settings while vision runs: only what they concern starts again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.settings import Settings
from bot.vision.pipeline import VisionPipeline
from bot.vision.worker.handle import EventListener, WorkerHandle
from bot.vision.worker.inline import InlineWorker
from bot.vision.worker.protocol import ClipSpec, LoadModel, StartCapture, YoloSpec
from tests.vision.conftest import CONCEPTS
from tests.vision.running import both_run, running, settings_for, until
from tests.vision.scripted import ScriptedModel


class Labelling(ScriptedModel):
    """May be given other phrases."""

    def use_concepts(self, concepts: tuple[str, ...]) -> None:
        self.concepts = concepts


class Desk:
    """A pipeline on scripted models, and everything that was asked of its workers."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self.files = files
        self.asked: list[Any] = []
        self.workers = 0

    def settings(self, **sections: dict[str, Any]) -> Settings:
        return settings_for(*self.files, **sections)

    def asked_for(self, kind: type[Any]) -> list[Any]:
        return [request for request in self.asked if isinstance(request, kind)]

    async def start_worker(self, threads: int, listener: EventListener) -> WorkerHandle:
        def load(spec: YoloSpec | ClipSpec, *_: object) -> ScriptedModel:
            return Labelling(spec.kind)

        self.workers += 1
        worker = await InlineWorker.start(threads, listener, loader=load)
        ask = worker.ask

        async def recorded(request: Any, *arguments: Any, **options: Any) -> Any:
            self.asked.append(request)
            return await ask(request, *arguments, **options)

        worker.ask = recorded
        return worker

    @asynccontextmanager
    async def running(self) -> AsyncIterator[VisionPipeline]:
        async with running(self.settings(), worker_factory=self.start_worker) as pipeline:
            await until(lambda: both_run(pipeline), "both models")
            self.asked.clear()
            yield pipeline


@pytest.fixture
def desk(yolo_file: Path, clip_folder: Path) -> Desk:
    return Desk((yolo_file, clip_folder))


async def test_a_threshold_loads_its_own_model_again(desk: Desk) -> None:
    async with desk.running() as pipeline:
        new = desk.settings(yolo={"confidence_threshold": 0.9})
        assert await pipeline.use_settings(new) == ("YOLO",)
        await until(lambda: both_run(pipeline), "both models")
        [order] = desk.asked_for(LoadModel)
        assert order.spec.confidence_threshold == 0.9
        assert desk.asked_for(StartCapture) == []
        assert desk.workers == 1


async def test_a_rate_starts_the_capture_again_and_no_model(desk: Desk) -> None:
    async with desk.running() as pipeline:
        new = desk.settings(yolo={"processing_fps": 2}, clip={"device": "cuda:0"})
        assert await pipeline.use_settings(new) == ("the capture",)
        [order] = desk.asked_for(StartCapture)
        assert order.yolo_fps == 2
        assert desk.asked_for(LoadModel) == []


async def test_the_files_new_phrases_load_clip_again(desk: Desk) -> None:
    async with desk.running() as pipeline:
        await pipeline.unload("yolo")
        new = desk.settings(clip={"profiles": {"default": ["a shop", "a map"]}})
        assert await pipeline.use_settings(new) == ("CLIP",)
        await until(lambda: pipeline.services["clip"].state == "running", "CLIP")
        assert pipeline.concepts == ("a shop", "a map")
        [order] = desk.asked_for(LoadModel)
        assert order.spec.concepts == ("a shop", "a map")
        # Another list that is not in use concerns nobody; what was unloaded by hand stays away.
        lists = {"default": ["a shop", "a map"], "other": list(CONCEPTS)}
        newer = desk.settings(clip={"profiles": lists}, yolo={"confidence_threshold": 0.9})
        assert await pipeline.use_settings(newer) == ()


async def test_phrases_that_were_chosen_in_chat_stay(desk: Desk) -> None:
    async with desk.running() as pipeline:
        await pipeline.use_concepts(("a shop", "a map"))
        new = desk.settings(clip={"profiles": {"default": ["something", "else"]}})
        assert await pipeline.use_settings(new) == ()
        assert pipeline.concepts == ("a shop", "a map")


async def test_a_model_is_switched_off_and_on(desk: Desk) -> None:
    async with desk.running() as pipeline:
        await pipeline.use_settings(desk.settings(clip={"enabled": False}))
        await until(lambda: "enabled is false" in pipeline.services["clip"].reason, "off")
        await pipeline.use_settings(desk.settings())
        await until(lambda: both_run(pipeline), "both models")


async def test_the_share_of_the_cpu_needs_another_worker(desk: Desk) -> None:
    async with desk.running() as pipeline:
        new = desk.settings(vision={"cpu_budget": 2})
        assert await pipeline.use_settings(new) == ("the vision worker",)
        await until(lambda: both_run(pipeline), "both models")
        assert desk.workers == 2


async def test_vision_that_is_off_takes_them_when_it_starts(desk: Desk) -> None:
    async with desk.running() as pipeline:
        await pipeline.stop()
        desk.asked.clear()
        assert await pipeline.use_settings(desk.settings(capture={"fps": 3})) == ()
        assert desk.asked == []
        await pipeline.start()
        await until(lambda: both_run(pipeline), "both models")
        assert desk.asked_for(StartCapture)[0].capture.fps == 3
