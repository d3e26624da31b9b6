"""Films and models to measure with: ``python -m benchmarks.subjects.materials films FOLDER``.

``moving.mp4``: 1080p, every frame another moment of the rendered game. ``still.mp4``: the same
size, each picture stays for ten frames. ``live.mp4``: the moving one at so many frames a second
that who watches it as it runs is never without a new one. ``yolov8n.pt`` and ``ViT-B-32``: the
well-known architectures with random weights, because no hub can be relied upon; their speed is
the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bot.settings import YoloSettings
from bot.vision.film_file import PLAY_SECONDS, SEED, SIZE, write, write_moving
from bot.vision.scene import Film

MOVING_FRAMES = 48
"""Enough that the rate is measured, not how long a decoder takes to its first frame."""
LIVE_FPS = 120
"""As many as ``capture.fps`` and both models' rates may be."""
STILL_PICTURES = 4
STILL_FRAMES = 10
"""For so many frames a picture of the still film stays."""


def make_films(folder: Path) -> None:
    """All films."""
    write_moving(folder / "moving.mp4", MOVING_FRAMES)
    write_moving(folder / "live.mp4", MOVING_FRAMES, LIVE_FPS)
    film = Film(SEED, SIZE)
    pictures = [film.at(PLAY_SECONDS + 3.0 * n).image for n in range(STILL_PICTURES)]
    write(folder / "still.mp4", (p for p in pictures for _ in range(STILL_FRAMES)))


def make_yolo(path: Path) -> None:
    """YOLOv8n at 640 pixels with 80 classes, as published, but for the weights."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(1)
    model: Any = DetectionModel("yolov8n.yaml", nc=80, verbose=False)
    model.eval()
    # The classes that are asked for come first: who wants none of a model's classes skips it.
    known = YoloSettings().classes
    model.names = {n: known[n] if n < len(known) else f"kind {n}" for n in range(80)}
    model.args = {"imgsz": 640}
    model.task = "detect"
    arguments = {"imgsz": 640, "task": "detect"}
    torch.save({"model": model.half(), "ema": None, "train_args": arguments}, path)


def make_clip(folder: Path) -> None:
    """ViT-B/32 as a folder that open_clip opens."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(1)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    config = open_clip.get_model_config("ViT-B-32")
    preprocess = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}), encoding="utf-8"
    )
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, str(folder / "open_clip_model.safetensors"))


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "films":
        make_films(folder)
    else:
        make_yolo(folder / "yolov8n.pt")
        make_clip(folder / "ViT-B-32")


if __name__ == "__main__":
    main()
