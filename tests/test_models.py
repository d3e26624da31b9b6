"""The shipped models: their hashes, how they load, and that they know styles never trained on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bot.vision.scene import CLASSES, CONCEPTS, HELD_OUT_STYLES, Scene, SceneObject
from models import evaluate
from models.environment import prepare

FOLDER = Path(evaluate.__file__).resolve().parent
DETECTOR = FOLDER / "yolo-nano.pt"
CLIP = FOLDER / "clip-tiny"
MANIFEST = FOLDER / "manifest.json"
LEAST = 0.85
"""Of mAP50 and of the share of first concepts that are right."""


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, object]]:
    return json.loads(MANIFEST.read_text("utf-8"))


def test_every_model_file_is_pinned(manifest: dict[str, dict[str, object]]) -> None:
    files = {DETECTOR, *CLIP.iterdir()}
    assert {path.relative_to(FOLDER).as_posix() for path in files} == set(manifest)
    for path in files:
        entry = manifest[path.relative_to(FOLDER).as_posix()]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), path


def test_readme_gives_the_same_hashes(manifest: dict[str, dict[str, object]]) -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    for name, entry in manifest.items():
        assert name in text
        assert str(entry["sha256"]) in text


def test_sizes() -> None:
    assert DETECTOR.stat().st_size <= 8_000_000
    assert sum(path.stat().st_size for path in CLIP.iterdir()) <= 25_000_000


def test_detector_loads_safely(manifest: dict[str, dict[str, object]], tmp_path: Path) -> None:
    """In a process of its own: the variable counts only before the first import."""
    code = (
        "import json, sys, torch; from ultralytics import YOLO; m = YOLO(sys.argv[1]);"
        "print(json.dumps([m.names, m.task, m.ckpt['train_args']['imgsz'],"
        " m.ckpt['optimizer'] is None]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(DETECTOR)],
        env={**os.environ, "ULTRALYTICS_SAFE_LOAD": "1", "YOLO_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names, task, size, bare = json.loads(done.stdout.strip().splitlines()[-1])
    assert [names[str(i)] for i in range(len(names))] == list(CLASSES)
    assert (task, size, bare) == ("detect", manifest["yolo-nano.pt"]["imgsz"], True)


def test_detector_on_held_out_styles() -> None:
    scenes = list(evaluate.scenes(120))
    assert {scene.style for scene in scenes} == set(HELD_OUT_STYLES)
    precision = evaluate.mean_average_precision(evaluate.detect(DETECTOR, scenes))
    assert set(precision) == {*CLASSES, "mAP50"}
    assert precision["mAP50"] >= LEAST, precision


def test_detector_on_a_drawing_of_another_hand() -> None:
    """A screen that the renderer had no part in: flat shapes, as anyone would draw them."""
    picture = Image.new("RGB", (1280, 720), (70, 110, 70))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 400, 1280, 720), fill=(60, 80, 50))
    pen.rectangle((30, 30, 330, 62), fill=(30, 30, 30), outline=(0, 0, 0), width=3)
    pen.rectangle((33, 33, 239, 59), fill=(200, 30, 30))
    pen.ellipse((1055, 25, 1245, 215), fill=(40, 60, 40), outline=(220, 220, 220), width=4)
    pen.line((1093, 120, 1207, 140), fill=(150, 150, 120), width=6)
    pen.polygon([(1150, 110), (1143, 128), (1157, 128)], fill="white")
    pen.ellipse((480, 420, 520, 460), fill=(230, 190, 150))
    pen.rectangle((474, 460, 526, 540), fill=(40, 80, 180))
    for left in (456, 528):
        pen.rectangle((left, 464, left + 16, 536), fill=(40, 80, 180))
    for left in (476, 504):
        pen.rectangle((left, 540, left + 20, 620), fill=(50, 50, 70))
    truth = (
        SceneObject("health_bar", (30, 30, 331, 63)),
        SceneObject("minimap", (1055, 25, 1246, 216)),
        SceneObject("player", (456, 420, 545, 621)),
    )
    scene = Scene(np.asarray(picture), truth, (CONCEPTS[0],), CONCEPTS[0], "")
    found = evaluate.detect(DETECTOR, [scene])[0]
    sure = evaluate.Found(found.rows[found.rows[:, 4] > 0.4], found.truth)
    assert evaluate.match(sure, 0.5).sum() == len(truth), sure.rows


def test_clip_on_held_out_styles() -> None:
    pairs = evaluate.recognise(CLIP, evaluate.concept_scenes(len(CONCEPTS) * 10))
    right = evaluate.accuracy(pairs)
    assert right["accuracy"] >= LEAST, right


def test_own_average_precision_is_ultralytics() -> None:
    """The figures in the README come from our short code: it must agree with the known one."""
    prepare()
    from ultralytics.utils.metrics import ap_per_class

    rng = np.random.default_rng(5)
    pictures: list[evaluate.Found] = []
    for _ in range(40):
        corner = rng.uniform(0, 80, (6, 2))
        boxes = np.hstack([corner, corner + rng.uniform(5, 20, (6, 2))])
        classes = rng.integers(0, 5, (6, 1)).astype(float)
        moved = boxes + rng.normal(0, 2.5, boxes.shape)
        guess = np.where(rng.random((6, 1)) < 0.8, classes, rng.integers(0, 5, (6, 1)))
        rows = np.hstack([moved, rng.random((6, 1)), guess.astype(float)])
        pictures.append(evaluate.Found(rows, np.hstack([boxes, classes])))
    ours = evaluate.mean_average_precision(pictures)
    right = np.concatenate([evaluate.match(p, 0.5) for p in pictures])[:, None]
    rows = np.concatenate([p.rows for p in pictures])
    truth = np.concatenate([p.truth for p in pictures])
    theirs = ap_per_class(right, rows[:, 4], rows[:, 5], truth[:, 4])[5][:, 0]
    for number, label in enumerate(CLASSES):
        assert ours[label] == pytest.approx(theirs[number], abs=1e-6)
    assert ours["mAP50"] == pytest.approx(theirs.mean(), abs=1e-6)
