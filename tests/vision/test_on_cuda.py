"""What a card computes, checked without one: torch's fake tensors know devices, not values.

Every step runs as on ``cuda:0``. A constant that was left in host memory fails, as does what asks
the card for a value: neither can be part of a CUDA graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bot.vision.worker.backends import residence, torch_model
from bot.vision.worker.backends.torch_clip import TorchClip
from bot.vision.worker.backends.torch_model import TorchModel
from bot.vision.worker.backends.torch_yolo import ROWS_FROM_CARD, TorchYolo
from bot.vision.worker.boxes import fits

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA")
CARD = "cuda:0"
FRAMES = ((1, 1080, 1920), (4, 1080, 1920), (2, 720, 1280), (1, 640, 480))
SHIPPED = Path(__file__).parents[2] / "models"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Real tensors among the fake ones are refused: those that nobody sent to the card."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    monkeypatch.setattr(residence, "pinned", lambda tensor, device: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch_model, "on", lambda device: contextlib.nullcontext())
    return mode


class HostMemory(TorchDispatchMode):
    """Notes the operations that touch host memory: a graph that is captured may not."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        tensors = [t for t in tree_leaves((args, given, result)) if isinstance(t, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.touched.append(str(func))
        return result


def known_by_shape(tensor: Any, fake: FakeTensorMode) -> Any:
    with fake:
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def computes_on_a_card(model: TorchModel, fake: FakeTensorMode, *, half: bool) -> list[Any]:
    """What it says of frames of several sizes, and that the second run could be captured."""
    model._residence._replace(lambda tensor: known_by_shape(tensor, fake))  # pyright: ignore
    model._half = half  # pyright: ignore[reportPrivateUsage]
    with fake:
        model._arrive(CARD, half=half)  # pyright: ignore[reportPrivateUsage]
    said: list[Any] = []
    for count, height, width in FRAMES:
        with fake, torch.inference_mode():
            frames = torch.empty((count, height, width, 3), dtype=torch.uint8, device=CARD)
            compute: Callable[[Any], Any] = model._on_card  # type: ignore[attr-defined]
            if isinstance(model, TorchYolo):
                images = [np.zeros((height, width, 3), np.uint8)] * count
                laid = fits(images, model.image_size, model.facts["stride"])

                def compute(given: Any, place: Any = laid[0]) -> Any:
                    return model._on_card(given, place)  # type: ignore[attr-defined]

            first = compute(frames)
            with HostMemory() as host:
                second = compute(frames)
        assert host.touched == []
        assert first.shape == second.shape
        assert (first.device, first.dtype) == (torch.device(CARD), torch.float32)
        assert len(first) == count
        said.append(first)
    return said


END_TO_END = {"yolov10n", "yolo26n"}


def random_yolo(name: str) -> TorchYolo:
    """An architecture of ultralytics with random weights, as ``TorchYolo.open`` has it."""
    from ultralytics.nn.tasks import DetectionModel

    module: Any = DetectionModel(f"{name}.yaml", nc=80, verbose=False).eval()
    module.end2end = name in END_TO_END
    module.fuse(verbose=False)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    facts = {
        "names": {str(n): str(n) for n in range(80)},
        "stride": 32,
        "image_size": 640,
        "end_to_end": bool(getattr(module, "end2end", False)),
    }
    return TorchYolo(module, facts, 1, graphs=True)


@pytest.mark.parametrize("half", [True, False])
def test_the_shipped_detector_computes_on_a_card(fake: FakeTensorMode, half: bool) -> None:
    yolo = TorchYolo.open(SHIPPED / "yolo-nano.pt", 1)
    for rows in computes_on_a_card(yolo, fake, half=half):
        assert rows.shape[1:] == (ROWS_FROM_CARD, 6)
    assert yolo.backend == f"torch {'f16' if half else 'f32'}, CUDA graphs"
    with fake:
        yolo.leave()
    assert {t.device.type for t in yolo.module.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", ["yolov8n", "yolo12n", "yolov10n", "yolo26n"])
def test_other_detectors_do_too(fake: FakeTensorMode, name: str) -> None:
    yolo = random_yolo(name)
    assert yolo.facts["end_to_end"] == (name in END_TO_END)
    for rows in computes_on_a_card(yolo, fake, half=True):
        assert rows.shape[1:] == (300 if name in END_TO_END else ROWS_FROM_CARD, 6)
    assert yolo.notes == ()


@pytest.mark.parametrize("half", [True, False])
def test_the_shipped_labeller_computes_on_a_card(fake: FakeTensorMode, half: bool) -> None:
    clip = TorchClip.open(SHIPPED / "clip-tiny", 1)
    computes_on_a_card(clip, fake, half=half)
    with fake, torch.inference_mode(), clip._residence.whole(CARD):  # pyright: ignore
        text = clip._encoded(["a boss", "a menu"])  # pyright: ignore[reportPrivateUsage]
    assert (text.device, text.dtype, len(text)) == (torch.device(CARD), torch.float32, 2)


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_other_labellers_do_too(fake: FakeTensorMode, name: str) -> None:
    import open_clip

    with torch.device("meta"):  # its values are of no use, and making them takes seconds
        module: Any = open_clip.create_model(name, device="meta").eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    size = module.visual.image_size
    picture = {"size": size, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    facts = {"preprocess": picture, "scale": 100.0, "context_length": 77}
    clip = TorchClip(module, None, facts, 1, graphs=True)
    computes_on_a_card(clip, fake, half=True)
    # What encodes phrases waits in host memory.
    devices = {
        key.startswith("visual."): tensor.device.type for key, tensor in module.state_dict().items()
    }
    assert devices == {True: "cuda", False: "cpu"}
