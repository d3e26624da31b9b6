"""A service holds a lease, goes where the manager says, and says in words what is the matter."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.settings import Settings
from bot.vision.clip import ClipService
from bot.vision.clip import predict as predict_clip
from bot.vision.model_files import FileRefused, safetensors_parameters
from bot.vision.pipeline import VisionUnavailable
from bot.vision.service import ModelService
from bot.vision.yolo import YoloService
from bot.vision.yolo import predict as predict_yolo
from danzar_gpu import GPUMemoryManager
from tests.gpu_memory.rig import Card, ScriptedProbe
from tests.vision.conftest import CONCEPTS
from tests.vision.running import (
    both_run,
    inline,
    manager_of,
    running,
    settings_for,
    two_cards,
    until,
)
from tests.vision.scripted import ScriptedModel

MIB = 1 << 20


def service(kind: type[ModelService], settings: Settings) -> ModelService:
    return kind(settings, GPUMemoryManager(settings.gpu_memory, two_cards()))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Files that exist; scripted models never open them."""
    yolo, clip = tmp_path / "some.pt", tmp_path / "some-clip"
    yolo.write_bytes(bytes(6 * MIB))
    clip.mkdir()
    (clip / "open_clip_config.json").write_text("{}")
    (clip / "open_clip_model.safetensors").write_bytes(bytes(20 * MIB))
    return yolo, clip


def models() -> tuple[ScriptedModel, ScriptedModel]:
    return ScriptedModel("yolo"), ScriptedModel("clip")


async def test_both_models_hold_leases_in_one_process(files: tuple[Path, Path]) -> None:
    async with running(settings_for(*files), worker_factory=inline(*models())) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        leases = {lease.name: lease for lease in manager_of(pipeline).leases}
        assert leases["yolo"].priority > leases["clip"].priority
        assert leases["yolo"].holder == leases["clip"].holder
        assert leases["yolo"].device == "cuda:1"
        assert pipeline.services["yolo"].predicted_bytes == leases["yolo"].need.model_bytes


class OnlyOnCpu(ScriptedModel):
    """A card that turns out to be full as soon as the model comes."""

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
        if self.place.shown != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().analyse(images)


async def test_a_card_without_room_after_all_leads_to_the_cpu(files: tuple[Path, Path]) -> None:
    yolo = OnlyOnCpu("yolo")
    factory = inline(yolo, ScriptedModel("clip"))
    async with running(settings_for(*files), worker_factory=factory) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        status = pipeline.services["yolo"]
        assert status.device == "cpu"
        assert "no room" in status.reason
        lease = next(x for x in manager_of(pipeline).leases if x.name == "yolo")
        assert lease.device == "cpu"
        await until(lambda: pipeline.latest and pipeline.latest.detections, "a detection")


async def test_a_card_that_torch_can_not_use_says_so_and_how_to_mend_it(
    files: tuple[Path, Path],
) -> None:
    class RealProbe(ScriptedProbe):
        source = "nvml"

    rig = RealProbe(Card("RTX 4070", programs={"ollama": 7.5}, total=9.0), Card("RTX 4070 Super"))
    if torch.cuda.is_available():
        pytest.skip("torch has a card here")
    async with running(settings_for(*files), rig, worker_factory=inline(*models())) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        status = pipeline.services["yolo"]
        assert status.device == "cuda:1 (torch can't use it; really on the CPU)"
        records = await manager_of(pipeline).records.read()
        assert {m.device_name for m in records.moves} == {"RTX 4070 Super (rehearsed on the CPU)"}
        assert "can't use cuda:1 (RTX 4070 Super): " in status.reason
        assert "; install " in status.reason


async def test_the_less_important_model_leaves_first(files: tuple[Path, Path]) -> None:
    rig = two_cards()
    settings = settings_for(*files, gpu_memory={"cpu_fallback_threshold_gb": 0.0})
    async with running(settings, rig, worker_factory=inline(*models())) as pipeline:
        await until(lambda: both_run(pipeline), "both models")
        manager = manager_of(pipeline)
        need = {x.name: x.need for x in manager.leases}
        # Room for YOLO, its context and the headroom, but not for CLIP beside it.
        wanted = need["yolo"].total_bytes / 2**30 + 0.25 + need["clip"].model_bytes / 2**30 / 2
        rig.cards[1].programs["game"] = 12.0 - wanted
        await until(lambda: pipeline.services["clip"].device == "cpu", "CLIP on the CPU")
        assert pipeline.services["yolo"].device != "cpu"


async def test_without_the_cpu_a_model_waits_and_comes_back(files: tuple[Path, Path]) -> None:
    rig = two_cards()
    rig.cards[0].programs["ollama"] = 8.9
    rig.cards[1].programs["game"] = 11.9
    settings = settings_for(*files, gpu_memory={"fallback_to_cpu": False})
    async with running(settings, rig, worker_factory=inline(*models())) as pipeline:
        await until(
            lambda: {s.state for s in pipeline.services.values()} == {"waiting"}, "the waiting"
        )
        assert manager_of(pipeline).leases == ()
        assert "YOLO waits: " in pipeline.state_reason
        rig.cards[1].programs["game"] = 1.0
        await until(lambda: both_run(pipeline), "both models")
        rig.cards[1].programs["game"] = 11.9
        await until(lambda: pipeline.services["yolo"].state == "waiting", "YOLO unloaded")
        assert all(x.device != "cpu" for x in manager_of(pipeline).leases)
        rig.cards[1].programs["game"] = 1.0
        await until(lambda: both_run(pipeline), "both models again")


async def test_words_name_commands_as_people_type_them(files: tuple[Path, Path]) -> None:
    settings = settings_for(*files, discord={"prefix": "?"})
    async with running(settings, start=False) as pipeline:
        with pytest.raises(VisionUnavailable, match=r"`\?vision start` starts it"):
            await pipeline.look(with_image=False)


async def test_a_model_that_always_fails_is_off_and_the_other_goes_on(
    files: tuple[Path, Path],
) -> None:
    def broken(model: ScriptedModel, numbers: list[int]) -> None:
        if len(model.batches) > 1:
            raise ValueError("no good")

    factory = inline(ScriptedModel("yolo", fail=broken), ScriptedModel("clip"))
    settings = settings_for(*files, capture={"source": "scene", "fps": 20})
    async with running(settings, worker_factory=factory) as pipeline:
        await until(lambda: pipeline.services["yolo"].state == "failed", "the failure")
        assert "no good" in pipeline.services["yolo"].reason
        assert [x.name for x in manager_of(pipeline).leases] == ["clip"]
        assert pipeline.services["clip"].state == "running"


async def test_stopping_while_a_model_loads_leaves_nothing_behind(
    files: tuple[Path, Path],
) -> None:
    async with running(settings_for(*files), worker_factory=inline(*models())) as pipeline:
        await pipeline.stop()
        assert manager_of(pipeline).leases == ()
        assert {s.state for s in pipeline.services.values()} == {"off"}
        await asyncio.sleep(0.2)
        assert manager_of(pipeline).leases == ()
        await pipeline.start()
        await until(lambda: both_run(pipeline), "both models")


def test_what_is_asked_for_reaches_the_worker(files: tuple[Path, Path]) -> None:
    settings = settings_for(
        *files,
        yolo={"classes": ["boss"], "max_detections": 7, "confidence_threshold": 0.6},
        clip={"max_insights": 3, "confidence_threshold": 0.4},
    )
    yolo = service(YoloService, settings).plan().spec
    assert yolo.kind == "yolo"
    assert (yolo.classes, yolo.max_detections, yolo.confidence_threshold) == (("boss",), 7, 0.6)
    clip = service(ClipService, settings).plan().spec
    assert clip.kind == "clip"
    assert (clip.concepts, clip.max_insights, clip.confidence_threshold) == (CONCEPTS, 3, 0.4)


def test_a_missing_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    settings = settings_for("models/no-such-model.pt", tmp_path)
    with pytest.raises(FileRefused, match=r"models/no-such-model\.pt is missing") as caught:
        service(YoloService, settings).plan()
    assert "yolo.model_path" in caught.value.remedy


def test_the_manifest_pins_the_checkpoint_and_gives_its_size(files: tuple[Path, Path]) -> None:
    yolo, clip = files
    digest = hashlib.sha256(yolo.read_bytes()).hexdigest()
    manifest = yolo.parent / "manifest.json"
    manifest.write_text(json.dumps({"some.pt": {"sha256": digest, "imgsz": 416}}))
    settings = settings_for(yolo, clip, yolo={"image_size": None})
    spec = service(YoloService, settings).plan().spec
    assert spec.kind == "yolo"
    assert (spec.sha256, spec.image_size) == (digest, 416)

    manifest.write_text("{ damaged")
    with pytest.raises(FileRefused, match="is damaged"):
        service(YoloService, settings).plan()


def test_the_shipped_clip_serves_until_another_is_pulled(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo, clip = files
    monkeypatch.chdir(tmp_path)
    settings = settings_for(yolo, clip)
    plan = service(ClipService, settings).plan()
    assert plan.model == "some-clip"
    assert "`danzar models pull ViT-B/32`" in plan.note

    pulled = tmp_path / "models/pulled/ViT-B-32"
    pulled.mkdir(parents=True)
    (pulled / "open_clip_model.safetensors").write_bytes(b"weights")
    with pytest.raises(FileRefused, match="hash is not on record"):
        service(ClipService, settings).plan()

    digest = hashlib.sha256(b"weights").hexdigest()
    record = {"ViT-B-32/open_clip_model.safetensors": {"sha256": digest}}
    (pulled.parent / "manifest.json").write_text(json.dumps(record))
    plan = service(ClipService, settings).plan()
    assert (plan.model, plan.note) == ("ViT-B/32", "")
    assert plan.spec.kind == "clip"
    assert (plan.spec.sha256, Path(plan.spec.folder).name) == (digest, "ViT-B-32")


@pytest.mark.parametrize("name", ["../../etc", "..", "a b", "x" * 200])
def test_a_model_name_can_not_leave_its_folder(files: tuple[Path, Path], name: str) -> None:
    settings = settings_for(*files, clip={"model_name": name})
    with pytest.raises(FileRefused, match="no model name"):
        service(ClipService, settings).plan()


def test_predictions_grow_with_what_is_asked() -> None:
    small = predict_yolo(6 * MIB, 640, 1)
    assert predict_yolo(6 * MIB, 640, 4).activations_bytes > small.activations_bytes
    assert predict_yolo(6 * MIB, 1280, 1).activations_bytes > small.activations_bytes
    assert predict_yolo(50 * MIB, 640, 1).weights_bytes > small.weights_bytes
    assert predict_clip(150 * MIB, 4).weights_bytes == 300 * MIB, "half precision"


def test_clips_size_is_read_from_its_header(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = clip_folder / "open_clip_model.safetensors"
    assert safetensors_parameters(weights) == sum(t.numel() for t in load_file(weights).values())
    for content in (b"", b"\xff" * 64, b"\x04" + bytes(7) + b"null", b"\x02" + bytes(7) + b"{}"):
        (tmp_path / "bad").write_bytes(content)
        assert safetensors_parameters(tmp_path / "bad") == 0
