"""Backends on the CPU: converted once, checked, kept, without torch and without telemetry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot.vision.worker.backends import cache, conversion
from bot.vision.worker.backends.agreement import boxes_differ, features_differ
from bot.vision.worker.backends.conversion import NoConversion, converted
from bot.vision.worker.backends.openvino import Network
from bot.vision.worker.detector import Detector
from bot.vision.worker.devices import CPU
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.phrases import Phrases
from bot.vision.worker.protocol import ClipSpec, Computing, YoloSpec
from tests.vision.conftest import CONCEPTS, LABELS
from tests.vision.test_detector import picture

QUESTIONS = ("a dragon flies over a lake", "a boss fight")


def yolo_spec(path: Path, **computing: Any) -> YoloSpec:
    return YoloSpec(
        path=str(path),
        classes=LABELS,
        confidence_threshold=0.2,
        iou_threshold=0.45,
        max_detections=50,
        batch_size=4,
        computing=Computing(**computing),
    )


def clip_spec(folder: Path, **computing: Any) -> ClipSpec:
    return ClipSpec(
        folder=str(folder),
        concepts=CONCEPTS,
        confidence_threshold=0.0,
        max_insights=10,
        batch_size=4,
        computing=Computing(**computing),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def warm(folder: Path, yolo_file: Path, clip_folder: Path) -> Path:
    """A cache in which both models lie."""
    said: list[str] = []
    yolo = Detector.load(yolo_spec(yolo_file, **auto(folder)), 1, CPU, said.append)
    clip = Labeller.load(clip_spec(clip_folder, **auto(folder)), 1, CPU, said.append)
    assert (yolo.notes, clip.notes) == ((), ())
    assert said == ["converting for OpenVINO, once"] * 2
    return folder


def auto(folder: Path) -> dict[str, Any]:
    return {"backend": "auto", "cache_folder": str(folder), "precision": "f32"}


def at_work(model: Any) -> Any:
    model.move(CPU)
    return model


@pytest.mark.parametrize("sizes", [[(640, 360)], [(640, 360)] * 3, [(300, 400), (640, 360)]])
def test_openvinos_boxes_are_those_of_torch(
    warm: Path, yolo_file: Path, sizes: list[tuple[int, int]]
) -> None:
    images = [picture(seed, size) for seed, size in enumerate(sizes)]
    theirs = at_work(Detector.load(yolo_spec(yolo_file), 1))
    ours = at_work(Detector.load(yolo_spec(yolo_file, **auto(warm)), 1))
    assert (theirs.backend, ours.backend) == ("torch f32", "OpenVINO f32")
    assert ours.weights_bytes == theirs.weights_bytes
    # OpenVINO computes one by one: an image's boxes don't depend on the shape of another one.
    expected = [theirs.boxes([image])[0] for image in images]
    assert sum(map(len, expected)) > 0
    for mine, reference in zip(ours.boxes(images), expected, strict=True):
        np.testing.assert_allclose(mine, reference, atol=0.05)


def test_openvinos_phrases_and_features_are_those_of_torch(warm: Path, clip_folder: Path) -> None:
    images = [picture(seed) for seed in (7, 8, 9, 10)]
    theirs = at_work(Labeller.load(clip_spec(clip_folder), 1))
    ours = at_work(Labeller.load(clip_spec(clip_folder, **auto(warm)), 1))
    assert ours.backend == "OpenVINO f32"
    cosine = (theirs.features(images) * ours.features(images)).sum(axis=1)
    assert cosine.min() >= 0.999
    np.testing.assert_allclose(ours.probabilities(images), theirs.probabilities(images), atol=0.01)
    np.testing.assert_allclose(
        ours.log_odds(images[0], QUESTIONS, CONCEPTS),
        theirs.log_odds(images[0], QUESTIONS, CONCEPTS),
        atol=0.05,
    )


WITHOUT_TORCH = """
import json, sys
from bot.vision.worker import environment
import os
environment.prepare(os.environ, 1)
from bot.vision.worker.detector import Detector
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.devices import CPU
from bot.vision.worker.protocol import ClipSpec, YoloSpec
import numpy as np
frame = np.random.default_rng(1).integers(0, 255, (360, 640, 3), np.uint8)
yolo = Detector.load(YoloSpec.model_validate_json(sys.argv[1]), 1)
clip = Labeller.load(ClipSpec.model_validate_json(sys.argv[2]), 1)
for model in (yolo, clip):
    model.move(CPU)
    model.analyse([frame])
clip.log_odds(frame, ("something never asked before",), ("a game",))
loaded = [name for name, module in sys.modules.items() if module is not None]
print(json.dumps(loaded))
"""


def test_a_warm_start_needs_no_torch_and_openvino_comes_without_its_telemetry(
    warm: Path, yolo_file: Path, clip_folder: Path
) -> None:
    specs = (yolo_spec(yolo_file, **auto(warm)), clip_spec(clip_folder, **auto(warm)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *(s.model_dump_json() for s in specs)],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "openvino" in loaded
    assert loaded.isdisjoint({"torch", "ultralytics", "open_clip", "openvino_telemetry"})


def test_a_second_start_converts_nothing(
    warm: Path, yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("it was there"))
    assert Detector.load(yolo_spec(yolo_file, **auto(warm)), 1).notes == ()


def test_a_damaged_conversion_is_made_anew(
    warm: Path, tmp_path: Path, yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(warm, copy)
    (network,) = copy.glob("yolo-*/yolo.bin")
    network.write_bytes(network.read_bytes()[:-1] + b"?")
    made: list[str] = []

    def convert(kind: str, path: Path, place: Path, *_: object) -> None:
        made.append(kind)
        shutil.rmtree(place)
        (good,) = warm.glob("yolo-*")
        shutil.copytree(good, place)

    monkeypatch.setattr(conversion, "_convert", convert)
    detector = at_work(Detector.load(yolo_spec(yolo_file, **auto(copy)), 1))
    assert made == ["yolo"]
    assert detector.backend == "OpenVINO f32"


def test_without_openvino_torch_computes_and_says_why(
    tmp_path: Path, yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    detector = at_work(Detector.load(yolo_spec(yolo_file, **auto(tmp_path)), 1))
    assert detector.backend == "torch f32"
    assert detector.notes == (
        "YOLO computes with torch on the CPU, not OpenVINO: openvino is not installed",
    )
    assert detector.analyse([picture(4)])[0]


@pytest.mark.parametrize("kind", ["yolo", "clip"])
def test_where_a_network_can_not_be_compiled_torch_takes_over_at_once_and_says_why(
    warm: Path, yolo_file: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tries: list[int] = []

    def fails(*_: object) -> Any:
        tries.append(1)
        raise RuntimeError("Can not allocate 90 bytes")

    monkeypatch.setattr(Network, "_compiled", fails)
    model: Any
    if kind == "yolo":
        model = Detector.load(yolo_spec(yolo_file, **auto(warm)), 1)
    else:
        model = Labeller.load(clip_spec(clip_folder, **auto(warm)), 1)
    for _ in range(2):
        model.park()
        assert at_work(model).backend == "torch f32"
        assert model.analyse([picture(4)])[0]
    [note] = model.notes
    assert "with torch on the CPU, not OpenVINO: its network can't be used (RuntimeError" in note
    assert "Can not allocate 90 bytes" in note
    assert tries == [1]


def test_a_conversion_that_fails_is_tried_once_and_its_reason_kept(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []

    def fails(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        runs.append(1)
        return subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: a cosine of 0.9")

    monkeypatch.setattr(subprocess, "run", fails)
    for _ in range(2):
        labeller = Labeller.load(clip_spec(clip_folder, **auto(tmp_path)), 1)
        (note,) = labeller.notes
        assert "ValueError: a cosine of 0.9" in note
        assert at_work(labeller).backend == "torch f32"
    assert runs == [1]


def test_a_folder_that_can_not_be_written_is_no_end(tmp_path: Path, yolo_file: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NoConversion, match="can't be started"):
        converted("yolo", yolo_file, "0" * 64, tmp_path / "file" / "cache", 1)


def test_old_conversions_go_and_half_made_ones_never_count(tmp_path: Path) -> None:
    for number in range(cache.MOST_FOLDERS + 3):
        with cache.being_made(tmp_path / f"yolo-{number}") as made:
            (made / "yolo.xml").write_text("x")
            cache.describe(made, precision="f32", facts={}, note="")
    assert len(list(tmp_path.iterdir())) == cache.MOST_FOLDERS
    with pytest.raises(ValueError, match="broke"), cache.being_made(tmp_path / "half") as made:
        (made / "yolo.xml").write_text("x")
        raise ValueError("it broke")
    assert len(list(tmp_path.iterdir())) == cache.MOST_FOLDERS
    assert cache.opened(tmp_path / "half") is None


BOX = (10.0, 10.0, 110.0, 60.0, 0.9, 1.0)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ([BOX], ""),
        ([(10.5, 10.5, 110.5, 60.5, 0.85, 1.0)], ""),
        ([(13.0, 13.0, 113.0, 63.0, 0.9, 1.0)], "overlap"),
        ([(*BOX[:5], 2.0)], "overlap"),
        ([], "overlap"),
        ([BOX, (200.0, 200.0, 300.0, 300.0, 0.8, 1.0)], "overlap"),
        ([BOX, (200.0, 200.0, 300.0, 300.0, 0.255, 1.0)], ""),
    ],
    ids=["same", "near", "off", "other class", "missed", "made up", "at the threshold"],
)
def test_boxes_have_to_agree_both_ways(other: Sequence[tuple[float, ...]], why: str) -> None:
    def rows(boxes: Sequence[tuple[float, ...]]) -> Any:
        return lambda picture, confidence: np.array(boxes, np.float32).reshape(-1, 6)

    words = boxes_differ(rows([BOX]), rows(other), [np.zeros((9, 9, 3), np.uint8)])
    assert (why in words) if why else not words


def test_features_have_to_agree() -> None:
    one = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert features_differ(one, one * 3) == ""
    assert "cosine" in features_differ(one, one + 0.1)
    assert "cosine" in features_differ(one, one * np.nan)


def test_phrases_are_kept_on_disk_without_their_words(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def compute(phrases: Sequence[str]) -> np.ndarray:
        asked.append(tuple(phrases))
        return np.array([[len(phrase), 1.0] for phrase in phrases])

    file = tmp_path / "phrases"
    first = Phrases(file).embedded(("secret words", "b"), compute)
    again = Phrases(file).embedded(("b", "ccc", "secret words"), compute)
    assert asked == [("secret words", "b"), ("ccc",)]
    assert first.tolist() == [[12, 1], [1, 1]]
    assert again.tolist() == [[1, 1], [3, 1], [12, 1]]
    (kept,) = tmp_path.iterdir()
    assert b"secret" not in kept.read_bytes()
    kept.write_bytes(kept.read_bytes()[:100])
    assert Phrases(file).embedded(("b",), compute).tolist() == [[1, 1]]
