"""YOLO in the worker: the boxes are those of ``YOLO.predict``, and only safe files are opened."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.vision.scene import render
from bot.vision.worker.detector import Detector
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import YoloSpec
from tests.vision.conftest import LABELS


def spec(path: Path, **changes: object) -> YoloSpec:
    values: dict[str, object] = {
        "path": str(path),
        "classes": LABELS,
        "confidence_threshold": 0.2,
        "iou_threshold": 0.45,
        "max_detections": 50,
        "batch_size": 4,
    }
    return YoloSpec.model_validate({**values, **changes})


def picture(seed: int, size: tuple[int, int] = (640, 360)) -> np.ndarray:
    return np.ascontiguousarray(render(seed, size).image[..., ::-1])


def predicted(path: Path, images: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    from ultralytics import YOLO

    results: Any = YOLO(str(path)).predict(
        images, imgsz=160, iou=0.45, verbose=False, device="cpu", **options
    )
    return [result.boxes.data.numpy() for result in results]


@pytest.mark.parametrize(
    "sizes",
    [
        [(640, 360)],
        [(640, 360)] * 3,
        [(300, 400), (640, 360)],
        [(50, 500)],
    ],
    ids=["one", "a batch", "two shapes", "a narrow one"],
)
def test_the_boxes_are_those_of_predict(yolo_file: Path, sizes: list[tuple[int, int]]) -> None:
    images = [picture(seed, size) for seed, size in enumerate(sizes)]
    ours = Detector.load(spec(yolo_file), 1).boxes(images)
    theirs = predicted(yolo_file, images, conf=0.2, max_det=50)
    assert sum(map(len, theirs)) > 0, "the comparison needs boxes"
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, atol=1e-2)


def test_threshold_number_and_classes_have_their_effect(yolo_file: Path) -> None:
    image = picture(4)
    every = Detector.load(spec(yolo_file), 1).analyse([image])[0]
    assert len({d.label for d in every}) >= 2
    assert every[0].confidence == max(d.confidence for d in every)
    for d in every:
        x1, y1, x2, y2 = d.box
        assert 0 <= x1 <= x2 <= 640
        assert 0 <= y1 <= y2 <= 360

    one = every[0].label
    only = Detector.load(spec(yolo_file, classes=(one,)), 1).analyse([image])[0]
    assert {d.label for d in only} == {one}

    few = Detector.load(spec(yolo_file, max_detections=2), 1).analyse([image])[0]
    assert few == every[:2]

    threshold = every[0].confidence - 1e-4
    sure = Detector.load(spec(yolo_file, confidence_threshold=threshold), 1).analyse([image])[0]
    assert len(sure) < len(every)


def test_a_class_that_the_model_does_not_know_is_named(yolo_file: Path) -> None:
    detector = Detector.load(spec(yolo_file, classes=("boss", "dragon")), 1)
    assert len(detector.notes) == 1
    assert "dragon" in detector.notes[0]
    assert "health_bar" in detector.notes[0]
    assert {d.label for d in detector.analyse([picture(1)])[0]} <= {"boss"}

    nothing = Detector.load(spec(yolo_file, classes=("dragon",)), 1)
    assert nothing.analyse([picture(1)]) == [()]
    assert "reports nothing" in nothing.notes[0]


class Trap:
    """A pickle that runs code when it is opened."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.witness, "ran"))


def test_a_booby_trapped_checkpoint_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for name, save in (("zip.pt", torch.save), ("raw.pt", _raw_pickle)):
        save({"model": Trap(witness), "train_args": {}}, tmp_path / name)
        with pytest.raises(ModelError, match="no YOLO checkpoint that can be opened safely"):
            Detector.load(spec(tmp_path / name), 1)
        assert not witness.exists()
    pickle.loads(pickle.dumps(Trap(witness)))
    assert witness.exists(), "the trap works where it is opened carelessly"


def _raw_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 broken"])
def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pt"):
        Detector.load(spec(path), 1)


def test_a_checkpoint_that_breaks_off_is_refused(tmp_path: Path, yolo_file: Path) -> None:
    path = tmp_path / "half.pt"
    path.write_bytes(yolo_file.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"half\.pt"):
        Detector.load(spec(path), 1)


def test_a_file_of_another_kind_is_refused(tmp_path: Path, yolo_file: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(yolo_file.read_bytes())
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Detector.load(spec(path), 1)


def test_only_the_pinned_file_is_opened(yolo_file: Path) -> None:
    right = hashlib.sha256(yolo_file.read_bytes()).hexdigest()
    Detector.load(spec(yolo_file, sha256=right), 1)
    with pytest.raises(ModelError, match="not the file it should be"):
        Detector.load(spec(yolo_file, sha256="0" * 64), 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        Detector.load(spec(tmp_path / "nowhere.pt"), 1)
