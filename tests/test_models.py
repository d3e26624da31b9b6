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

from bot.vision.scene import CLASSES, CONCEPTS, HELD_OUT_STYLES
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


def test_detector_loads_safely(manifest: dict[str, dict[str, object]]) -> None:
    """In a process of its own: the variable counts only before the first import."""
    code = (
        "import json, sys, torch; from ultralytics import YOLO; m = YOLO(sys.argv[1]);"
        "from ultralytics.utils import patches;"
        "print(json.dumps([m.names, m.task, m.ckpt['train_args']['imgsz'],"
        " m.ckpt['optimizer'] is None]))"
    )
    settings = Path(os.environ.get("YOLO_CONFIG_DIR", "/tmp"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(DETECTOR)],
        env={**os.environ, "ULTRALYTICS_SAFE_LOAD": "1", "YOLO_CONFIG_DIR": str(settings)},
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
