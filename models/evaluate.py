"""Measure the shipped models on rendered scenes of styles that no training saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bot.settings import YoloSettings
from bot.vision.scene import CLASSES, CONCEPTS, HELD_OUT_STYLES, Scene, render
from models.environment import prepare

FIRST_SEED = 10_000_000
"""Seeds from here on are for evaluation."""
GAMEPLAY = 4
"""The first concepts are play; the rest are menus and the like."""
CONFIDENCE = 0.01
IOU = YoloSettings().iou_threshold
"""Suppression of overlapping boxes, as the bot does it."""
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Found:
    """Detections in one picture: (N, 6) rows of x1, y1, x2, y2 pixels, confidence, class."""

    rows: Rows
    truth: Rows
    """(M, 5) rows of x1, y1, x2, y2, class."""


def scenes(
    count: int, size: tuple[int, int] = (1280, 720), seed: int = FIRST_SEED
) -> Iterable[Scene]:
    """Scenes of the held-out styles, subjects left to the renderer (most of them play)."""
    for i in range(count):
        yield render(seed + i, size, HELD_OUT_STYLES[i % len(HELD_OUT_STYLES)])


def overlap(a: Rows, b: Rows) -> Rows:
    """Intersection over union of boxes: (N, 4) and (M, 4) to (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    common = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(x[:, 2:4] - x[:, :2], 0, None).prod(1) for x in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def match(found: Found, threshold: float) -> npt.NDArray[np.bool_]:
    """Which detections are right: best overlap first, each truth matched once, same class."""
    right = np.zeros(len(found.rows), bool)
    if not len(found.rows) or not len(found.truth):
        return right
    iou = overlap(found.rows, found.truth)
    iou *= found.rows[:, 5][:, None] == found.truth[:, 4][None]
    used_rows: set[int] = set()
    used_truth: set[int] = set()
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, truth = np.unravel_index(flat, iou.shape)
        if iou[row, truth] < threshold:
            break
        if int(row) in used_rows or int(truth) in used_truth:
            continue
        used_rows.add(int(row))
        used_truth.add(int(truth))
        right[row] = True
    return right


def average_precision(confidence: Rows, right: npt.NDArray[np.bool_], truths: int) -> float:
    """Area under the precision-recall curve at COCO's 101 recalls, as ultralytics has it."""
    if not truths or not len(right):
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    # Beyond the last recall that was reached, precision is 0 at once: no slope down to it.
    recall = np.concatenate(([0.0], hits / truths, [hits[-1] / truths, 1.0]))
    precision = np.concatenate(([1.0], hits / np.arange(1, len(hits) + 1), [0.0, 0.0]))
    precision = np.flip(np.maximum.accumulate(np.flip(precision)))
    grid = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(grid, recall, precision), grid))


def mean_average_precision(pictures: list[Found], threshold: float = 0.5) -> dict[str, float]:
    """Average precision by class, and their mean as ``mAP50`` (over classes that occur)."""
    right = np.concatenate([match(p, threshold) for p in pictures])
    rows = np.concatenate([p.rows for p in pictures])
    truth = np.concatenate([p.truth for p in pictures])
    out: dict[str, float] = {}
    for number, label in enumerate(CLASSES):
        mine = rows[:, 5] == number
        count = int((truth[:, 4] == number).sum())
        if count:
            out[label] = average_precision(rows[mine, 4], right[mine], count)
    out["mAP50"] = float(np.mean(list(out.values()))) if out else 0.0
    return out


def detect(path: Path, wanted: Iterable[Scene], imgsz: int | None = None) -> list[Found]:
    """Run the checkpoint at ``path`` over scenes through ultralytics' own ``predict``."""
    prepare()
    from ultralytics import YOLO

    model = YOLO(str(path))
    size = imgsz or int(model.ckpt["train_args"]["imgsz"])  # pyright: ignore
    out: list[Found] = []
    for scene in wanted:
        picture = np.ascontiguousarray(scene.image[..., ::-1])
        results = model.predict(
            picture, imgsz=size, conf=CONFIDENCE, iou=IOU, verbose=False, device="cpu"
        )
        result: Any = next(iter(results))
        boxes: Any = result.boxes
        truth = [(*o.box, CLASSES.index(o.label)) for o in scene.objects]
        out.append(
            Found(
                boxes.data.cpu().numpy().astype(np.float64).reshape(-1, 6),
                np.asarray(truth, np.float64).reshape(-1, 5),
            )
        )
    return out


def concept_scenes(count: int, seed: int = FIRST_SEED) -> Iterable[Scene]:
    """Scenes with one subject each, in turn, in the held-out styles."""
    for i in range(count):
        style = HELD_OUT_STYLES[(i // len(CONCEPTS)) % len(HELD_OUT_STYLES)]
        yield render(seed + 5_000_000 + i, (1280, 720), style, CONCEPTS[i % len(CONCEPTS)])


def recognise(folder: Path, wanted: Iterable[Scene]) -> list[tuple[str, str]]:
    """(true, first) concept of each scene, by open_clip's own loading and transform."""
    prepare()
    import open_clip
    import torch
    from PIL import Image

    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    out: list[tuple[str, str]] = []
    with torch.inference_mode():
        text = model.encode_text(tokenizer(list(CONCEPTS)), normalize=True)  # pyright: ignore
        for scene in wanted:
            picture = transform(Image.fromarray(scene.image)).unsqueeze(0)  # pyright: ignore
            image = model.encode_image(picture, normalize=True)  # pyright: ignore
            out.append((scene.subject, CONCEPTS[int((image @ text.T).argmax())]))
    return out


def accuracy(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Share of right first concepts by concept, and over all as ``accuracy``."""
    out = {
        c: float(np.mean([f == t for t, f in pairs if t == c]))
        for c in CONCEPTS
        if any(t == c for t, _ in pairs)
    }
    out["accuracy"] = float(np.mean([first == true for true, first in pairs]))
    return out


def write_manifest(folder: Path, count: int = 1000) -> dict[str, Any]:
    """Measure both models on ``count`` scenes each and write ``manifest.json``."""
    import torch

    detector, clip = folder / "yolo-nano.pt", folder / "clip-tiny"
    found = detect(detector, tqdm(scenes(count), total=count, desc="yolo", mininterval=5))
    pairs = recognise(clip, tqdm(concept_scenes(count), total=count, desc="clip", mininterval=5))
    saved = torch.load(detector, map_location="cpu", weights_only=False)["train_args"]
    # Own file, written by models.train on this machine.
    precision, right = mean_average_precision(found), accuracy(pairs)
    manifest: dict[str, Any] = {
        "yolo-nano.pt": {
            "sha256": _hash(detector),
            "imgsz": int(saved["imgsz"]),
            "names": list(CLASSES),
            "seed": saved.get("seed"),
            "steps": saved.get("steps"),
            "minutes": round(float(saved.get("minutes", 0)), 1),
            "scenes_measured": count,
            "held_out_ap50": {k: round(v, 3) for k, v in precision.items()},
        }
    }
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        manifest[f"clip-tiny/{name}"] = {"sha256": _hash(clip / name)}
    manifest["clip-tiny/open_clip_model.safetensors"].update(
        {
            "concepts": list(CONCEPTS),
            "scenes_measured": count,
            "held_out_first_right": {k: round(v, 3) for k, v in right.items()},
        }
    )
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    write_figures(folder / "README.md", manifest)
    print(json.dumps(manifest, indent=2))
    return manifest


def write_figures(readme: Path, manifest: dict[str, dict[str, Any]]) -> None:
    """Put the manifest's figures between the README's marks."""
    detector = manifest["yolo-nano.pt"]
    clip = manifest["clip-tiny/open_clip_model.safetensors"]
    lines = [
        f"`yolo-nano.pt`: {detector['steps']} steps in {detector['minutes']} minutes, seed "
        f"{detector['seed']}, {detector['imgsz']} pixels, {detector['scenes_measured']} held-out "
        "scenes.",
        "",
        "| class | AP50 |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in detector["held_out_ap50"].items()),
        "",
        f"`clip-tiny`: first of the {len(clip['concepts'])} concepts right, "
        f"{clip['scenes_measured']} held-out scenes.",
        "",
        "| concept | share right |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in clip["held_out_first_right"].items()),
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| `{name}` | `{entry['sha256']}` |" for name, entry in manifest.items()),
    ]
    start, end = "<!-- figures -->", "<!-- /figures -->"
    text = readme.read_text("utf-8")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    readme.write_text(before + "\n".join([start, *lines, end]) + after, "utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
