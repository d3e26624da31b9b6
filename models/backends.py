"""Measure the shipped models with each backend on the same held-out scenes, side by side.

``python -m models.backends --scenes 520 --write`` measures and records it in the README.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bot.vision.scene import CLASSES, CONCEPTS, Scene
from bot.vision.worker.detector import Detector
from bot.vision.worker.devices import CPU, Place
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.protocol import ClipSpec, Computing, YoloSpec
from models.environment import prepare
from models.evaluate import (
    CONFIDENCE,
    IOU,
    Found,
    accuracy,
    concept_scenes,
    mean_average_precision,
    scenes,
)

FOLDER = Path(__file__).resolve().parent
MOST = 300
"""Boxes a picture, as ``predict`` keeps."""
LEAST_AGREEMENT = 0.005
"""Half a point: so much may a backend's score differ from torch's in single precision."""
MARKS = ("<!-- backends -->", "<!-- /backends -->")


def models(
    computing: Computing, place: Place, threads: int = 2, folder: Path = FOLDER
) -> tuple[Detector, Labeller]:
    """The shipped models on one backend, ready."""
    yolo = Detector.load(
        YoloSpec(
            path=str(folder / "yolo-nano.pt"),
            classes=CLASSES,
            confidence_threshold=CONFIDENCE,
            iou_threshold=IOU,
            max_detections=MOST,
            batch_size=1,
            computing=computing,
        ),
        threads,
        place,
    )
    clip = Labeller.load(
        ClipSpec(
            folder=str(folder / "clip-tiny"),
            concepts=CONCEPTS,
            confidence_threshold=0.0,
            max_insights=1,
            batch_size=1,
            computing=computing,
        ),
        threads,
        place,
    )
    for model in (yolo, clip):
        model.move(place)
    return yolo, clip


def cpu_sides(cache: str, threads: int) -> list[tuple[Detector, Labeller]]:
    """torch, then OpenVINO in each precision that is fast here, the fastest last."""
    sides = [models(Computing(backend="torch"), CPU, threads)]
    for precision in ("f32", "fastest"):
        wish = Computing(backend="openvino", cache_folder=cache, precision=precision)
        side = models(wish, CPU, threads)
        if side[0].backend != sides[-1][0].backend:
            sides.append(side)
    return sides


def measured(count: int, sides: Sequence[tuple[Detector, Labeller]]) -> dict[str, dict[str, float]]:
    """Score by backend: YOLO's mAP50 and CLIP's share of right first concepts."""
    found: list[list[Found]] = [[] for _ in sides]
    for scene in tqdm(scenes(count), total=count, desc="yolo", mininterval=10):
        truth = [(*o.box, CLASSES.index(o.label)) for o in scene.objects]
        truth = np.asarray(truth, np.float64).reshape(-1, 5)
        for side, (yolo, _) in zip(found, sides, strict=True):
            side.append(Found(yolo.boxes([_bgr(scene)])[0].astype(np.float64), truth))
    pairs: list[list[tuple[str, str]]] = [[] for _ in sides]
    for scene in tqdm(concept_scenes(count), total=count, desc="clip", mininterval=10):
        for side, (_, clip) in zip(pairs, sides, strict=True):
            side.append((scene.subject, clip.analyse([_bgr(scene)])[0][0].text))
    return {
        yolo.backend: {
            "mAP50": mean_average_precision(boxes)["mAP50"],
            "first right": accuracy(first)["accuracy"],
        }
        for (yolo, _), boxes, first in zip(sides, found, pairs, strict=True)
    }


def table(scores: dict[str, dict[str, float]], count: int) -> list[str]:
    """The README's lines."""
    return [
        f"{count} held-out scenes for each model, the same for each backend.",
        "",
        "| backend | YOLO, mAP50 | CLIP, first concept right |",
        "|---|---|---|",
        *(f"| {k} | {v['mAP50']:.4f} | {v['first right']:.4f} |" for k, v in scores.items()),
    ]


def write(readme: Path, lines: Sequence[str]) -> None:
    text = readme.read_text("utf-8")
    before, rest = text.split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    readme.write_text(before + "\n".join([MARKS[0], *lines, MARKS[1]]) + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=520)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="where conversions are kept, else nowhere")
    parser.add_argument("--card", help="cuda:N, to measure half precision there, too")
    parser.add_argument("--write", action="store_true", help="record it in models/README.md")
    arguments = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        cache = str(arguments.cache or folder)
        sides = cpu_sides(cache, arguments.threads)
        if arguments.card:
            place = Place(arguments.card, arguments.card)
            sides.append(models(Computing(), place, arguments.threads))
        scores = measured(arguments.scenes, sides)
    lines = table(scores, arguments.scenes)
    print("\n".join(lines))
    if arguments.write:
        write(FOLDER / "README.md", lines)
    reference, *others = scores.values()
    for other in others:
        for name, value in other.items():
            if abs(value - reference[name]) > LEAST_AGREEMENT:
                raise SystemExit(f"{name} differs by more than half a point")


def _bgr(scene: Scene) -> np.ndarray:
    return np.ascontiguousarray(scene.image[..., ::-1])


if __name__ == "__main__":
    main()
