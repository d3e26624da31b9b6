"""Training of the small CLIP on rendered scenes and captions."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from bot.vision.scene import CONCEPTS
from models.captions import paraphrase
from models.dataset import chunks, read
from models.muon import Muon

SIZE = 128
"""Side in pixels of the square into which the whole screen is squeezed."""
BATCH = 64
LEARNING_RATE = 2e-3
MUON_RATE = 0.01
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 192,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 24, "patch_size": None},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 96,
            "heads": 4,
            "layers": 3,
        },
    },
    "preprocess_cfg": {
        "size": [SIZE, SIZE],
        "mode": "RGB",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    },
}


def build() -> Any:
    """An untrained model of the configuration."""
    return open_clip.CLIP(**CONFIG["model_cfg"])


def load_pairs(folder: Path) -> tuple[npt.NDArray[np.uint8], list[tuple[str, ...]]]:
    """All pictures, (N, 128, 128, 3), and their true statements."""
    pictures, captions = [], []
    for path in tqdm(chunks(folder), desc="reading", unit="chunk"):
        for sample in read(path):
            rows = np.where((sample.image != 114).any((1, 2)))[0]
            columns = np.where((sample.image != 114).any((0, 2)))[0]
            screen = sample.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            pictures.append(cv2.resize(screen, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
            captions.append(sample.captions)
    return np.stack(pictures), captions


def augment(rng: np.random.Generator, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Slightly moved, recoloured and softened; mirrored half the time."""
    zoom = float(rng.uniform(0.95, 1.12))
    shift = rng.uniform(0, 1, 2) * SIZE * (1 - zoom)
    flip = -1 if rng.random() < 0.3 else 1
    matrix = np.asarray(
        [[zoom * flip, 0, shift[0] if flip > 0 else SIZE - shift[0]], [0, zoom, shift[1]]]
    )
    out = cv2.warpAffine(picture, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    gain = np.exp(rng.normal(0, 0.08, 3) + rng.normal(0, 0.2))
    table = np.clip(np.arange(256)[:, None] * gain[None] + rng.normal(0, 12), 0, 255)
    out = cv2.LUT(out, table.astype(np.uint8)[None])
    if rng.random() < 0.2:
        out = cv2.GaussianBlur(out, (3, 3), 0)
    return np.asarray(out, np.uint8)


def choose(rng: np.random.Generator, captions: tuple[str, ...]) -> tuple[str, ...]:
    """The statements told of a scene this time: its subject mostly, something else at times."""
    roll = rng.random()
    if roll < 0.62 or len(captions) < 2:
        return captions[:1]
    other = captions[int(rng.integers(1, len(captions)))]
    return (other,) if roll < 0.85 else (captions[0], other)


def normalise(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float by the model's mean and deviation."""
    config = CONFIG["preprocess_cfg"]
    mean, deviation = (torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - mean) / deviation


def train(folder: Path, target: Path, minutes: float, seed: int = 0, device: str = "cpu") -> Any:
    """Train for ``minutes`` on the scenes in ``folder`` and write the model to ``target``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures, captions = load_pairs(folder)
    model = build().to(device).train()
    tokenizer = open_clip.SimpleTokenizer(context_length=32)
    hidden = [
        p
        for n, p in model.named_parameters()
        if (p.ndim == 4 and "conv1" not in n) or (p.ndim == 2 and "resblocks" in n)
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    steppers: list[torch.optim.Optimizer] = [
        Muon(hidden, MUON_RATE, weight_decay=0.02),
        torch.optim.AdamW(rest, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    base = [stepper.param_groups[0]["lr"] for stepper in steppers]
    seen = torch.zeros(model.vocab_size, dtype=torch.bool)
    start, step, smooth = time.monotonic(), 0, 0.0
    bar = tqdm(total=round(minutes * 60), unit="s", desc="clip", mininterval=10)
    saved = 0.0
    order = np.empty(0, np.int64)
    while (elapsed := time.monotonic() - start) < minutes * 60:
        share = elapsed / (minutes * 60)
        if len(order) < BATCH:
            order = rng.permutation(len(pictures))
        batch, order = order[:BATCH], order[BATCH:]
        told = [choose(rng, captions[i]) for i in batch]
        texts = tokenizer([", ".join(paraphrase(rng, s) for s in t) for t in told])
        seen[texts.unique()] = True
        truth = torch.tensor(
            [[set(t) <= set(captions[i]) for t in told] for i in batch],
            dtype=torch.float32,
            device=device,
        )
        images = normalise(np.stack([augment(rng, pictures[i]) for i in batch])).to(device)
        image, text, scale = model(images, texts.to(device))[:3]
        logits = scale * image @ text.T
        # A caption may be true of several scenes of the batch: all of them count as right.
        loss = (
            -(
                (truth / truth.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
                + (truth / truth.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
            )
            / 2
        )
        rate = min(1.0, (step + 1) / 60) * (0.01 + 0.495 * (1 + math.cos(math.pi * share)))
        for stepper, full in zip(steppers, base, strict=True):
            stepper.param_groups[0]["lr"] = full * rate
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for stepper in steppers:
            stepper.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(40))
        step += 1
        smooth = 0.95 * smooth + 0.05 * float(loss.detach()) if step > 1 else float(loss.detach())
        bar.update(max(0, round(elapsed) - bar.n))
        bar.set_postfix_str(f"step {step} loss {smooth:.3f}", refresh=False)
        if elapsed - saved > 120:
            saved = elapsed
            save(model, target, seen)
    bar.close()
    save(model, target, seen)
    return model


def save(model: Any, folder: Path, seen: torch.Tensor) -> None:
    """Write open_clip's folder layout in half precision.

    The embeddings of words that no caption held are set to zero: noise otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    tensors["token_embedding.weight"][~seen] = 0
    tensors = {
        k: v.half().contiguous() if v.is_floating_point() and "running" not in k else v.contiguous()
        for k, v in tensors.items()
    }
    weights = folder / "open_clip_model.safetensors"
    save_file(tensors, weights, {"format": "pt"})
    weights.chmod(0o644)  # safetensors leaves it to the owner alone
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", "utf-8")


@torch.no_grad()
def choices(
    model: Any, tokenizer: Any, pictures: torch.Tensor, concepts: tuple[str, ...] = CONCEPTS
) -> torch.Tensor:
    """Probabilities (N, concepts) of normalised pictures (N, 3, 128, 128)."""
    text = model.encode_text(tokenizer(list(concepts)), normalize=True)
    image = model.encode_image(pictures, normalize=True)
    return (model.logit_scale.exp() * image @ text.T).softmax(1)
