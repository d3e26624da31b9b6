"""What the vision tests share: small models with random weights, films, a screen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bot.vision.scene import render
from bot.vision.worker import environment
from tests.vision.screen import Screen, x_display

# Inline workers live in this process: the same surroundings as in the real one.
environment.prepare(os.environ, threads=1)

LABELS = ("health_bar", "minimap", "boss", "player", "enemy")
CONCEPTS = ("a boss fight", "low health", "a main menu")


def make_yolo(path: Path, image_size: int = 160) -> Path:
    """A YOLOv8n with random weights that is sure enough of some boxes to report them."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(5)
    model: Any = DetectionModel("yolov8n.yaml", nc=len(LABELS), verbose=False)
    # Without training the signal dies on its way; one look at pictures sets the norms right.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    pictures = np.stack([render(seed, (160, 96)).image for seed in range(8)])
    with torch.no_grad():
        model.train()
        model.predict(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    model.eval()
    for branch in model.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, std=0.15)
        torch.nn.init.constant_(branch[-1].bias, -1.5)
    model.names = dict(enumerate(LABELS))
    model.args = {"imgsz": image_size}
    model.task = "detect"
    checkpoint = {
        "model": model.half(),
        "ema": None,
        "train_args": {"imgsz": image_size, "task": "detect"},
    }
    torch.save(checkpoint, path)
    return path


def make_clip(folder: Path, resize_mode: str = "squash", image_size: int = 64) -> Path:
    """A tiny open_clip model with random weights."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": image_size,
                "layers": 2,
                "width": 64,
                "patch_size": 16,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": 32,
                "heads": 2,
                "layers": 1,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": resize_mode,
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, str(folder / "open_clip_model.safetensors"))
    return folder


def make_video(
    path: Path, frames: int = 12, fps: int = 10, size: tuple[int, int] = (320, 176)
) -> Path:
    """A film in which a square wanders to the right, one step a frame."""
    width, height = 320, 176
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(frames):
            image = np.full((height, width, 3), 40, np.uint8)
            left = n * (width - 48) // max(1, frames - 1)
            image[60:108, left : left + 48] = (220, 60, 40)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="session")
def yolo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_yolo(tmp_path_factory.mktemp("yolo") / "random.pt")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "random-clip")


@pytest.fixture(scope="session")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "wanderer.mp4")


@pytest.fixture
def screen() -> Iterator[Screen]:
    with x_display() as shown:
        yield shown
