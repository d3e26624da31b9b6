"""Model files that mean harm: they don't run, don't unpack without end, and fetch nothing."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.vision.model_files import FileRefused, check_checkpoint
from bot.vision.worker.detector import Detector
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import ClipSpec, YoloSpec
from tests.vision.conftest import make_clip


def yolo(path: Path) -> YoloSpec:
    return YoloSpec(
        path=str(path),
        classes=("boss",),
        confidence_threshold=0.5,
        iou_threshold=0.5,
        max_detections=10,
        batch_size=1,
    )


class Gadget:
    """A pickle that calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *values: object) -> None:
        self.reduced = (function, values)

    def __reduce__(self) -> Any:
        return self.reduced


def gadgets(witness: Path) -> dict[str, Gadget]:
    """One of each kind; each would make the witness."""
    write = f"open({str(witness)!r}, 'w').close()"
    script = witness.with_suffix(".py")
    script.write_text(write)
    inner = witness.with_suffix(".inner")
    inner.write_bytes(pickle.dumps(Gadget(exec, write)))
    return {
        "os.system": Gadget(os.system, f"echo ran> {witness}"),
        "subprocess": Gadget(subprocess.check_call, [sys.executable, "-c", write]),
        "exec": Gadget(builtins.exec, write),
        "eval": Gadget(builtins.eval, write),
        "runpy": Gadget(runpy.run_path, str(script)),
        "path": Gadget(Path.write_text, witness, "ran"),
        "copy": Gadget(shutil.copy, str(script), str(witness)),
        "nested pickle": Gadget(pickle.loads, inner.read_bytes()),
        "getattr": Gadget(getattr, Gadget(importlib.import_module, "antigravity_of_danzar"), "x"),
    }


NAMES = (
    *("copy", "eval", "exec", "getattr", "nested pickle", "os.system", "path"),
    *("runpy", "subprocess"),
)


def test_every_gadget_is_tried(tmp_path: Path) -> None:
    assert sorted(gadgets(tmp_path / "witness")) == sorted(NAMES)


def checkpoint_with(thing: object, place: str) -> dict[str, object]:
    if place == "model":
        return {"model": thing, "train_args": {}}
    if place == "arguments":
        return {"model": None, "ema": None, "train_args": {"imgsz": thing}}
    layer = torch.nn.Conv2d(1, 1, 1)
    # In the state of a class that may be opened.
    layer.__dict__["_forward_hooks"] = {0: thing}
    return {"model": layer, "train_args": {}}


@pytest.mark.parametrize("place", ["model", "arguments", "inside an allowed layer"])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_runs_nothing(tmp_path: Path, name: str, place: str) -> None:
    witness = tmp_path / "witness"
    gadget = gadgets(witness)[name]
    path = tmp_path / "trap.pt"
    torch.save(checkpoint_with(gadget, place), path)
    with pytest.raises(ModelError, match="no YOLO checkpoint that can be opened safely"):
        Detector.load(yolo(path), 1)
    assert not witness.exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("getattr", "subprocess")])
def test_the_traps_work_where_they_are_opened_carelessly(tmp_path: Path, name: str) -> None:
    witness = tmp_path / "witness"
    data = pickle.dumps(gadgets(witness)[name])
    pickle.loads(data)
    assert witness.exists()


def test_older_kinds_of_checkpoint_are_not_opened_at_all(tmp_path: Path) -> None:
    bare, older = tmp_path / "bare.pt", tmp_path / "older.pt"
    bare.write_bytes(pickle.dumps({"model": None}))
    torch.save({"model": None}, older, _use_new_zipfile_serialization=False)
    for path in (bare, older):
        with pytest.raises(FileRefused, match="is no checkpoint"):
            check_checkpoint(path)
        with pytest.raises(ModelError, match="opened safely"):
            Detector.load(yolo(path), 1)


def test_what_would_unpack_to_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({"model": None}))
        archive.writestr("bomb/data/0", bytes(64 << 20))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(FileRefused, match=r"would unpack to 671\d{5}: no checkpoint does"):
        check_checkpoint(bomb)
    with pytest.raises(ModelError, match="would unpack to"):
        Detector.load(yolo(bomb), 1)


def test_a_size_that_lies_is_refused(tmp_path: Path, yolo_file: Path) -> None:
    check_checkpoint(yolo_file)
    liar = tmp_path / "liar.pt"
    with zipfile.ZipFile(liar, "w") as archive:
        archive.writestr("liar/data.pkl", b"1234")
    data = bytearray(liar.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (3 << 30).to_bytes(4, "little")
    liar.write_bytes(data)
    with pytest.raises(FileRefused, match="would unpack to 3221225472"):
        check_checkpoint(liar)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs Unix")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe, endless, elsewhere = (tmp_path / f"{n}.pt" for n in ("pipe", "endless", "elsewhere"))
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    secret = tmp_path / "secret"
    secret.write_text("token-of-somebody")
    elsewhere.symlink_to(secret)
    for path, words in ((pipe, "missing"), (endless, "missing"), (elsewhere, "opened safely")):
        with pytest.raises(ModelError, match=words) as caught:
            Detector.load(yolo(path), 1)
        assert "token-of-somebody" not in str(caught.value)


def test_a_checkpoint_installs_and_fetches_nothing(
    tmp_path: Path, yolo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    def started_one(event: str, values: tuple[object, ...]) -> None:
        if watching and event in ("subprocess.Popen", "os.system", "socket.getaddrinfo"):
            started.append((event, values))

    watching = True
    sys.addaudithook(started_one)
    try:
        content = torch.load(yolo_file, weights_only=False)
        path = tmp_path / "quantized.pt"
        # ultralytics would install what reads this.
        torch.save({**content, "modelopt": {"modelopt": {}, "ranges": {}}}, path)
        with pytest.raises(ModelError):
            Detector.load(yolo(path), 1)
        # A damaged file with the name of a published model, which ultralytics would fetch anew.
        monkeypatch.chdir(tmp_path)
        Path("yolov8n.pt").write_bytes(b"damaged")
        with pytest.raises(ModelError):
            Detector.load(yolo(Path("yolov8n.pt")), 1)
    finally:
        watching = False
    assert started == []


def clip(folder: Path) -> ClipSpec:
    return ClipSpec(
        folder=str(folder),
        concepts=("a boss", "a menu"),
        confidence_threshold=0,
        max_insights=2,
        batch_size=1,
    )


def test_a_clip_folder_without_safetensors_is_not_opened(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    witness = tmp_path / "witness"
    for name in ("open_clip_pytorch_model.bin", "pytorch_model.bin", "open_clip_model.pt"):
        torch.save(Gadget(Path.write_text, witness, "ran"), folder / name)
    with pytest.raises(ModelError, match="is missing"):
        Labeller.load(clip(folder), 1)
    # The right name, but a pickle within.
    shutil.copy(folder / "pytorch_model.bin", folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError):
        Labeller.load(clip(folder), 1)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        ("text_cfg", {"hf_tokenizer_name": "somebody/tokenizer"}),
        ("text_cfg", {"hf_model_name": "somebody/model", "hf_tokenizer_name": "somebody/model"}),
        ("vision_cfg", {"timm_model_name": "hf-hub:somebody/model", "timm_model_pretrained": True}),
    ],
    ids=["tokenizer", "text", "vision"],
)
def test_a_clip_configuration_that_names_something_elsewhere_fetches_nothing(
    tmp_path: Path, tower: str, changes: dict[str, object]
) -> None:
    folder = make_clip(tmp_path / "clip")
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][tower].update(changes)
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError):
        Labeller.load(clip(folder), 1)
