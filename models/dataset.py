"""Rendered scenes kept on disk as training data: pictures, boxes and captions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bot.vision.scene import CLASSES, CONCEPTS, Scene, render

CANVAS = (448, 256)
"""Width and height in pixels of a stored picture: 16:9 at YOLO's stride of 32."""
PADDING = 114
SHAPES = ((16, 9), (16, 9), (16, 9), (16, 9), (16, 9), (16, 9), (16, 9), (16, 10), (4, 3), (21, 9))

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sample:
    """One letterboxed picture: (256, 448, 3) RGB, boxes (N, 5) as class, x1, y1, x2, y2 pixels."""

    image: Image
    boxes: npt.NDArray[np.float32]
    captions: tuple[str, ...]


def screen_size(rng: np.random.Generator) -> tuple[int, int]:
    """A screen to draw on: mostly 16:9, somewhat larger than the canvas."""
    across, down = SHAPES[int(rng.integers(len(SHAPES)))]
    width = int(rng.choice([560, 672, 672, 784]))
    return width, int(width * down / across) // 2 * 2


def letterbox(
    image: Image, canvas: tuple[int, int] = CANVAS, mode: int = cv2.INTER_AREA
) -> tuple[Image, float, float, float]:
    """Fit a picture into the canvas: (picture, scale, left, top), offsets in pixels."""
    h, w = image.shape[:2]
    scale = min(canvas[0] / w, canvas[1] / h)
    size = (round(w * scale), round(h * scale))
    left, top = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
    out = np.full((canvas[1], canvas[0], 3), PADDING, np.uint8)
    out[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=mode)
    return out, scale, float(left), float(top)


def box_array(scene: Scene) -> npt.NDArray[np.float32]:
    """(N, 5) rows of class number, x1, y1, x2, y2 in the scene's pixels."""
    rows = [(CLASSES.index(o.label), *o.box) for o in scene.objects]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def sample(seed: int) -> Sample:
    """One training sample. Seeds from 10 million up are reserved for evaluation."""
    rng = np.random.default_rng([seed, 77])
    subject = str(rng.choice(CONCEPTS)) if rng.random() < 0.25 else None
    scene = render(seed, screen_size(rng), None, subject)
    mode = cv2.INTER_AREA if rng.random() < 0.5 else cv2.INTER_LINEAR
    picture, scale, left, top = letterbox(scene.image, mode=mode)
    boxes = box_array(scene)
    boxes[:, 1:] = boxes[:, 1:] * scale + np.asarray([left, top, left, top], np.float32)
    return Sample(picture, boxes, scene.captions)


def chunks(folder: Path) -> list[Path]:
    """The stored chunks, oldest first."""
    return sorted(folder.glob("chunk-*.npz"))


def write(folder: Path, start: int, count: int, chunk: int = 500) -> None:
    """Render ``count`` samples from seed ``start`` on, in chunks that appear whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in tqdm(range(start, start + count, chunk), desc="rendering", unit="chunk"):
        target = folder / f"chunk-{first:08d}.npz"
        if target.exists():
            continue
        samples = [sample(seed) for seed in range(first, min(first + chunk, start + count))]
        part = target.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(
                stream,
                images=np.stack([s.image for s in samples]),
                counts=np.asarray([len(s.boxes) for s in samples]),
                boxes=np.concatenate([s.boxes for s in samples]),
                captions=np.asarray(json.dumps([s.captions for s in samples])),
            )
        part.rename(target)


def read(path: Path) -> Iterator[Sample]:
    """The samples of one chunk."""
    with np.load(path) as data:
        images, boxes = data["images"], data["boxes"]
        ends = np.cumsum(data["counts"])
        captions = json.loads(str(data["captions"]))
    for image, end, count, text in zip(
        images, ends, np.diff(ends, prepend=0), captions, strict=True
    ):
        yield Sample(image, boxes[end - count : end], tuple(text))


def main() -> None:
    """``python -m models.dataset FOLDER --start N --count N``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=8000)
    options = parser.parse_args()
    write(options.folder, options.start, options.count)


if __name__ == "__main__":
    main()
