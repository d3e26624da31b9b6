"""Training of the detector: ultralytics' nano architecture and loss, a short loop of our own."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from bot.vision.scene import CLASSES
from models.dataset import CANVAS, PADDING, Sample, chunks, read
from models.muon import Muon

PHASES = ((0.45, (288, 160)), (0.75, (384, 224)), (1.0, CANVAS))
"""Pictures grow with the training: (until this share of the time, size in pixels)."""
WIDTH, DEPTH = 0.125, 0.33
"""Multiples of YOLOv8: nano's depth at half its width, what an hour on two cores can train."""
IMGSZ = CANVAS[0]
BATCH = 16
LEARNING_RATE = 3e-3
"""AdamW's, for biases, norms and the outputs; Muon has its own."""
MUON_RATE = 0.015
WEIGHT_DECAY = 0.02
EMA_DECAY = 0.998
SAVE_EVERY = 120.0
REFINING_RATE = 0.5
"""Share of the learning rates with which finished weights are trained further."""
BOSS = CLASSES.index("boss")


class Cache:
    """All samples rendered so far; it looks for more whenever an epoch ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self._read: set[Path] = set()

    def refresh(self) -> int:
        for path in chunks(self.folder):
            if path not in self._read:
                self._read.add(path)
                self.samples.extend(read(path))
        return len(self.samples)

    def batches(self, rng: np.random.Generator) -> Iterator[list[Sample]]:
        while True:
            if not self.refresh():
                raise FileNotFoundError(f"no rendered scenes in {self.folder}")
            # A scene with a boss holds one, a scene of combat several enemies: even it out.
            bosses = [i for i, s in enumerate(self.samples) if (s.boxes[:, 0] == BOSS).any()]
            order = rng.permutation(np.concatenate([np.arange(len(self.samples)), bosses]))
            order = order.astype(np.int64)
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield [self.samples[i] for i in order[start : start + BATCH]]


def augment(
    rng: np.random.Generator, sample: Sample, size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """A varied copy at ``size``: (h, w, 3) and rows of class, x1, y1, x2, y2 in its pixels."""
    w, h = size
    scale = min(w / sample.image.shape[1], h / sample.image.shape[0])
    shift_x = shift_y = 0.0
    if rng.random() < 0.5:
        zoom = float(np.exp(rng.uniform(-0.35, 0.3)))
        shift_x = w * (1 - zoom) * float(rng.uniform(-0.1, 1.1))
        shift_y = h * (1 - zoom) * float(rng.uniform(-0.1, 1.1))
        scale *= zoom
    flip = rng.random() < 0.5
    matrix = np.asarray([[scale, 0, shift_x], [0, scale, shift_y]], np.float64)
    if flip:
        matrix[0] = (-scale, 0, w - shift_x)
    image = sample.image
    if scale < 0.8:
        image = cv2.blur(image, (2, 2)) if rng.random() < 0.7 else image
    image = cv2.warpAffine(
        image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderValue=(PADDING,) * 3
    )
    boxes = sample.boxes.copy()
    x1, x2 = boxes[:, 1] * scale + shift_x, boxes[:, 3] * scale + shift_x
    if flip:
        x1, x2 = w - x2, w - x1
    y1, y2 = boxes[:, 2] * scale + shift_y, boxes[:, 4] * scale + shift_y
    area = (x2 - x1) * (y2 - y1)
    x1, x2, y1, y2 = x1.clip(0, w), x2.clip(0, w), y1.clip(0, h), y2.clip(0, h)
    keep = ((x2 - x1) * (y2 - y1) > 0.4 * area) & (x2 - x1 > 2) & (y2 - y1 > 1.5)
    boxes = np.stack([boxes[:, 0], x1, y1, x2, y2], 1)[keep]
    gain = np.exp(rng.normal(0, 0.12, 3) * (0.5, 0.5, 0.5) + rng.normal(0, 0.18))
    offset = rng.normal(0, 12)
    table = np.clip(np.arange(256)[:, None] * gain[None] + offset, 0, 255).astype(np.uint8)
    image = cv2.LUT(np.ascontiguousarray(image), table[None])
    return np.asarray(image, np.uint8), boxes.astype(np.float32)


def collate(
    rng: np.random.Generator, samples: list[Sample], size: tuple[int, int], device: str
) -> dict[str, torch.Tensor]:
    """A batch as ultralytics' loss wants it: RGB 0..1, boxes as normalised xywh."""
    images, index, classes, boxes = [], [], [], []
    for i, sample in enumerate(samples):
        image, rows = augment(rng, sample, size)
        images.append(image)
        index.append(np.full(len(rows), i, np.float32))
        classes.append(rows[:, :1])
        x1, y1, x2, y2 = rows[:, 1:].T
        unit = np.asarray([size[0], size[1]] * 2, np.float32)
        boxes.append(np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1) / unit)
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return {
        "img": (pixels.float() / 255).contiguous(memory_format=torch.channels_last),
        "batch_idx": torch.from_numpy(np.concatenate(index)).to(device),
        "cls": torch.from_numpy(np.concatenate(classes)).to(device),
        "bboxes": torch.from_numpy(np.concatenate(boxes)).to(device),
    }


def build(device: str = "cpu") -> DetectionModel:
    """An untrained network for ``CLASSES``."""
    layout: Any = yaml_model_load("yolov8n.yaml")
    layout["scales"] = {"n": [DEPTH, WIDTH, 1024]}
    model: Any = DetectionModel(layout, nc=len(CLASSES), verbose=False)
    model.args = get_cfg(overrides={"imgsz": IMGSZ})
    model.names = dict(enumerate(CLASSES))
    return model.to(device).to(memory_format=torch.channels_last)


def export(model: DetectionModel, path: Path, notes: dict[str, Any]) -> None:
    """Write an ultralytics checkpoint: half precision, no optimizer, metadata in train_args."""
    final: Any = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).half().eval()
    arguments = {"task": "detect", "imgsz": IMGSZ, "single_cls": False, "data": "rendered scenes"}
    final.args = arguments
    final.criterion = None
    for parameter in final.parameters():
        parameter.requires_grad = False
    from ultralytics import __version__

    part = path.with_suffix(".part")
    torch.save(
        {
            "epoch": -1,
            "best_fitness": None,
            "model": final,
            "ema": None,
            "updates": None,
            "optimizer": None,
            "train_args": {**arguments, **notes},
            "version": __version__,
            "license": "AGPL-3.0",
        },
        part,
    )
    part.replace(path)


def optimizers(model: DetectionModel) -> list[torch.optim.Optimizer]:
    """Muon for the hidden convolutions, AdamW for everything else."""
    hidden, rest = [], []
    layers: Any = model.model
    head = layers[-1]
    outputs = {
        id(p) for branch in (head.cv2, head.cv3) for level in branch for p in level[-1].parameters()
    }
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        (hidden if parameter.ndim == 4 and id(parameter) not in outputs else rest).append(parameter)
    return [
        Muon(hidden, MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    folder: Path,
    target: Path,
    minutes: float,
    seed: int = 0,
    device: str = "cpu",
    state: Path | None = None,
    refine: bool = False,
) -> DetectionModel:
    """Train for ``minutes`` on the scenes in ``folder``; checkpoints go to ``target``.

    Learning rate and picture size follow the clock, so a slow machine ends on time too.
    With ``state`` an interrupted training goes on where it was. ``refine`` starts from the
    weights in ``target`` and trains them further, at full size and a lower rate.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(device)
    before: dict[str, Any] = {}
    if refine:
        # Our own file, written by ``export``.
        saved = torch.load(target, map_location=device, weights_only=False)
        model.load_state_dict(saved["model"].float().state_dict())
        before = saved["train_args"]
    average = copy.deepcopy(model).eval()
    steppers = optimizers(model)
    base = [stepper.param_groups[0]["lr"] for stepper in steppers]
    spent, step = 0.0, 0
    if state is not None and state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for stepper, kept in zip(steppers, saved["optimizers"], strict=True):
            stepper.load_state_dict(kept)
        spent, step = float(saved["spent"]), int(saved["step"])
    model.train()
    budget = minutes * 60
    start = time.monotonic() - spent
    last_save = spent
    bar = tqdm(total=round(budget), unit="s", desc="yolo", initial=round(spent), mininterval=15)
    losses = np.zeros(3)
    for batch in Cache(folder).batches(rng):
        elapsed = time.monotonic() - start
        share = elapsed / budget
        if share >= 1:
            break
        size = CANVAS if refine else next(size for until, size in PHASES if share < until)
        rate = min(1.0, (step + 1) / 80) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        for stepper, full in zip(steppers, base, strict=True):
            stepper.param_groups[0]["lr"] = full * rate * (REFINING_RATE if refine else 1)
        loss, parts = model.loss(collate(rng, batch, size, device))
        model.zero_grad(set_to_none=True)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        for stepper in steppers:
            stepper.step()
        step += 1
        _follow(average, model, min(EMA_DECAY, (1 + step) / (10 + step)))
        values = parts.values() if isinstance(parts, dict) else parts
        losses = 0.95 * losses + 0.05 * np.asarray([float(v) for v in values])
        bar.update(max(0, round(elapsed) - bar.n))
        bar.set_postfix_str(
            f"step {step} box {losses[0]:.2f} cls {losses[1]:.2f} {size[0]} px", refresh=False
        )
        if elapsed - last_save > SAVE_EVERY:
            last_save = elapsed
            export(average, target, _notes(before, seed, step, elapsed))
            if state is not None:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "average": average.state_dict(),
                        "optimizers": [s.state_dict() for s in steppers],
                        "spent": elapsed,
                        "step": step,
                    },
                    state,
                )
    bar.close()
    export(average, target, _notes(before, seed, step, budget))
    return average


def _notes(before: dict[str, Any], seed: int, step: int, seconds: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "steps": step + int(before.get("steps", 0)),
        "minutes": seconds / 60 + float(before.get("minutes", 0)),
    }


@torch.no_grad()
def _follow(average: DetectionModel, model: DetectionModel, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new.detach(), 1 - decay)
        else:
            kept.copy_(new)
