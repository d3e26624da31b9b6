"""YOLO in the worker: a checkpoint, opened safely, and frames in batches.

The steps are those of ``YOLO.predict`` (tests/vision/test_detector.py compares the boxes), without
what it does anew for each call: sources, callbacks, results as objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.model_files import FileRefused, check_hash
from bot.vision.reports import Detection
from bot.vision.worker.backends.residence import Residence
from bot.vision.worker.devices import CPU, Place, torch_is_ready
from bot.vision.worker.environment import (
    UnsafeSurroundings,
    importing,
    require_safe_loading,
    use_threads,
)
from bot.vision.worker.models import ModelError, size_of
from bot.vision.worker.protocol import YoloSpec

DEFAULT_IMAGE_SIZE = 640
MAX_IMAGE_SIZE = 2048


class Detector:
    """A YOLO model that finds the wanted classes."""

    def __init__(self, model: Any, spec: YoloSpec, image_size: int) -> None:
        self._model = model
        self._residence = Residence(model)
        self._spec = spec
        self._stride = max(32, int(model.stride.max()))
        self._image_size = -(-image_size // self._stride) * self._stride
        names = dict(model.names) if isinstance(model.names, dict) else dict(enumerate(model.names))
        self.names: dict[int, str] = {int(k): str(v) for k, v in names.items()}
        self._wanted = [i for i, name in self.names.items() if name in spec.classes]
        self._end_to_end = bool(getattr(model, "end2end", False))
        self.batch_size = spec.batch_size
        self.place = CPU
        self.notes = self._unknown_classes()

    @classmethod
    def load(cls, spec: YoloSpec, threads: int) -> Detector:
        """Open the checkpoint on the CPU.

        Raises:
            ModelError: the file is missing, is not the pinned one, or is no YOLO checkpoint.
        """
        path = Path(spec.path)
        if not path.is_file():
            raise ModelError(f"{spec.path} is missing", "check yolo.model_path")
        try:
            check_hash(path, spec.sha256)
        except FileRefused as error:
            raise ModelError(error.what, error.remedy) from error
        with importing():
            import torch  # noqa: F401 - first, so that its threads are ours
            import torchvision  # noqa: F401 - ultralytics uses its fast NMS only if it is there
            from ultralytics.nn.tasks import load_checkpoint

            use_threads(threads)
            torch_is_ready()
        try:
            require_safe_loading()
            model, checkpoint = load_checkpoint(str(path), device="cpu", fuse=True)
        except UnsafeSurroundings as error:
            raise ModelError(str(error), "install the versions that Danzar asks for") from error
        except Exception as error:  # a damaged file raises whatever its reader hit upon
            raise ModelError(
                f"{path.name} is no YOLO checkpoint that can be opened safely "
                f"({_first_line(error)})",
                "use an ultralytics .pt file",
            ) from error
        if getattr(model, "task", "detect") != "detect":
            raise ModelError(
                f"{path.name} is made for {model.task}, not for detection", "use a detection model"
            )
        trained = checkpoint.get("train_args", {}).get("imgsz", DEFAULT_IMAGE_SIZE)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if not isinstance(trained, int) or not 32 <= trained <= MAX_IMAGE_SIZE:
            trained = DEFAULT_IMAGE_SIZE
        size = spec.image_size or trained
        return cls(model, spec, size)

    @property
    def weights_bytes(self) -> int:
        return size_of(self._model)

    def move(self, place: Place) -> None:
        if place.on_card:
            self._residence.to_card(place.device, half=False)
        else:
            self._residence.for_cpu()
        self._forget_anchors()
        self.place = place

    def park(self) -> None:
        self._residence.to_host()
        self._forget_anchors()

    @property
    def backend(self) -> str:
        return "torch f32"

    def _forget_anchors(self) -> None:
        """Those of the last picture lie on the old device and are no weights."""
        self._model.model[-1].shape = None

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Detection, ...]]:
        """The wanted objects on each image; boxes in its pixels, surest first."""
        return [self._detections(boxes) for boxes in self.boxes(images)]

    def boxes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One array an image: rows of x1, y1, x2, y2, confidence, class."""
        import torch
        from ultralytics.utils import nms, ops

        if not self._wanted:
            return [np.zeros((0, 6), np.float32) for _ in images]
        with torch.inference_mode():
            tensor = self._prepare(images)
            kept: Any = nms.non_max_suppression(
                self._model(tensor),
                self._spec.confidence_threshold,
                self._spec.iou_threshold,
                classes=self._wanted,
                max_det=self._spec.max_detections,
                end2end=self._end_to_end,
            )
            results: list[np.ndarray] = []
            for image, rows in zip(images, kept, strict=True):
                scaled = rows.float().cpu()
                ops.scale_boxes(tensor.shape[2:], scaled[:, :4], image.shape[:2])
                results.append(scaled.numpy())
            return results

    def _prepare(self, images: Sequence[np.ndarray]) -> Any:
        import torch
        from ultralytics.data.augment import LetterBox

        same = len({image.shape for image in images}) == 1
        letterbox: Any = LetterBox(
            (self._image_size, self._image_size), auto=same, stride=self._stride
        )
        batch = np.stack([letterbox(image=image) for image in images])
        tensor = torch.from_numpy(batch).to(self.place.device)
        tensor = tensor.permute(0, 3, 1, 2).flip(1).contiguous()
        return tensor.float().div_(255)

    def _detections(self, boxes: np.ndarray) -> tuple[Detection, ...]:
        return tuple(
            Detection(self.names[int(kind)], confidence, (x1, y1, x2, y2))
            for x1, y1, x2, y2, confidence, kind in boxes.tolist()
        )

    def _unknown_classes(self) -> tuple[str, ...]:
        known = set(self.names.values())
        unknown = [name for name in self._spec.classes if name not in known]
        if not unknown:
            return ()
        has = ", ".join(sorted(known)[:20]) + (" ..." if len(known) > 20 else "")
        left = "the others are kept" if self._wanted else "so it reports nothing"
        return (
            f"the YOLO model knows no {', '.join(unknown)} (it knows {has}); {left}; "
            "change yolo.classes",
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
